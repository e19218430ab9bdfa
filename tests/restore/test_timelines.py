"""Timelines on real servers: restored, promoted, archived on, backed up again; and both futures stay within reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, read_history
from tests.drills.damage import answer, assert_refused
from tests.restore.successor import succeed
from tests.servers.postgres import Source, running_source


@dataclass
class Futures:
    """Rows 1 and 2 before the fork; then 3 to 5 on timeline 1, and 20 (before its backup) and 21 on timeline 2."""

    source: Source
    first: BackupRecord
    second: BackupRecord


@pytest.fixture(scope="module")
def futures() -> Iterator[Futures]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        first = source.backup()
        source.sql("INSERT INTO t VALUES (1)")
        source.archive_now()
        source.sql("INSERT INTO t VALUES (2)")
        source.sql("SELECT pg_create_restore_point('before the mistake')")
        for row in (3, 4, 5):
            source.sql("INSERT INTO t VALUES (%s)", row)
            source.archive_now()
        succeed(source, "before the mistake")
        source.sql("INSERT INTO t VALUES (20)")
        second = source.backup()
        source.sql("INSERT INTO t VALUES (21)")
        source.archive_now()
        yield Futures(source, first, second)


def test_the_successor_archives_on_its_own_timeline(futures: Futures) -> None:
    assert futures.source.stored("00000002.history").exists()
    assert (futures.first.timeline, futures.second.timeline) == (1, 2)
    code, out, _ = answer(futures.source, "wal", "check", "main", "--content", "--json")
    found = json.loads(out)
    assert (code, found["gaps"], found["damaged"]) == (0, [], [])
    assert [(w["backup"], w["timeline"], w["broken_by"]) for w in found["windows"]] == [
        (futures.first.label, 2, None),
        (futures.second.label, 2, None),
    ]


@pytest.mark.parametrize(
    ("options", "rows", "timeline", "backup"),
    [
        ([], [1, 2, 20, 21], 2, "second"),
        (["--target-timeline", "latest", "--backup", "FIRST"], [1, 2, 20, 21], 2, "first"),
        (["--target-timeline", "2", "--target-immediate"], [1, 2, 20], 2, "second"),
        (["--target-timeline", "1"], [1, 2, 3, 4, 5], 1, "first"),
    ],
    ids=["newest", "across the fork", "timeline 2", "timeline 1"],
)
def test_restore_along(
    futures: Futures, tmp_path: Path, options: list[str], rows: list[int], timeline: int, backup: str
) -> None:
    """Along timeline 2 what timeline 1 wrote after the fork is neither needed nor replayed."""
    data = tmp_path / "restored"
    options = [futures.first.label if option == "FIRST" else option for option in options]
    words = ["restore", "main", "--to", str(data), "--target-action", "promote", "--json", *options]
    code, out, err = answer(futures.source, *words)
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["timeline"], plan["backup"]) == (timeline, getattr(futures, backup).label)
    with futures.source.copy(data) as connection:
        assert connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone() == (rows,)


def test_backup_behind_the_fork_is_refused_for_the_other_timeline(futures: Futures, tmp_path: Path) -> None:
    record = futures.second
    assert_refused(
        futures.source,
        [
            *["restore", "main", "--to", str(tmp_path / "x"), "--target-timeline", "1"],
            "--backup",
            record.label,
        ],
        42,
        "recovery target the end of the archived WAL is outside the recovery window\n"
        f"DETAIL: Backup {record.label} ended at LSN {record.stop_lsn}. "
        f"The first backup ended at {record.stopped_at:%F %T%z}, LSN {record.stop_lsn}.\n"
        "HINT: pgproof wal check NAME shows the recovery windows",
    )


def test_a_gap_behind_the_fork_is_of_one_future_alone(futures: Futures, tmp_path: Path) -> None:
    """A segment that timeline 1 wrote after the fork is lost: timeline 2 does not miss it."""
    source = futures.source
    last = sorted((source.repository_path / source.archive.layout.wal / "00000001").rglob("*.zst"))[-2]
    content = last.read_bytes()
    last.unlink()
    try:
        data = str(tmp_path / "x")
        assert answer(source, "restore", "main", "--to", data, "--dry-run")[0] == 0
        assert answer(source, "wal", "check", "main")[0] == 0
        code, _, err = answer(source, "restore", "main", "--to", data, "--target-timeline", "1")
        assert (code, err.split("\n")[0]) == (
            1,
            f'pgproof: WAL segment "{last.stem}" is missing from the archive',
        )
    finally:
        last.write_bytes(content)


def test_a_drill_across_the_fork_recovers_to_both_sides_of_it(futures: Futures) -> None:
    """Just before the fork along timeline 1, just after it along timeline 2, then on to the cut: in one copy."""
    source = futures.source
    words = ["--backup", futures.first.label, "--targets", "1", "--json"]
    code, out, err = answer(source, "drill", "main", *words)
    assert code == 0, err
    proof = json.loads(out)
    fork = history(source).forks[0].lsn
    before, after = (
        next(t for t in proof["targets"] if t["place"] == f"{side} the fork at {fork}")
        for side in ("before", "after")
    )
    assert (before["timeline"], after["timeline"], proof["timeline"]) == (1, 2, 2)
    assert [t["ok"] for t in proof["targets"]] == [True] * 3
    assert LSN.parse(before["last_found"]["lsn"]) < fork <= LSN.parse(before["next_found"]["lsn"])
    assert fork <= LSN.parse(after["last_found"]["lsn"]) < LSN.parse(after["next_found"]["lsn"])
    # transaction IDs went on from the fork on either timeline: only the time says whose commit it is
    assert after["last_found"] == before["next_found"]


def history(source: Source) -> TimelineHistory:
    return read_history(source.archive, find_key(source.archive, "00000002.history"))


def test_a_fork_whose_own_segment_is_lost_is_approached_along_the_newer_timeline(futures: Futures) -> None:
    source = futures.source
    fork = history(source).forks[0]
    stored = source.stored(WalSegment.containing(1, fork.lsn, 1 << 20).name)
    content = stored.read_bytes()
    stored.unlink()
    try:
        words = ["--backup", futures.first.label, "--targets", "1", "--json"]
        code, out, err = answer(source, "drill", "main", *words)
    finally:
        stored.write_bytes(content)
    assert code == 0, err
    targets = json.loads(out)["targets"]
    before = next(t for t in targets if t["place"] == f"before the fork at {fork.lsn}")
    assert (before["timeline"], before["ok"]) == (2, True)
