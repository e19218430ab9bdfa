"""The flow ``protect``: the whole chain, and what stops it before anything is removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters

import tasks.validation
from flows.protect import Protection, protect
from flows.writer import ensure_limit
from pgproof.backups.catalog import read_catalog
from pgproof.repository.seal import sealed
from pgproof.validation.drill import restore_scratch
from pgproof.validation.fences.fence import Fence
from tests.flows.runs import Run, run
from tests.servers.postgres import Source

CHAIN = [
    "take base backup",
    "check WAL archive",
    "fence source",
    "restore backup to scratch",
    "compare with source",
    "record proof",
    "plan retention",
    "expire",
]
NEWEST_ONLY = 'retention = { daily = 0, weekly = 0, monthly = 0, wal_window = "0s", approve_above = 1 }'


@pytest.fixture(scope="module")
def first(shop: Source) -> Run:
    """The first run of the chain on a new cluster."""
    ensure_limit("main")
    shop.write_config()
    return run(protect, "main", str(shop.config_path))


def labels(shop: Source) -> list[str]:
    return [entry.label for entry in read_catalog(shop.archive).entries]


def test_the_chain(shop: Source, first: Run) -> None:
    assert first.name == "protect main"
    assert first.tasks == CHAIN
    assert set(first.attempts.values()) == {1}
    kept = {key for key in first.artifacts if not key.endswith("-progress")}  # of steps over five seconds
    assert kept == {f"pgproof-main-{noun}" for noun in ("backup", "wal", "proof", "retention")}
    assert first.artifact("pgproof-main-proof").startswith("# PROVEN: main\n")
    done: Protection = first.state.result()
    assert done.stored.proof.backup == done.taken.record.label
    assert [verdict.label for verdict in done.plan.verdicts if verdict.keep] == [done.taken.record.label]
    document = json.loads(json.dumps(done.as_dict(), default=str))
    assert document["proof"]["verdict"] == "proven"
    assert document["retention"][0]["keep"] is True
    assert "skipping acquisition" not in first.logs()  # the limit is there


def test_steps_are_no_flow_runs(first: Run) -> None:
    parents = [task_run.id for task_run in first.task_runs.values()]
    wanted = filters.FlowRunFilterParentTaskRunId(any_=parents)
    with get_client(sync_client=True) as client:
        children = client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(parent_task_run_id=wanted))
    assert children == []


def test_an_incremental_second_run(shop: Source, config: str, first: Run) -> None:
    shop.sql("UPDATE orders SET amount = amount + 1 WHERE id <= 10")
    newest = [entry.label for entry in read_catalog(shop.archive).entries if not entry.failed][-1]
    second = run(protect, "main", config, incremental=True)
    assert second.tasks == CHAIN, second.message
    done: Protection = second.state.result()
    assert done.taken.record.parent == newest
    assert done.stored.proof.proven
    assert f"parent of {done.taken.record.label}" in second.artifact("pgproof-main-retention")
    assert {newest, done.taken.record.label} <= set(labels(shop))


def test_a_gap_stops_the_chain_before_anything_is_removed(shop: Source, first: Run, tmp_path: Path) -> None:
    shop.write_config(cluster=NEWEST_ONLY.replace("0s", "1h"))  # WAL of the last hour must be whole
    shop.sql("INSERT INTO orders VALUES (5000, 1)")
    name = shop.archive_now()
    shop.archive_now()
    (path,) = shop.repository_path.rglob(f"{name}.zst")
    kept = path.rename(tmp_path / path.name)
    before = labels(shop)

    done = run(protect, "main", str(shop.config_path))

    kept.rename(path)
    assert f"DETAIL: {name} missing." in done.message
    assert done.tasks == CHAIN[:-2]  # the new backup is proven all the same: it has no gap
    assert done.artifact("pgproof-main-proof").startswith("# PROVEN: main\n")
    assert "pgproof-main-retention" not in done.artifacts
    assert labels(shop)[:-1] == before


def test_no_proof_stops_the_chain_before_anything_is_removed(
    shop: Source, first: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(cluster: Any, archive: Any, fence: Fence, *more: Any) -> Any:
        (path,) = shop.repository_path.rglob(f"fences/{fence.identifier}.json")
        tree = json.loads(path.read_text())
        tree["databases"][0]["tables"][0]["fingerprint"]["hash"] = "0"
        path.chmod(0o600)
        path.write_bytes(sealed(tree))
        return real(cluster, archive, fence, *more)

    real = restore_scratch
    monkeypatch.setattr(tasks.validation, "restore_scratch", tampered)
    shop.write_config(cluster=NEWEST_ONLY)
    before = labels(shop)

    done = run(protect, "main", str(shop.config_path))

    assert "is not equal" in done.message
    assert "hash " in done.artifact("pgproof-main-proof")
    assert done.tasks == CHAIN[:-2]
    assert labels(shop)[:-1] == before
    assert list((shop.root / "scratch").iterdir()) == []


def test_the_next_proof_lets_the_old_ones_go(shop: Source, first: Run) -> None:
    shop.write_config(cluster=NEWEST_ONLY)
    before = labels(shop)
    done: Protection = run(protect, "main", str(shop.config_path)).state.result()
    assert labels(shop) == [done.taken.record.label]
    assert sorted(done.expired.backups) == before
