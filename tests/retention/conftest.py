"""Stores for the retention tests: the posix store and the memory store, both real."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pgproof.repository.objects import ObjectStore
from pgproof.repository.posix import PosixStore
from pgproof.repository.store import Store


@pytest.fixture(params=["posix", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "posix":
        return PosixStore(tmp_path / "repository")
    return ObjectStore(MemoryStore(), "memory://retention")
