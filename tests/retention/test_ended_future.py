"""A clone that was promoted for a moment leaves nothing behind but its history, once the window has passed."""

from __future__ import annotations

import time
from pathlib import Path

from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.wal.archive import WalListing, list_wal
from tests.drills.damage import answer
from tests.restore.test_futures import on, promoted_clone
from tests.servers.postgres import Source, now

SEGMENT = 1 << 20
LIMITS = 'retention = { daily = 1, weekly = 0, monthly = 0, wal_window = "1s", approve_above = 1 }'


def backed_up(source: Source) -> BackupRecord:
    """A backup that counts as proven."""
    record = source.backup()
    proof = {"backup": record.label, "verdict": "proven", "at": now().isoformat(), "summary": ""}
    source.archive.write_json(f"{source.archive.layout.proofs}x-{record.label}.json", proof)
    return record


def archived(source: Source) -> WalListing:
    return list_wal(source.archive, SEGMENT)


def test_a_promoted_clone_is_kept_for_the_window_and_no_longer(source: Source, tmp_path: Path) -> None:
    """Its base and all later WAL of production stayed for ever."""
    source.sql("CREATE TABLE t (g int)")
    first = backed_up(source)
    source.archive_now()
    with promoted_clone(source) as clone:
        on(clone, "INSERT INTO t VALUES (100)", "SELECT pg_switch_wal()")
        clone.wait(lambda: 2 in archived(source).numbers, 60, "to archive its WAL")
    source.write_config(cluster=LIMITS.replace('"1s"', '"1d"'))
    backed_up(source)
    assert answer(source, "expire", "main")[0] == 0
    kept = archived(source)
    assert 2 in kept.numbers, "inside the window it stays"
    assert read_catalog(source.archive).entries[0].label == first.label

    source.write_config(cluster=LIMITS)
    counts = []
    for row in range(4):
        time.sleep(1)  # a label has whole seconds, and so has the window
        source.sql("INSERT INTO t VALUES (%s)", row)
        source.archive_now()
        newest = backed_up(source)
        code, _, err = answer(source, "expire", "main")
        assert code == 0, err
        counts.append(len(archived(source).numbers[1]))
    left = archived(source)
    assert (set(left.numbers), set(left.histories)) == ({1}, {2})
    labels = [entry.label for entry in read_catalog(source.archive).entries]
    assert first.label not in labels
    assert len(labels) <= 3
    assert counts[-1] <= counts[0], f"WAL of production grows: {counts}"
    code, out, err = answer(source, "wal", "check", "main")
    assert (code, "no gap" in out) == (0, True), out + err
    code, out, err = answer(source, "restore", "main", "--to", str(tmp_path / "r"), "--dry-run")
    assert (code, newest.label in out) == (0, True), out + err
