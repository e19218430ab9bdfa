"""The flow ``base-backup``: its run, its artifact, its retries, one writer at a time."""

from __future__ import annotations

import time

import pytest

from flows.base_backup import base_backup
from flows.writer import ensure_limit
from pgproof.backups.catalog import read_catalog
from pgproof.repository.lease import hold_lease
from tasks.base_backup import take_base_backup
from tests.flows.runs import Run, run, running, start, until
from tests.servers.postgres import Source


def test_a_backup(shop: Source, config: str) -> None:
    done = run(base_backup, "main", config)

    label = done.state.result()
    record = read_catalog(shop.archive).entry(label).record
    assert done.name == "base backup of main"
    assert done.attempts == {"take base backup": 1}
    assert done.flow_run.parameters == {"cluster": "main", "config": config, "incremental": False}
    text = done.artifact("pgproof-main-backup")
    assert text.startswith(
        f"# Base backup of main\n\n| backup | `{label}` |\n|---|---|\n| builds on | nothing"
    )
    assert f"| WAL | `{record.first_segment}` to `{record.last_segment}` |" in text
    assert text.endswith("Complete: its WAL is archived. Not proven yet: a restore validation does that.")
    assert done.artifacts["pgproof-main-backup"]["description"].startswith(f"Base backup {label} of main: ")

    second = run(base_backup, "main", config, incremental=True)

    assert read_catalog(shop.archive).entry(second.state.result()).record.parent == label
    assert f"| builds on | `{label}` |" in second.artifact("pgproof-main-backup")


def test_a_permanent_error_is_tried_once(shop: Source, config: str) -> None:
    shop.write_config(cluster="system_identifier = 1")
    done = run(base_backup, "main", config)
    assert done.state.is_failed()
    assert 'WrongSystem: server of cluster "main" belongs to another cluster' in done.message
    assert "HINT: after pg_upgrade or initdb" in done.message
    assert done.attempts == {"take base backup": 1}
    assert not done.artifacts


def test_a_cluster_that_is_not_configured(config: str) -> None:
    done = run(base_backup, "mian", config)
    assert 'ConfigError: cluster "mian" is not configured' in done.message
    assert 'HINT: did you mean "main"?' in done.message
    assert done.attempts == {"take base backup": 1}


def test_a_server_that_comes_back(shop: Source, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = while_the_server_is_away(shop, config, monkeypatch)
    assert 2 <= done.attempts["take base backup"] <= 4
    assert 'could not connect to cluster "main"' in done.logs()


def test_a_server_that_stays_away_is_tried_four_times(shop: Source, config: str) -> None:
    with shop.away():
        done = run(base_backup, "main", config)
    assert 'ServerUnreachable: could not connect to cluster "main"' in done.message
    assert done.attempts == {"take base backup": 4}


def test_a_lease_that_another_program_holds(
    shop: Source, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_base_backup, "retry_delay_seconds", 1)
    monkeypatch.setattr(take_base_backup, "retry_jitter_factor", None)
    archive, begun = shop.archive, time.time()
    with hold_lease(archive.store, archive.layout.lease, "a base backup by hand"):
        future = start(base_backup, "main", config)
        until(lambda: waiting(begun), bool)
    done = future.result(60)
    assert done.state.is_completed(), done.message
    assert done.attempts["take base backup"] >= 2
    assert "It is held for a base backup by hand" in done.logs()


def test_two_at_once_take_turns(shop: Source, config: str) -> None:
    ensure_limit("main")
    shop.write_config(cluster="backup.max_rate = 20000")  # kB/s: it takes a second at least
    both = [future.result(90) for future in [start(base_backup, "main", config) for _ in range(2)]]
    assert [done.state.name for done in both] == ["Completed", "Completed"]
    assert [done.attempts for done in both] == [{"take base backup": 1}] * 2  # none met the other's lease
    first, second = sorted(span(done) for done in both)
    assert first[1] <= second[0]


def span(done: Run) -> tuple[float, float]:
    task_run = done.task_runs["take base backup"]
    assert task_run.start_time is not None and task_run.end_time is not None
    return task_run.start_time.timestamp(), task_run.end_time.timestamp()


def waiting(begun: float) -> bool:
    """Whether the first try has failed."""
    states = [task_run.state for task_run in running("take base backup", begun)]
    return any(state is not None and state.name == "AwaitingRetry" for state in states)


def while_the_server_is_away(shop: Source, config: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A backup whose first try met no server; it completes."""
    monkeypatch.setattr(take_base_backup, "retry_delay_seconds", 1)
    monkeypatch.setattr(take_base_backup, "retry_jitter_factor", None)
    with shop.away():
        begun = time.time()
        future = start(base_backup, "main", config)
        until(lambda: waiting(begun), bool)
    done = future.result(60)
    assert done.state.is_completed(), done.message
    return done
