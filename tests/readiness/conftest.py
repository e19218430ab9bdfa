"""Sites: servers of each version with what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.readiness.sites import MAJORS, Site

MakeSite = Callable[..., Site]


@pytest.fixture(params=MAJORS)
def major(request: pytest.FixtureRequest) -> int:
    """The version of a test that runs on each."""
    return int(request.param)


@pytest.fixture
def make_site() -> Iterator[MakeSite]:
    """Makes started sites: ``make_site(17, settings=..., hba=...)``."""
    with ExitStack() as stack:
        yield lambda major, **options: stack.enter_context(Site.make(major, **options))


@pytest.fixture(scope="session")
def ready_sites() -> Iterator[Callable[[int], Site]]:
    """A site of a version where nothing is stopped; whoever breaks something mends it."""
    with ExitStack() as stack:
        made: dict[int, Site] = {}

        def ready(major: int) -> Site:
            if major not in made:
                site = stack.enter_context(Site.make(major))
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
