"""One data directory of each version for the session, and sites made from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.readiness.sites import MAJORS, Site, make_template
from tests.servers.place import make_directory

MakeSite = Callable[..., Site]


@pytest.fixture(scope="session")
def templates() -> Iterator[dict[int, Path]]:
    root = make_directory()
    with ThreadPoolExecutor() as pool:
        yield dict(zip(MAJORS, pool.map(lambda major: make_template(major, root), MAJORS), strict=True))
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=MAJORS)
def major(request: pytest.FixtureRequest) -> int:
    """The version of a test that runs on each."""
    return int(request.param)


@pytest.fixture
def make_site(templates: dict[int, Path]) -> Iterator[MakeSite]:
    """Makes started sites: ``make_site(17, settings=..., hba=...)``."""
    with ExitStack() as stack:
        yield lambda major, **options: stack.enter_context(Site.copy(templates[major], major, **options))


@pytest.fixture(scope="session")
def ready_sites(templates: dict[int, Path]) -> Iterator[Callable[[int], Site]]:
    """A site of a version where nothing is stopped; whoever breaks something mends it."""
    with ExitStack() as stack:
        made: dict[int, Site] = {}

        def ready(major: int) -> Site:
            if major not in made:
                site = stack.enter_context(Site.copy(templates[major], major))
                site.init(admin_dsn=site.admin, apply=True)
                site.restart()
                site.switch()
                made[major] = site
            return made[major]

        yield ready


@pytest.fixture
def ready(ready_sites: Callable[[int], Site], major: int) -> Site:
    """The ready site of the test's version."""
    return ready_sites(major)
