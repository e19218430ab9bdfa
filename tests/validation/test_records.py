"""What pg_waldump prints, line by line as versions 15, 17 and 18 printed it, and what real WAL says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.records import CommitRecord, RestorePoint, parse_line, read_records
from tests.servers.postgres import Source, running_source

HEAD = (
    "rmgr: Transaction len (rec/tot):     46/    46, tx:        726, lsn: 0/0062B780, prev 0/0062B740, desc: "
)
POINT = (
    "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/0062BD50, prev 0/0062BCE8, desc: "
)
AT = datetime(2026, 11, 23, 21, 27, 15, 112664, UTC)
TIME = "2026-11-23 21:27:15.112664 UTC"
INVALIDATIONS = "; inval msgs: catcache 80 catcache 79 snapshot 2608 relcache 16386"

LINES = [
    # plain; 15, 17 and 18 are alike
    (HEAD + f"COMMIT {TIME}", 726, True),
    (HEAD + f"COMMIT {TIME}; subxacts: 729 730", 726, True),
    (HEAD + f"COMMIT {TIME}{INVALIDATIONS}", 726, True),
    (
        HEAD + f"COMMIT {TIME}; rels: base/5/16386; dropped stats: 2/5/16386{INVALIDATIONS}; sync",
        726,
        True,
    ),
    (HEAD + f"COMMIT {TIME}; origin: node 1, lsn 0/1234, at 2020-01-01 00:00:00.000000 UTC", 726, True),
    (HEAD + f"ABORT {TIME}", 726, False),
    (HEAD + f"ABORT {TIME}; rels: base/5/16386", 726, False),
    (HEAD.replace("726", "  0") + f"COMMIT {TIME}; dropped stats: 2/5/16394{INVALIDATIONS}", 0, True),
    (HEAD.replace("726", "  0") + f"COMMIT_PREPARED 732: {TIME}; subxacts: 733", 732, True),
    (HEAD.replace("726", "  0") + f"ABORT_PREPARED 734: {TIME}", 734, False),
    (HEAD.replace("726", "4294967295") + f"COMMIT {TIME}", 4294967295, True),
]
RESTORE_POINTS = [
    "plain",
    "a; b",
    "trailing ; ",
    "; ",
    " lead",
    "",
    "ü ☂ naïve",
    "x 2001-02-03 04:05:06 UTC",
    "COMMIT 726",
    "two\nlines",
    "back\rcarriage",
    "100% 'quoted' \"name\" \\n",
    "x" * 63,
]


@pytest.mark.parametrize(("line", "xid", "committed"), LINES, ids=range(len(LINES)))
def test_the_end_of_a_transaction(line: str, xid: int, committed: bool) -> None:
    assert parse_line(line) == CommitRecord(LSN(0x62B780), xid, AT, committed)


@pytest.mark.parametrize("name", RESTORE_POINTS)
def test_a_restore_point_has_its_whole_name_and_no_time(name: str) -> None:
    assert parse_line(POINT + f"RESTORE_POINT {name}") == RestorePoint(LSN(0x62BD50), name, None)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-23 21:27:15.112664 UTC", AT),
        ("2026-11-23 21:27:15.000000 UTC", AT.replace(microsecond=0)),
        ("2026-11-23 21:27:15 UTC", AT.replace(microsecond=0)),
        ("infinity", None),
        ("2026-11-23 21:27:15.112664 CET", None),  # never ours: pg_waldump runs under TZ=UTC
    ],
)
def test_time_of_a_commit(text: str, time: datetime | None) -> None:
    record = parse_line(HEAD + f"COMMIT {text}")
    assert isinstance(record, CommitRecord)
    assert record.time == time


@pytest.mark.parametrize(
    "line",
    [
        "",
        "lines",
        HEAD + f"INVALIDATION ; inval msgs: catcache 80 at {TIME}",
        HEAD + "ASSIGNMENT xtop 728: subxacts: 729",
        HEAD + f"PREPARE gid p; COMMIT: {TIME}; subxacts: 733",
        "rmgr: XLOG        len (rec/tot):     49/  8241, tx:        753, lsn: 0/008080D8, prev 0/008064F8, "
        "desc: FPI_FOR_HINT , blkref #0: rel 1663/5/2608 fork fsm blk 2 FPW",
        "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/01000028, prev 0/00FFFFA8, "
        "desc: CHECKPOINT_SHUTDOWN redo 0/1000028; tli 1; prev tli 1",
        "pg_waldump: first record is after 0/3000000, at 0/3000028, skipping over 40 bytes",
        HEAD.replace("lsn: 0/0062B780", "lsn: ?") + f"COMMIT {TIME}",
        HEAD.replace("726", "x") + f"COMMIT {TIME}",
    ],
)
def test_what_is_no_commit_and_no_restore_point(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize("rest", ["COMMIT_PREPARED", "COMMIT_PREPARED x: y", f"ABORT_PREPARED {TIME}"])
def test_prepared_bad(rest: str) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        parse_line(HEAD + rest)
    assert caught.value.fact == "the record at LSN 0/62B780 cannot be read"
    assert rest in caught.value.detail


# ---- real WAL


def write_some_of_everything(source: Source) -> dict[str, int]:
    """Transactions that end in every way; what they are to the xid of each."""
    xids = {}
    current = "SELECT pg_current_xact_id()::text::bigint"
    with source.connect() as connection:

        def run(what: str, *statements: str) -> None:
            row = connection.execute(f"BEGIN; {current}".encode())
            row.nextset()
            xids[what] = (row.fetchone() or [0])[0]
            for statement in statements:
                connection.execute(statement.encode())

        connection.execute("CREATE TABLE t (a int)")
        run("plain", "INSERT INTO t VALUES (1)", "COMMIT")
        run("subtransactions", "SAVEPOINT a", "INSERT INTO t VALUES (1)", "SAVEPOINT b", "COMMIT")
        run("rolled back", "INSERT INTO t VALUES (1)", "ROLLBACK")
        run("catalog", "CREATE TABLE dropped (a int)", "DROP TABLE dropped", "COMMIT")
        run("prepared", "SAVEPOINT a", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'p; COMMIT 7'")
        run("prepared, rolled back", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION E'two\nlines'")
        connection.execute("COMMIT PREPARED 'p; COMMIT 7'")
        connection.execute("ROLLBACK PREPARED E'two\nlines'")
        connection.execute("CREATE TEMP TABLE scratch (a int)")
        for name in RESTORE_POINTS:
            connection.execute("SELECT pg_create_restore_point(%s)", (name,))
        run("last", "COMMIT")
    return xids


@pytest.mark.parametrize("major", [15, 17, 18], ids=lambda major: f"pg{major}")
def test_real_wal(major: int) -> None:
    with running_source(major, max_prepared_transactions="5") as source:
        start = LSN.parse(source.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
        xids = write_some_of_everything(source)
        segment = WalSegment.parse(source.archive_now(), 1 << 20)
        wal = source.data / "pg_wal"

        records = list(read_records(source.bin, wal, start, segment.end, 1, ("Transaction", "XLOG")))
        commits = {r.xid: r for r in records if isinstance(r, CommitRecord)}
        ended = {what: commits[xid].committed for what, xid in xids.items()}
        assert ended == {what: "rolled back" not in what for what in xids}
        now = source.sql("SELECT now()")[0][0]
        assert all(
            abs((now - commit.time).total_seconds()) < 60 for commit in commits.values() if commit.time
        )
        assert [r.name for r in records if isinstance(r, RestorePoint)] == RESTORE_POINTS
        assert [r.lsn for r in records] == sorted(r.lsn for r in records)

        # the default leaves the restore points out
        assert not [
            r for r in read_records(source.bin, wal, start, segment.end, 1) if isinstance(r, RestorePoint)
        ]
        # a reader may stop early
        assert next(read_records(source.bin, wal, start, segment.end, 1)) == min(
            commits.values(), key=lambda r: r.lsn
        )
        assert_damage_is_told(source, wal, segment)


def assert_damage_is_told(source: Source, wal: Path, segment: WalSegment) -> None:
    copy = source.root / "wal"
    copy.mkdir()
    content = bytearray((wal / segment.name).read_bytes())
    lsn = next(iter(read_records(source.bin, wal, segment.start, segment.end, 1))).lsn
    content[lsn - segment.start + 30] ^= 0x10
    (copy / segment.name).write_bytes(content)
    with pytest.raises(ObjectDamaged) as caught:
        list(read_records(source.bin, copy, segment.start, segment.end, 1))
    assert caught.value.fact == f"WAL from {segment.start} to {segment.end} cannot be read"
    assert "incorrect resource manager data checksum" in caught.value.detail
