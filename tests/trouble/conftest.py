"""One source and one Prefect server for all the scenarios here; a worker lives until one of them ends it.

To start one takes three CPU seconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tasks.life import unfinished
from tests.servers.postgres import Source, running_source
from tests.trouble.plant import Plant, running_plant

UNSCHEDULED = "\n".join(
    f'schedules.{name} = "off"'
    for name in ("base_backup", "incremental", "wal_gap_check", "restore_validation", "retention_pruning")
)
# a run is soon scheduled and soon found late
SOON = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "2",
}


@pytest.fixture(scope="package")
def site() -> Iterator[tuple[Source, Plant]]:
    """A source and its server, where nothing is scheduled but what a test schedules."""
    with running_source(17) as source:
        source.sql(
            "CREATE TABLE orders AS SELECT g AS id, repeat('x', 50) AS text FROM generate_series(1, 1000) g"
        )
        source.archive_now()
        source.write_config(cluster=UNSCHEDULED)
        with running_plant(source, **SOON) as plant:
            yield source, plant


@pytest.fixture(scope="module")
def shop(site: tuple[Source, Plant]) -> Source:
    """The source, without the backups of another module."""
    source, plant = site
    with plant.client() as client:
        if unfinished(client):  # of a test that failed
            plant.end_workers()
    layout = source.archive.layout
    for kind in (layout.backups, layout.proofs, layout.fences):
        shutil.rmtree(source.repository_path / kind, ignore_errors=True)
    return source


@pytest.fixture(scope="module")
def works(shop: Source, site: tuple[Source, Plant]) -> Plant:
    return site[1]


@pytest.fixture
def unserved(works: Plant) -> Plant:
    """The server, without a worker."""
    works.end_workers()
    return works


@pytest.fixture
def plant(works: Plant, shop: Source) -> Plant:
    """The server, with a worker."""
    shop.write_config()
    if not works.workers:
        works.start_worker()
    return works
