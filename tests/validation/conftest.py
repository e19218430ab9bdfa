"""A drilled source: one with a backup, whose tables the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.postgres import Source, running_source


@pytest.fixture(scope="module")
def shared() -> Iterator[Source]:
    """A source of PostgreSQL 17 with one backup; the tests of a module must not disturb each other."""
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        source.backup()
        yield source
