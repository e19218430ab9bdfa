"""One fleet of three and one Prefect server for the scenarios of a module; each brings its own workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
    """The server, without a worker."""
    fleet.write_config()
    yield works
    works.end_workers()
