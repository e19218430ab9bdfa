"""A backup's life as a user sees it: complete, verified, proven, stale, failed; and what recovery costs beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.commands import backups as list_command
from pgproof.commands import restore as restore_command
from pgproof.readiness.checks import Check, examine
from pgproof.validation.objectives import measure_objectives
from tests.drills.damage import answer, flip_bit
from tests.servers.postgres import Source, now, running_source

pytestmark = pytest.mark.usefixtures("plain")


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17, summarize_wal="on") as made:
        made.sql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) g")
        made.archive_now()
        yield made


def days_later(monkeypatch: pytest.MonkeyPatch, days: float) -> datetime:
    """The commands' clock, that much later."""
    at = now() + timedelta(days=days)
    for module in (list_command, restore_command):
        monkeypatch.setattr(module, "now", lambda: at)
    return at


def listed(source: Source) -> dict[str, Any]:
    """The only backup, as ``list --json`` shows it."""
    code, out, _ = answer(source, "list", "main", "--json")
    assert code == 0
    (entry,) = json.loads(out)["backups"]
    return dict(entry)


def doctor(source: Source, at: datetime) -> tuple[bool | None, str, str, str]:
    found = examine(source.cluster, source.config, clock=at.timestamp)
    check: Check = next(check for check in found if check.name == "newest proof")
    return check.ok, check.blocks, check.fact, check.mend


def keys(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["state"], entry["by"], entry["stale"], entry["reason"]


def test_a_life(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the order of a life: each step goes on where the one before ended."""
    no_backup(source)
    backup = source.backup()
    complete(source, backup)
    source.write_config()
    nothing_was_measured(source, backup)
    source.write_config()
    with monkeypatch.context() as patch:
        verified(source, backup, patch)
    source.write_config()
    proven(source, backup)
    source.write_config()
    targets(source, backup)
    source.write_config()
    a_target_that_is_missed(source, backup)
    source.write_config()
    commits_that_would_be_lost(source, backup)
    source.write_config()
    the_source_is_away(source, backup)
    source.write_config()
    with monkeypatch.context() as patch:
        stale(source, backup, patch)
    source.write_config()
    failed(source, backup)
    source.write_config()
    its_wal_is_gone(source, backup, tmp_path)
    source.write_config()
    a_repository_that_is_only_read(source, backup)
    combining_is_a_phase_of_its_own(source, backup)


def no_backup(source: Source) -> None:
    code, out, _ = answer(source, "list", "main", "--json")
    assert code == 0
    assert json.loads(out)["proof"] == {"backup": None, "at": None, "seconds": 0.0, "stale": False}
    code, out, _ = answer(source, "objectives", "main")
    assert code == 1
    assert out == (
        "RTO target 1 h: not measured\n"
        "  no drill has measured it: pgproof drill main\n"
        "  no restore can be planned: there is no backup yet\n"
        "RPO target 5 min: not measured\n"
        "  what would be lost now is not known: there is no backup\n"
    )
    fact = "there is no backup that a restore could begin with"
    assert doctor(source, now()) == (False, "", fact, "pgproof backup main")


def complete(source: Source, backup: BackupRecord) -> None:
    assert keys(listed(source)) == ("complete", "backup record", False, "")
    code, out, _ = answer(source, "list", "main")
    assert code == 0
    assert out.endswith("\nnothing is proven: pgproof drill main\n")
    assert doctor(source, now()) == (False, "", "no backup is proven", "pgproof drill main")


def nothing_was_measured(source: Source, backup: BackupRecord) -> None:
    code, out, _ = answer(source, "objectives", "main")
    assert code == 1
    assert out.startswith("RTO target 1 h: not measured\n  no drill has measured it: pgproof drill main\n")
    assert f"from backup {backup.label}: no forecast\n" in out
    assert "\nRPO target 5 min: met\n  lost if the source died now: " in out


def verified(source: Source, backup: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    before = now()
    assert answer(source, "verify", "main")[0] == 0
    entry = listed(source)
    assert keys(entry) == ("verified", "verification", False, "")
    assert before <= datetime.fromisoformat(entry["since"]) <= now()
    days_later(monkeypatch, 8.1)
    assert keys(listed(source)) == ("verified", "verification", True, "")


def proven(source: Source, backup: BackupRecord) -> None:
    code, out, _ = answer(source, "drill", "main")
    assert code == 0, out
    assert " restored " in out
    assert "\n  RTO measured: " in out and "; target 1 h, met\n" in out
    for phase in ("restore: extract ", "start ", "replay ", "besides: fence ", "count ", " rows/s)"):
        assert phase in out
    assert "\n  software: source PostgreSQL 17.10, copy PostgreSQL 17.10, pgproof " in out
    entry = listed(source)
    assert entry["state"] == "proven"
    (path,) = source.repository_path.rglob(f"proofs/{entry['by']}.json")
    proof = json.loads(path.read_text())
    assert proof["wal_bytes"] > 0
    assert set(proof["bytes_per_second"]) == {"extract", "verify", "fetch", "replay"}
    assert set(proof["rows_per_second"]) == {"source", "copy"}
    recovery = ("extract", "fetch", "start", "replay")
    assert proof["rto_seconds"] == round(sum(proof["phases"][name] for name in recovery), 3)
    code, out, _ = answer(source, "list", "main")
    assert entry["by"].split("-")[0] in out
    assert f" ago, of backup {backup.label}\n" in out
    assert doctor(source, now()) == (True, "", f"backup {backup.label} was proven 0.0 days ago", "")


def targets(source: Source, backup: BackupRecord) -> None:
    for _ in range(2):
        assert answer(source, "drill", "main")[0] == 0
    code, out, _ = answer(source, "objectives", "main")
    assert code == 0, out
    assert out.startswith("RTO target 1 h: met\n  measured ")
    assert f" of WAL from backup {backup.label}: forecast " in out
    assert " by 3 drills)\nRPO target 5 min: met\n" in out
    assert "the last drills of cluster main\n" in out
    code, out, _ = answer(source, "objectives", "main", "--json")
    found = json.loads(out)
    assert (code, found["met"], len(found["rto"]["drills"])) == (0, True, 3)
    made = found["rto"]["forecast"]
    assert 0 < made["fastest"] <= made["seconds"] <= made["slowest"]
    assert made["drills"] == 3
    assert made["wal_bytes"] > 0
    assert found["rto"]["source_bytes"] > 1_000_000
    assert made["backup_bytes"] == max(backup.raw_size, found["rto"]["source_bytes"])


def a_target_that_is_missed(source: Source, backup: BackupRecord) -> None:
    source.write_config(cluster="targets.rto = 0")
    code, out, _ = answer(source, "objectives", "main")
    assert code == 1
    assert out.startswith("RTO target 0.0 s: MISSED\n")
    code, out, _ = answer(source, "drill", "main")
    assert code == 0  # it asks for a proof, and there is one
    assert "; target 0.0 s, MISSED\n" in out


def commits_that_would_be_lost(source: Source, backup: BackupRecord) -> None:
    source.write_config(cluster="targets.rpo = 0")
    source.sql("INSERT INTO orders VALUES (7)")  # in a segment that is not archived
    code, out, _ = answer(source, "objectives", "main")
    assert code == 1
    assert "\nRPO target 0.0 s: MISSED\n  lost if the source died now: at most " in out
    source.archive_now()


def the_source_is_away(source: Source, backup: BackupRecord) -> None:
    source.write_config(dsn="host=/nowhere user=pgproof dbname=postgres")
    code, out, _ = answer(source, "objectives", "main")
    assert code == 1
    assert out.startswith("RTO target 1 h: met\n")
    assert "\nRPO target 5 min: not measured\n  what would be lost now is not known: could not connect" in out


def stale(source: Source, backup: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    at = days_later(monkeypatch, 12.5)
    assert listed(source)["stale"] is True
    _, out, _ = answer(source, "list", "main")
    assert f" ago, of backup {backup.label}, which is stale: pgproof drill main\n" in out
    assert doctor(source, at) == (
        False,
        "",
        f"backup {backup.label} was proven 12.5 days ago: stale after 8 days",
        "pgproof drill main",
    )
    restore = ["restore", "main", "--to", str(source.root / "restored"), "--dry-run", "--json"]
    plan = json.loads(answer(source, *restore)[1])
    assert plan["backup"] == backup.label
    assert plan["warnings"][0].startswith(f"backup {backup.label} was proven 12 days ago, on ")
    found = measure_objectives(source.cluster, source.archive, at)
    assert found.notes[-1].startswith("the newest drill that measured a recovery time is stale, of ")
    source.write_config(cluster='drill.stale_after = "30d"')
    assert listed(source)["stale"] is False


def failed(source: Source, backup: BackupRecord) -> None:
    path = source.repository_path / backup.volumes[0].object.key
    content, mode = path.read_bytes(), path.stat().st_mode
    flip_bit(path)
    assert answer(source, "verify", "main")[0] == 1
    entry = listed(source)
    assert keys(entry)[:3] == ("failed", "verification", False)
    what = f'its verification failed: object "{backup.volumes[0].object.key}" is damaged. It has '
    assert entry["reason"].startswith(what)
    _, out, _ = answer(source, "list", "main")
    assert f"\n{backup.label}: {what}" in out
    code, out, _ = answer(source, "objectives", "main")
    assert code == 1
    assert out.startswith("RTO target 1 h: MISSED\n")
    fault = f"every backup that could be restored failed, such as {backup.label} its verification"
    assert f"\n  {fault}\n" in out
    restore = ["restore", "main", "--to", str(source.root / "restored"), "--dry-run", "--json"]
    plan = json.loads(answer(source, *restore)[1])
    assert plan["steps"][0] == (f"backup {backup.label} (full, the only kind left: its verification failed)")
    assert plan["warnings"][0].startswith(f"the verification of backup {backup.label} failed: object ")
    ok, blocks, fact, mend = doctor(source, now())
    assert (ok, blocks) == (False, "restore")
    assert fact.startswith(f"every backup has failed; backup {backup.label} failed its verification: object ")
    assert mend == "pgproof list main; pgproof backup main; then pgproof drill main"
    path.chmod(0o600)
    path.write_bytes(content)  # put back from elsewhere
    path.chmod(mode)
    assert answer(source, "verify", "main")[0] == 0
    assert listed(source)["state"] == "proven"


def its_wal_is_gone(source: Source, backup: BackupRecord, tmp_path: Path) -> None:
    path = source.stored(backup.first_segment.name)
    kept = path.rename(tmp_path / path.name)
    try:
        state, by, stale, reason = keys(listed(source))
    finally:
        kept.rename(path)
    assert (state, by, stale) == ("taken", "backup record", False)
    assert reason == f"WAL segment {backup.first_segment} of its own is not in the archive"


def a_repository_that_is_only_read(source: Source, backup: BackupRecord) -> None:
    """Verifying is for whoever may read; that the outcome cannot be kept is said."""
    path = source.repository_path / source.archive.layout.backup(backup.label)
    mode = path.stat().st_mode
    path.chmod(0o500)
    try:
        code, out, _ = answer(source, "verify", "main", "--backup", backup.label)
    finally:
        path.chmod(mode)
    assert code == 0
    assert "all as recorded\n  not remembered: cannot access " in out


def combining_is_a_phase_of_its_own(source: Source, backup: BackupRecord) -> None:
    source.sql("INSERT INTO orders SELECT g FROM generate_series(1, 500) g")
    source.sql("SELECT pg_sleep(1.1)")  # labels are of whole seconds
    child = source.backup(incremental=True)
    code, out, _ = answer(source, "drill", "main", "--backup", child.label, "--json")
    proof = json.loads(out)
    assert code == 0, proof["summary"]
    assert proof["phases"]["combine"] > 0
    recovery = ("extract", "combine", "fetch", "start", "replay")
    assert proof["rto_seconds"] == round(sum(proof["phases"][name] for name in recovery), 3)
    assert proof["bytes_per_second"]["combine"] > 0
