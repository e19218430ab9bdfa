"""One fleet of three and one Prefect server for the scenarios of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.life import unfinished
from tests.servers.fleet import Fleet, running_fleet
from tests.trouble.plant import Plant, running_plant


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet("one", "two", "three") as made:
        yield made


@pytest.fixture(scope="module")
def works(fleet: Fleet) -> Iterator[Plant]:
    with running_plant(fleet) as made:
        yield made


@pytest.fixture
def plant(works: Plant, fleet: Fleet) -> Iterator[Plant]:
    """The server, with the workers that the tests before left."""
    fleet.write_config()
    yield works
    with works.client() as client:
        if unfinished(client):  # of a test that failed
            works.end_workers()


@pytest.fixture
def alone(plant: Plant) -> Iterator[None]:
    """No worker, and none afterwards."""
    plant.end_workers()
    yield
    plant.end_workers()


@pytest.fixture
def served(plant: Plant) -> None:
    """A worker that has two runs at once; to start one takes three CPU seconds."""
    if not plant.workers:
        plant.start_worker("--limit", "2")
