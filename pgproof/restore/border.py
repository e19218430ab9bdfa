"""A border is the place between two commits at which a recovery stops: the last that will be there, the first not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgproof.restore.locate import WalReader
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.records import CommitRecord, DatabaseDrop, Record, RestorePoint

_BEFORE, _AFTER = 2, 1  # segments that are read around the target


@dataclass(frozen=True, slots=True)
class Border:
    """Two commits, as far as they lie near the target.

    Args:
        last: the last one that will be there.
        following: the first one that will not.
        dropped: where a DROP DATABASE begins that is replayed, and whose commit is not.
    """

    last: CommitRecord | None
    following: CommitRecord | None
    dropped: LSN | None = None

    def steps(self) -> list[str]:
        """Lines for the plan of a restore."""
        lines = []
        if self.last is not None:
            lines.append(f"the last commit that will be there: {_named(self.last)}")
        if self.following is not None:
            lines.append(f"the first commit that will not be there: {_named(self.following)}")
        return lines

    def warnings(self) -> list[str]:
        """What a recovery that stops here destroys."""
        if self.dropped is None:
            return []
        return [
            "a database will be there and its files will not: PostgreSQL removes them before the DROP DATABASE "
            f"commits, and recovery stops between the two. --target-lsn {self.dropped} --exclusive stops before it, "
            "with the same commits, and pgproof start says how to open the database again"
        ]


def _named(commit: CommitRecord) -> str:
    of = f" of {commit.time:%F %T.%f%z}" if commit.time else ""
    return f"transaction {commit.xid}{of} at LSN {commit.lsn}"


def border_of(records: Sequence[Record], target: RecoveryTarget) -> Border | None:
    """Where a recovery stops among records (``recoveryStopsBefore`` and ``recoveryStopsAfter`` of xlogrecovery.c).

    Args:
        records: ends of transactions and restore points around the target, in the order of WAL.
        target: a time, LSN, xid or name.

    Returns:
        None when it cannot be said: these records have no such place, or other records than these decide.
    """
    last: CommitRecord | None = None
    for number, record in enumerate(records):
        if _stops_before(record, target):
            return Border(last, _first_commit(records[number:]), _dropped(records[:number]))
        if isinstance(record, CommitRecord) and record.committed and record.xid:
            last = record
        if _stops_after(record, target):
            return Border(last, _first_commit(records[number + 1 :]), _dropped(records[: number + 1]))
        if target.kind == "lsn" and record.lsn >= target.lsn:
            return None  # an inclusive one between two records that are listed here: what lies there is not known
    return None


def _first_commit(records: Sequence[Record]) -> CommitRecord | None:
    return next((r for r in records if isinstance(r, CommitRecord) and r.committed and r.xid), None)


def _dropped(replayed: Sequence[Record]) -> LSN | None:
    """The first DROP DATABASE of a transaction that does not end (``dropdb``, ``dbase_redo``)."""
    ended = {record.xid for record in replayed if isinstance(record, CommitRecord)}
    drops = [record for record in replayed if isinstance(record, DatabaseDrop) and record.xid]
    return next((drop.lsn for drop in drops if drop.xid not in ended), None)


def _stops_before(record: Record, target: RecoveryTarget) -> bool:
    if target.kind == "lsn":
        return target.exclusive and record.lsn >= target.lsn
    if not isinstance(record, CommitRecord):
        return False
    if target.kind == "time" and record.time is not None:
        return record.time >= target.time if target.exclusive else record.time > target.time
    return target.kind == "xid" and target.exclusive and record.xid == int(target.value) & 0xFFFFFFFF


def _stops_after(record: Record, target: RecoveryTarget) -> bool:
    if target.kind == "lsn":
        return record.lsn == target.lsn
    if target.kind == "name":
        return isinstance(record, RestorePoint) and record.name == target.value
    return (
        target.kind == "xid"
        and isinstance(record, CommitRecord)
        and record.xid == int(target.value) & 0xFFFFFFFF
    )


def read_border(
    reader: WalReader, present: Sequence[WalSegment], target: RecoveryTarget, reach: LSN
) -> Border | None:
    """The border of a target, from the few segments around it.

    Args:
        reader: of the archive.
        present: segments that are there along the recovery's timeline, in order.
        target: of the recovery.
        reach: where the target was located.
    """
    if target.kind not in ("time", "lsn", "xid", "name"):
        return None
    here = next((n for n, segment in enumerate(present) if segment.start <= reach < segment.end), None)
    if here is None:
        return None
    around = [present[here]]
    for segment in reversed(present[max(0, here - _BEFORE) : here]):
        if segment.number == around[0].number - 1:
            around.insert(0, segment)
    for segment in present[here + 1 : here + 1 + _AFTER]:
        if segment.number == around[-1].number + 1:
            around.append(segment)
    rmgrs = ("Transaction", "Database", "XLOG") if target.kind == "name" else ("Transaction", "Database")
    return border_of(reader.records(*around, rmgrs=rmgrs), target)
