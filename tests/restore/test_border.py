"""The two commits at a recovery target, from the records around it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgproof.restore.border import Border, border_of
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.lsn import LSN
from pgproof.wal.records import CommitRecord, DatabaseDrop, Record, RestorePoint

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def end(number: int, seconds: int, *, committed: bool = True, xid: int | None = None) -> CommitRecord:
    lsn = LSN(0x1000000 + 0x100 * number)
    return CommitRecord(
        lsn, 700 + number if xid is None else xid, NOON + timedelta(seconds=seconds), committed
    )


RECORDS: list[Record] = [
    end(0, 1),
    end(1, 2),
    end(2, 2),
    RestorePoint(LSN(0x1000280), "mark"),
    end(3, 3, committed=False),
    end(4, 5, xid=0),
    end(5, 4),
    end(6, 6),
]


def time(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat(sep=" ")


@pytest.mark.parametrize(
    ("target", "last", "following"),
    [
        (RecoveryTarget("time", time(2)), 702, 705),
        (RecoveryTarget("time", time(2), exclusive=True), 700, 701),
        (RecoveryTarget("time", time(2.5)), 702, 705),
        (RecoveryTarget("time", time(4)), 702, 705),  # the one without an xid is of :05, and comes first
        (RecoveryTarget("time", time(5)), 705, 706),
        (RecoveryTarget("time", time(0)), None, 700),
        (RecoveryTarget("lsn", "0/1000200"), 702, 705),
        (RecoveryTarget("lsn", "0/1000200", exclusive=True), 701, 702),
        (RecoveryTarget("lsn", "0/1000101", exclusive=True), 701, 702),
        (RecoveryTarget("lsn", "0/1000600"), 706, None),
        (RecoveryTarget("xid", "702"), 702, 705),
        (RecoveryTarget("xid", "702", exclusive=True), 701, 702),
        (RecoveryTarget("xid", str((1 << 32) + 702)), 702, 705),
        (RecoveryTarget("xid", "703"), 702, 705),
        (RecoveryTarget("name", "mark"), 702, 705),
    ],
    ids=str,
)
def test_border(target: RecoveryTarget, last: int | None, following: int | None) -> None:
    border = border_of(RECORDS, target)
    assert border is not None
    xids = [commit.xid if commit else None for commit in (border.last, border.following)]
    assert xids == [last, following]


@pytest.mark.parametrize(
    "target",
    [
        RecoveryTarget("time", time(9)),
        RecoveryTarget("lsn", "0/1000101"),
        RecoveryTarget("lsn", "0/2000000"),
        RecoveryTarget("xid", "999"),
        RecoveryTarget("name", "elsewhere"),
    ],
    ids=str,
)
def test_border_that_cannot_be_said(target: RecoveryTarget) -> None:
    """An inclusive LSN between two ends stops after the next record of any kind, which is not known here."""
    assert border_of(RECORDS, target) is None


def test_a_database_is_dropped_before_its_commit() -> None:
    """Its files are gone once the record is replayed; an end of its transaction makes that right."""
    drop = DatabaseDrop(LSN(0x1000580), 706)
    dropped = [*RECORDS[:-1], drop, RECORDS[-1]]
    before, after = RecoveryTarget("time", time(5)), RecoveryTarget("xid", "706")
    for target, lsn in ((before, drop.lsn), (after, None)):
        border = border_of(dropped, target)
        assert border is not None
        assert (border.dropped, len(border.warnings())) == (lsn, 1 if lsn else 0)
    warned = border_of(dropped, RecoveryTarget("lsn", str(drop.lsn), exclusive=True))
    assert warned is not None
    assert warned.warnings() == []


def test_only_what_is_known_is_said() -> None:
    commit = CommitRecord(LSN(0x1000000), 700, NOON, True)
    assert Border(commit, None).steps() == [
        "the last commit that will be there: transaction 700 of 2026-11-24 12:00:00.000000+0000 at LSN 0/1000000"
    ]
    assert Border(None, commit).steps() == [
        "the first commit that will not be there: transaction 700 of 2026-11-24 12:00:00.000000+0000 at LSN 0/1000000"
    ]
