"""A repository on each kind of store that needs no server; the one that does has tests/contracts/."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from pgproof.config import RepositoryConfig
from pgproof.repository.opening import open_store
from pgproof.repository.repository import Archive, create_repository
from pgproof.repository.store import Store

SYSTEM = 7412345678901234567


@pytest.fixture(params=["posix", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a place where there is no repository yet."""
    return f"file://{tmp_path}/repository" if request.param == "posix" else f"memory://{uuid.uuid4()}"


@pytest.fixture
def store(url: str) -> Store:
    return open_store(RepositoryConfig(url=url))


@pytest.fixture(scope="session")
def identity() -> str:
    """An age identity."""
    return str(pyrage.x25519.Identity.generate())


def recipient_of(identity: str) -> str:
    return str(pyrage.x25519.Identity.from_str(identity).to_public())


@pytest.fixture
def make_archive(url: str, identity: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Archive]:
    """Make an archive, encrypted or not."""

    def make(encrypted: bool) -> Archive:
        monkeypatch.setenv("PGPROOF_TEST_IDENTITY", identity)
        recipients = (recipient_of(identity),) if encrypted else ()
        config = RepositoryConfig(
            url=url,
            age_recipients=recipients,
            age_identity="env:PGPROOF_TEST_IDENTITY" if encrypted else None,
        )
        return create_repository(config).archive("shop", SYSTEM)

    return make
