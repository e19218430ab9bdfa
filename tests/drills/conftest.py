"""A shop: one source with one backup and some WAL after it, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drills.damage import tree
from tests.drills.shop import Shop
from tests.servers.postgres import running_source


@pytest.fixture(scope="module")
def shared() -> Iterator[Shop]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        record = source.backup()
        source.sql("SELECT pg_create_restore_point('before the mistake')")
        commit = source.sql("SELECT clock_timestamp()")[0][0]
        source.sql("INSERT INTO t VALUES (0)")
        yield Shop(source, record, source.archive_now(), commit)


@pytest.fixture
def shop(shared: Shop) -> Iterator[Shop]:
    shared.source.write_config()
    before = tree(shared.source.repository_path)
    yield shared
    assert tree(shared.source.repository_path) == before
    assert not (shared.source.root / "restored").exists()
    shared.source.write_config()
