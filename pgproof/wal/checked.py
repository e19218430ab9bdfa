"""What is remembered of content checks: which segments were read and found good, so that they are not read each time.

Kept in the repository (``Layout.wal_checked``; docs/repository-format.md). It only ever saves work: when it is lost,
everything is read again. Two checks at once may each replace what the other wrote, and so forget; neither can make a
changed segment look checked, because each remembers only what it read, with the store's own time of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from pgproof.errors import ObjectDamaged, ObjectMissing, PgproofError
from pgproof.repository.repository import Archive
from pgproof.repository.shape import moment
from pgproof.timelines.segment import WalSegment
from pgproof.wal.breaks import Break

# An object stored less than this before it was read is read once more: a store may count time in whole seconds, and
# another object may take its place within the same one.
MARGIN = timedelta(seconds=10)
_LONGEST = 1 << 24  # segments in one run


@dataclass(frozen=True, order=True, slots=True)
class CheckedRun:
    """Segments in a row that were read and good.

    Args:
        first, last: both ends are checked.
        checked_at: when the first of them was read, aware.
        crc: whether their records' CRCs were checked, too.
        stored_until: when the newest of their objects was stored, in epoch seconds by the store's clock.
    """

    first: WalSegment
    last: WalSegment
    checked_at: datetime
    crc: bool
    stored_until: float

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1

    def holds(self, segment: WalSegment) -> bool:
        same = segment.timeline == self.first.timeline
        return same and self.first.number <= segment.number <= self.last.number

    def as_dict(self) -> dict[str, Any]:
        return {
            "timeline": self.first.timeline,
            "first": self.first.name,
            "last": self.last.name,
            "checked_at": self.checked_at.isoformat(timespec="seconds"),
            "crc": self.crc,
            "stored_until": self.stored_until,
        }


@dataclass(frozen=True)
class Memory:
    """The runs, in order, where no recovery goes past, and why there is neither where a file was there."""

    runs: tuple[CheckedRun, ...] = ()
    warning: str = ""
    breaks: tuple[Break, ...] = ()
    _starts: list[WalSegment] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [run.first for run in self.runs])

    def find(self, segment: WalSegment) -> CheckedRun | None:
        """The run that holds a segment."""
        index = bisect_right(self._starts, segment) - 1
        return self.runs[index] if index >= 0 and self.runs[index].holds(segment) else None


class Recall:
    """Which remembered segments still count: those that a check meets, unchanged and not due."""

    def __init__(self, memory: Memory, now: datetime, recheck_after: timedelta, *, crc: bool) -> None:
        self._memory, self._now, self._after, self._crc = memory, now, recheck_after, crc
        self._marks = {run: bytearray(run.count) for run in memory.runs}

    def keep(self, segment: WalSegment, modified: float) -> bool:
        """Whether a segment need not be read; it is remembered further then.

        Args:
            segment: that is archived.
            modified: when its object was stored, in epoch seconds; 0 unknown.
        """
        run = self._memory.find(segment)
        if run is None or not 0 < modified <= run.stored_until or (self._crc and not run.crc):
            return False
        if not timedelta(0) <= self._now - run.checked_at < self._after:  # a time to come was a wrong clock's
            return False
        self._marks[run][segment.number - run.first.number] = 1
        return True

    def forget(self, segment: WalSegment) -> None:
        if run := self._memory.find(segment):
            self._marks[run][segment.number - run.first.number] = 0

    def count(self) -> int:
        return sum(marks.count(1) for marks in self._marks.values())

    def runs(self) -> Iterator[CheckedRun]:
        """What is remembered of the kept ones."""
        for run, marks in self._marks.items():
            start = marks.find(1)
            while start >= 0:
                end = marks.find(0, start)
                end = len(marks) if end < 0 else end
                first = replace(run.first, number=run.first.number + start)
                yield replace(run, first=first, last=replace(first, number=run.first.number + end - 1))
                start = marks.find(1, end)


def join(runs: Iterable[CheckedRun]) -> tuple[CheckedRun, ...]:
    """Runs that touch and were checked alike on one day become one; of two times the earlier counts.

    So at most one run a day is kept of an archive without gaps, and what was checked on one day is read again on one.
    """
    joined: list[CheckedRun] = []
    for run in sorted(runs):
        last = joined[-1] if joined else None
        if last is not None and last.last.next() == run.first and _alike(last, run):
            joined[-1] = replace(
                last,
                last=run.last,
                checked_at=min(last.checked_at, run.checked_at),
                stored_until=max(last.stored_until, run.stored_until),
            )
        else:
            joined.append(run)
    return tuple(joined)


def _alike(one: CheckedRun, two: CheckedRun) -> bool:
    return one.crc == two.crc and one.checked_at.date() == two.checked_at.date()


def read_memory(archive: Archive, segment_size: int) -> Memory:
    """What earlier checks of this archive remembered; nothing where that cannot be understood.

    Args:
        archive: of one system identifier.
        segment_size: of its cluster, in bytes.

    Raises:
        StoreUnavailable, RepositoryReadOnly: the store could not be asked.
    """
    try:
        tree = archive.read_json(archive.layout.wal_checked)
        if int(tree["system_identifier"]) != archive.system_identifier:
            raise ValueError(f"it is of system identifier {tree['system_identifier']}")
        if int(tree["segment_size"]) != segment_size:
            raise ValueError(f"it is of segments of {tree['segment_size']} bytes")
        runs = join(_parse(run, segment_size) for run in _disjoint(tree["runs"]))
        return Memory(runs, breaks=_breaks(tree.get("breaks", []), segment_size))
    except ObjectMissing:
        return Memory()
    except (ObjectDamaged, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.detail.rstrip(".") if isinstance(error, ObjectDamaged) else repr(error)
        return Memory(
            warning=f'what was checked before is not known: "{archive.layout.wal_checked}" cannot be used: {reason}'
        )


def _breaks(found: Any, size: int) -> tuple[Break, ...]:
    try:
        return tuple(Break.from_dict(one, size) for one in found)
    except PgproofError as error:
        raise ValueError(error.fact) from error


def _disjoint(runs: Any) -> Sequence[dict[str, Any]]:
    if not isinstance(runs, list):
        raise ValueError("runs is no list")
    names = sorted((str(run["first"]), str(run["last"])) for run in runs)
    following = [first for first, _ in names[1:]]
    for index, (first, last) in enumerate(names):
        if first > last or (index < len(following) and last >= following[index]):
            raise ValueError(f"the run {first} to {last} is not in order")
    return runs


def _parse(run: dict[str, Any], size: int) -> CheckedRun:
    try:
        first, last = WalSegment.parse(run["first"], size), WalSegment.parse(run["last"], size)
    except PgproofError as error:
        raise ValueError(error.fact) from error
    checked_at = moment(run["checked_at"])
    if first.timeline != last.timeline or last.number - first.number >= _LONGEST:
        raise ValueError(f"the run {first} to {last} cannot be read")
    stored_until = float(run["stored_until"])
    if not isfinite(stored_until):
        raise ValueError(f"the run {first} to {last} was stored at {stored_until}")
    return CheckedRun(first, last, checked_at, run["crc"] is True, stored_until)


def write_memory(
    archive: Archive, segment_size: int, runs: Iterable[CheckedRun], breaks: Iterable[Break] = ()
) -> str:
    """Replace what is remembered, in one write.

    Returns:
        why it could not be written, which is no fault of what was checked; empty when it was.
    """
    tree = {
        "system_identifier": str(archive.system_identifier),
        "segment_size": segment_size,
        "runs": [run.as_dict() for run in join(runs)],
        "breaks": [one.as_dict() for one in breaks],
    }
    try:
        archive.write_json(archive.layout.wal_checked, tree, create=False)
    except PgproofError as error:
        return f"what was checked is not remembered: {error.fact}"
    return ""
