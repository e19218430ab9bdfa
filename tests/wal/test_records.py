"""WAL records: what pg_waldump says, in the words of every version, against what really happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.records import CommitRecord, RestorePoint, parse_line, read_records
from tests.drills.damage import flip_bit
from tests.servers.postgres import Source, now

TIME = datetime(2026, 11, 23, 21, 56, 29, 55009, UTC)
XACT = "rmgr: Transaction len (rec/tot):     34/    34, tx:        {tx}, lsn: 0/00700068, prev 0/00700028, desc: {desc}"
XLOG = (
    "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 1A/00614D60, prev 1A/00614D18, "
    "desc: {desc}"
)
LINES = [
    (XACT.format(tx=726, desc="COMMIT 2026-11-23 21:56:29.055009 UTC"), 726, TIME, True),
    (XACT.format(tx=728, desc="ABORT 2026-11-23 21:56:29.055009 UTC"), 728, TIME, False),
    (XACT.format(tx=7, desc="COMMIT 2026-11-23 21:56:29.055009 UTC; subxacts: 730 731"), 7, TIME, True),
    (
        XACT.format(
            tx=733, desc="COMMIT 2026-11-23 21:56:29.055009 UTC; inval msgs: catcache 80 relcache 1249"
        ),
        733,
        TIME,
        True,
    ),
    (
        XACT.format(
            tx=9,
            desc="COMMIT 2026-11-23 21:56:29.055009 UTC; origin: node 1, lsn 0/1, at 2020-01-01 00:00:00.1 UTC",
        ),
        9,
        TIME,
        True,
    ),
    (XACT.format(tx=0, desc="COMMIT_PREPARED 731: 2026-11-23 21:56:29.055009 UTC"), 731, TIME, True),
    (XACT.format(tx=0, desc="ABORT_PREPARED 732: 2026-11-23 21:56:29.055009 UTC"), 732, TIME, False),
    (XACT.format(tx=5, desc="COMMIT 2026-11-23 21:56:29 UTC"), 5, TIME.replace(microsecond=0), True),
]


@pytest.mark.parametrize(("line", "xid", "time", "committed"), LINES)
def test_transactions(line: str, xid: int, time: datetime, committed: bool) -> None:
    assert parse_line(line) == CommitRecord(LSN.parse("0/700068"), xid, time, committed)


@pytest.mark.parametrize(
    "name", ["plain", "a; b", "t 2026-01-01 00:00:00 UTC", "  sp ace ", "ünï", "desc: COMMIT"]
)
def test_restore_points(name: str) -> None:
    found = parse_line(XLOG.format(desc=f"RESTORE_POINT {name}"))
    assert isinstance(found, RestorePoint)
    assert (found.lsn, found.name) == (LSN.parse("1A/614D60"), name)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "pg_waldump: error: could not find a valid record after 0/1000000",
        XACT.format(tx=745, desc="PREPARE gid a; b: 2026-11-23 21:56:29.968512 UTC"),
        XACT.format(tx=745, desc="ASSIGNMENT xtop 744: subxacts: 745"),
        XACT.format(tx=745, desc="INVALIDATION ; inval msgs: catcache 80"),
        XLOG.format(desc="CHECKPOINT_ONLINE redo 0/6000028; tli 1; prev tli 1; fpw true"),
        XLOG.format(desc="SWITCH "),
        XLOG.format(desc="FPI_FOR_HINT , blkref #0: rel 1663/5/1249 fork fsm blk 2 FPW"),
    ],
)
def test_lines_bad(line: str) -> None:
    assert parse_line(line) is None


def test_records_of_a_real_server(any_source: Source, tmp_path: Path) -> None:
    """Every kind of end of a transaction, in WAL order, with the numbers that the server gave them."""
    source = any_source
    source.set(max_prepared_transactions="2", track_commit_timestamp="on")
    source.sql("CREATE TABLE t (g int)")
    source.archive_now()
    start = LSN.parse(source.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
    with source.connect() as connection, connection.cursor() as cursor:

        def xid(*statements: str) -> int:
            cursor.execute("BEGIN")
            cursor.execute("SELECT pg_current_xact_id()::text::bigint")
            row = cursor.fetchone()
            assert row is not None
            for statement in statements:
                cursor.execute(statement.encode())
            return int(row[0])

        committed = xid("INSERT INTO t VALUES (1)", "COMMIT")
        nested = xid("SAVEPOINT a", "INSERT INTO t VALUES (2)", "RELEASE a", "COMMIT")
        aborted = xid("INSERT INTO t VALUES (3)", "ROLLBACK")
        cursor.execute("SELECT pg_create_restore_point('a; b')")
        prepared = xid("INSERT INTO t VALUES (4)", "PREPARE TRANSACTION 'one'")
        between = xid("INSERT INTO t VALUES (5)", "COMMIT")
        cursor.execute("COMMIT PREPARED 'one'")
        undone = xid("INSERT INTO t VALUES (6)", "PREPARE TRANSACTION 'two'")
        cursor.execute("ROLLBACK PREPARED 'two'")
        cursor.execute("SELECT pg_xact_commit_timestamp(%s::text::xid)", (committed,))
        row = cursor.fetchone()
        assert row is not None
    name = source.archive_now()
    segment = WalSegment.parse(name, 1 << 20)
    path = tmp_path / name
    path.write_bytes(
        b"".join(source.archive.open(str(source.stored(name).relative_to(source.repository_path))))
    )

    found = list(read_records(source.bin, tmp_path, start, segment.end, 1, ("Transaction", "XLOG")))
    commits = [(r.xid, r.committed) for r in found if isinstance(r, CommitRecord)]
    assert commits[:6] == [
        (committed, True),
        (nested, True),
        (aborted, False),
        (between, True),
        (prepared, True),
        (undone, False),
    ]
    (point,) = [r for r in found if isinstance(r, RestorePoint)]
    assert point.name == "a; b"
    assert [r.lsn for r in found] == sorted(r.lsn for r in found)
    first = found[0]
    assert isinstance(first, CommitRecord)
    assert first.time == row[0]
    assert abs(first.time - now()) < timedelta(minutes=1)
    assert start <= first.lsn < point.lsn < segment.end

    beyond = read_records(source.bin, tmp_path, start, segment.end, 1, ("XLOG",))
    assert [r.name for r in beyond if isinstance(r, RestorePoint)] == ["a; b"]
    flip_bit(path, first.lsn - segment.start + 30)
    with pytest.raises(ObjectDamaged) as caught:
        list(read_records(source.bin, tmp_path, start, segment.end, 1))
    assert caught.value.fact == f"WAL from {start} to {segment.end} cannot be read"
    assert "incorrect resource manager data checksum" in caught.value.detail
