"""Drills of a source that never stops: every one exact, every table equal."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import Drill, drill, fence_of, sessions
from tests.validation.writers import TABLES, Load, repeated, writers


def soak(source: Source, drills: int, load: Load) -> list[Drill]:
    found = []
    for number in range(drills):
        if number % 3 == 0:
            source.backup()
        with load.at_full_speed():
            fence = fence_of(source)
        found.append(drill(source, fence))
        assert found[-1].proof.proven, found[-1].proof.summary
        assert found[-1].equal == {"accounts", "history", "queue"}
        assert not found[-1].not_checked
    _report(source, found, load)
    return found


def _report(source: Source, found: list[Drill], load: Load) -> None:
    tried = sum(one.fence.candidates for one in found)
    exact = sum(one.fence.exact_candidates for one in found)
    held = max(one.fence.held_seconds for one in found)
    print(
        f"PostgreSQL {source.major}: {len(found)} drills at {load.rate:.0f} transactions/s: "
        f"{exact} of {tried} candidates exact ({exact / tried:.0%}), snapshots held up to {held:.2f} s"
    )


@pytest.mark.parametrize("major", [15, 17, 18], ids=lambda major: f"pg{major}")
def test_busy(major: int) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major, segment_size=16, max_prepared_transactions="20") as source:
        source.sql(TABLES)
        with writers(source, 10, prepare=True) as load:
            found = soak(source, 2 if major == 17 else 1, load)
        assert load.transactions > 300
        assert all(one.comparison.rows > 200 for one in found)
        assert sessions(source) == []


@pytest.mark.slow
@pytest.mark.parametrize("major", [15, 17, 18], ids=lambda major: f"pg{major}")
def test_busy_for_long(major: int) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major, segment_size=16, max_prepared_transactions="30") as source:
        source.sql(TABLES)
        end = time.monotonic() + 80
        with writers(source, 16, prepare=True) as load:
            while time.monotonic() < end:
                soak(source, 5, load)


# ---- pgbench in one database, writers in another, and DDL in all of them

BESIDE = ("second", "third")
STATEMENTS = [
    "CREATE TABLE IF NOT EXISTS made AS SELECT g AS id, 'v' AS v FROM generate_series(1, 200) g",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS made_id ON made (id)",
    "BEGIN; TRUNCATE made; INSERT INTO made SELECT g, 'w' FROM generate_series(1, 99) g; COMMIT",
    "ALTER TABLE made ADD COLUMN w int DEFAULT 7",
    "REINDEX TABLE CONCURRENTLY made",
    "BEGIN; ALTER TABLE made DROP COLUMN v; ROLLBACK",
    "VACUUM FULL made",
    "CLUSTER made USING made_id",
    "ALTER TABLE made ALTER id TYPE bigint",
    "DROP TABLE made",
]


@contextmanager
def pgbench(source: Source, database: str, clients: int = 3, rate: int = 200) -> Iterator[None]:
    """The standard transactions, so many each second, for the time of a block."""
    words = [str(source.bin / "pgbench"), "-h", str(source.root / "s"), "-U", "postgres"]
    subprocess.run([*words, "-i", "-q", "-s", "1", database], check=True, capture_output=True)
    source.backup()
    running = subprocess.Popen(
        [*words, "-n", "-T", "600", "-c", str(clients), "-R", str(rate), database],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield
        assert running.poll() is None
    finally:
        running.terminate()
        running.communicate()


def soak_databases(major: int, least: int, seconds: float = 0) -> None:
    """Drills of three databases at once, for some time and at least so many."""
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major, segment_size=16, max_prepared_transactions="20") as source:
        source.sql(TABLES)
        for name in BESIDE:
            source.sql(f"CREATE DATABASE {name} STRATEGY file_copy")
            source.sql("CREATE TABLE quiet AS SELECT g FROM generate_series(1, 500) g", database=name)
        end, drills = time.monotonic() + seconds, 0
        with (
            pgbench(source, "second"),
            writers(source, 4, prepare=True) as load,
            repeated(source, [STATEMENTS] * 3, ("postgres", *BESIDE), pause=0.05) as rounds,
        ):
            while drills < least or time.monotonic() < end:
                drills += 1
                _prove_databases(source, load)
        assert load.transactions > 50
        assert min(rounds) >= 1
        assert sessions(source) == []


def _prove_databases(source: Source, load: Load) -> None:
    with load.at_full_speed():
        fence = fence_of(source)
    found = drill(source, fence)
    assert found.proof.proven, found.proof.summary
    equal = {(t.database, t.table.removeprefix("public.")) for t in found.comparison.tables if t.equal}
    assert equal - {(database, "made") for database in ("postgres", *BESIDE)} == {
        *(("postgres", name) for name in ("accounts", "history", "queue")),
        *(("second", f"pgbench_{name}") for name in ("accounts", "branches", "history", "tellers")),
        *((name, "quiet") for name in BESIDE),
    }
    assert set(found.not_checked) <= {"made"}, found.not_checked


def test_pgbench_with_ddl_in_three_databases() -> None:
    soak_databases(17, 1)


@pytest.mark.slow
@pytest.mark.parametrize("major", [15, 17, 18], ids=lambda major: f"pg{major}")
def test_pgbench_with_ddl_in_three_databases_for_long(major: int) -> None:
    soak_databases(major, 5, seconds=120)


def test_idle_source() -> None:
    with running_source(17) as source:
        source.sql(TABLES)
        source.backup()
        for _ in range(2):
            found = drill(source)
            assert found.proof.proven
            assert found.fence.exact_candidates == found.fence.candidates
            assert {table.source_rows for table in found.comparison.tables} == {200, 0}
