"""Fixtures of the flows: one source a module, and no waiting between tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.backups.catalog import read_catalog
from tests.servers.postgres import Source, running_source

TABLES = """
CREATE TABLE orders (id int PRIMARY KEY, amount numeric);
INSERT INTO orders SELECT g, g * 1.5 FROM generate_series(1, 1000) g;
CREATE TABLE customers AS SELECT g AS id, 'customer ' || g AS name FROM generate_series(1, 200) g;
CREATE UNLOGGED TABLE cache AS SELECT 1 AS a;
"""


@pytest.fixture(scope="module")
def shop(prefect: Path) -> Iterator[Source]:
    """A source with some tables, for the tests of one module."""
    with running_source(17, summarize_wal="on") as source:
        source.sql(TABLES)
        source.archive_now()  # the repository knows the cluster
        yield source


@pytest.fixture
def config(shop: Source) -> str:
    """The path of a fresh pgproof.toml."""
    shop.write_config()
    return str(shop.config_path)


@pytest.fixture
def lost(shop: Source, tmp_path: Path) -> Iterator[str]:
    """The name of a segment behind every backup that is not in the archive, while a newer one is."""
    if not read_catalog(shop.archive).entries:
        shop.backup()
    name = read_catalog(shop.archive).newest.record.last_segment.next().name
    while shop.archive_now() <= name:
        pass
    path = shop.stored(name)
    kept = path.rename(tmp_path / path.name)
    (shop.data / "pg_wal" / name).unlink(missing_ok=True)
    yield name
    kept.rename(path)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once; how often and after which error stays as it is."""
    from tasks import base_backup, restore, retention, validation, wal

    for module in (base_backup, restore, retention, validation, wal):
        for task in vars(module).values():
            if getattr(task, "retries", 0):
                monkeypatch.setattr(task, "retry_delay_seconds", 0)
