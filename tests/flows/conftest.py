"""Fixtures of the flows: one source a module, and no waiting between tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once; how often and after which error stays as it is."""
    from tasks import base_backup, restore, retention, validation, wal

    for module in (base_backup, restore, retention, validation, wal):
        for task in vars(module).values():
            if getattr(task, "retries", 0):
                monkeypatch.setattr(task, "retry_delay_seconds", 0)
