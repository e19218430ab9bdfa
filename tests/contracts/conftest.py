"""A fresh, empty store of every kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.config import RepositoryConfig
from pgproof.repository.opening import open_store
from pgproof.repository.store import Store
from tests.servers.s3 import S3Server


@pytest.fixture
def s3_store(seaweedfs: S3Server) -> Store:
    config = seaweedfs.repository("contracts", f"run-{uuid.uuid4()}/below")
    return open_store(config, seaweedfs.credentials)


@pytest.fixture
def posix_store(tmp_path: Path) -> Store:
    return open_store(RepositoryConfig(url=f"file://{tmp_path}/repository"))


@pytest.fixture
def memory_store() -> Iterator[Store]:
    """Emptied afterwards, as it lives as long as the process."""
    store = open_store(RepositoryConfig(url=f"memory://{uuid.uuid4()}"))
    yield store
    for found in list(store.list("")):
        store.delete(found.key)


@pytest.fixture(params=["posix", "memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store; the test runs once with each kind."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found
