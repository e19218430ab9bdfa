"""Sources whose WAL is archived, and such whose WAL is not; a spool beside a data directory; an age identity."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MAJORS
from tests.repository.conftest import identity
from tests.servers.postgres import Source, installed, running_source
from tests.wal.receiving import unarchived_source
from tests.wal.spooled import Spooled, make_spooled, processes

__all__ = ["identity"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Source]:
    """A source with a backup and WAL after it, for the tests of a module."""
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        source.archive_now()
        yield source


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def any_unarchived(request: pytest.FixtureRequest) -> Iterator[Source]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with unarchived_source(request.param) as source:
        yield source


@pytest.fixture
def unarchived() -> Iterator[Source]:
    with unarchived_source() as source:
        yield source


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Spooled]:
    """Its background processes end with the test."""
    made = make_spooled(tmp_path)
    yield made
    for process in processes(tmp_path):
        os.kill(process, signal.SIGKILL)
