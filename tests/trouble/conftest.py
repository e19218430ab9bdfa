"""One source and one Prefect server for the scenarios of a module; each brings its own worker."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.servers.postgres import Source, running_source
from tests.trouble.plant import Plant, running_plant


@pytest.fixture(scope="module")
def shop() -> Iterator[Source]:
    with running_source(17) as source:
        source.sql(
            "CREATE TABLE orders AS SELECT g AS id, repeat('x', 50) AS text FROM generate_series(1, 1000) g"
        )
        source.archive_now()
        yield source


@pytest.fixture(scope="module")
def works(shop: Source) -> Iterator[Plant]:
    with running_plant(shop) as plant:
        yield plant


@pytest.fixture
def plant(works: Plant, shop: Source) -> Iterator[Plant]:
    """The server, with a worker."""
    shop.write_config()
    works.start_worker()
    yield works
    while works.workers:
        works.end_worker(signal.SIGTERM)
