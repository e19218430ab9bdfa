"""Drills of a source that never stops: every one exact, every table equal."""

from __future__ import annotations

import time

import pytest

from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import Drill, drill, sessions
from tests.validation.writers import TABLES, Load, writers


def soak(source: Source, drills: int, load: Load) -> list[Drill]:
    found = []
    for number in range(drills):
        if number % 3 == 0:
            source.backup()
        found.append(drill(source))
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
            found = soak(source, 4 if major == 17 else 1, load)
        assert load.transactions > 500
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


def test_idle_source() -> None:
    with running_source(17) as source:
        source.sql(TABLES)
        source.backup()
        for _ in range(2):
            found = drill(source)
            assert found.proof.proven
            assert found.fence.exact_candidates == found.fence.candidates
            assert {table.source_rows for table in found.comparison.tables} == {200, 0}
