"""An age identity, as tests/repository/ has it."""

from __future__ import annotations

from tests.repository.conftest import identity

__all__ = ["identity"]
