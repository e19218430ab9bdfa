"""Progress artifacts: made only for long steps, updated at a bounded rate, and never in the way of the work."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prefect import flow

import tasks.progress
from flows.base_backup import base_backup
from flows.restore_validation import restore_validation
from tasks.progress import progress, told
from tests.flows.runs import Run, run
from tests.servers.postgres import Source

pytestmark = pytest.mark.usefixtures("prefect")


def steps(count: int, every: float, *, fails: bool = False, total: int = 100) -> Run:
    @flow
    def work() -> None:
        with progress("shop", "backup", "base backup of shop", total, "row", every) as done:
            for _ in range(count):
                time.sleep(0.1)
                done(10)
            if fails:
                raise ValueError("it broke")

    return run(work)


def test_a_short_step_has_none() -> None:
    assert steps(3, every=5).artifacts == {}


def test_a_long_one_ends_at_all_of_it() -> None:
    (shown,) = steps(8, every=0.2).artifacts.values()
    assert (shown["key"], shown["type"], shown["data"]) == ("pgproof-shop-backup-progress", "progress", 100.0)
    assert shown["description"] == "base backup of shop: 80 rows of 100 rows"


@pytest.mark.parametrize(("total", "percent"), [(100, 80.0), (10, 99.0), (0, 0.0)])
def test_one_that_fails_stays_where_it_was(total: int, percent: float) -> None:
    (shown,) = steps(8, every=0.2, fails=True, total=total).artifacts.values()
    assert shown["data"] == percent


def test_the_rate_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    real = tasks.progress.update_progress_artifact
    monkeypatch.setattr(
        tasks.progress,
        "update_progress_artifact",
        lambda *a, **k: (calls.append(time.monotonic()), real(*a, **k)),
    )
    steps(15, every=0.5)
    assert len(calls) <= 4  # 1.5 s of work in 15 steps


def test_a_server_that_is_away_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any, **named: Any) -> None:
        raise ConnectionError("the Prefect server is away")

    monkeypatch.setattr(tasks.progress, "create_progress_artifact", away)
    assert steps(8, every=0.2).state.is_completed()


def test_words() -> None:
    assert told(1, 0, "row") == "1 row"
    assert told(5, 10, "row") == "5 rows of 10 rows"
    assert told(1_500_000, 3_000_000, "") == "1.5 MB of about 3.0 MB"
    assert told(1_500_000, 0, "") == "1.5 MB"


def test_a_backup_and_a_drill_show_theirs(shop: Source, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.progress, "EVERY", 0.05)
    backup = run(base_backup, "main", config)
    assert backup.artifacts["pgproof-main-backup-progress"]["data"] == 100.0
    drill = run(restore_validation, "main", config)
    assert drill.artifacts["pgproof-main-restore-progress"]["data"] == 100.0
    restored = drill.artifacts["pgproof-main-restore-progress"]["description"]
    assert restored.startswith(f"restore of {backup.state.result()} to scratch: ")
    assert drill.artifacts["pgproof-main-compare-progress"]["data"] == 100.0
