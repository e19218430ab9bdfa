"""A source whose WAL is archived, and an age identity, as tests/wal/ has them."""

from __future__ import annotations

from tests.wal.conftest import identity, shared

__all__ = ["identity", "shared"]
