"""The stretch of WAL that a restored copy has: from where its recovery begins to the fence, read with pg_waldump."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.held import temporary_directory
from pgproof.repository.repository import Archive
from pgproof.restore.plan import RestorePlan
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.validation.fences.fence import Fence
from pgproof.validation.scratch import Scratch
from pgproof.validation.targets.plan import Stretch
from pgproof.wal.archive import segments_between
from pgproof.wal.fetch import fetch
from pgproof.wal.records import Record, read_records


def bring_forks(archive: Archive, plan: RestorePlan, scratch: Scratch) -> list[Path]:
    """Fetch the segments in which timelines were left, as these timelines wrote them.

    Recovery along the newest timeline reads its own copies of them, so one that is missing or damaged is no fault
    of the backup: a target before that fork is then reached along the newest timeline.

    Returns:
        what was fetched.
    """
    brought = []
    for fork in forks_between(plan.history, plan.record.stop_lsn, plan.reach):
        name = _left_in(fork, plan.record.segment_size).name
        if not (scratch.wal / name).exists():
            with contextlib.suppress(ObjectMissing, ObjectDamaged):
                fetch(archive, name, scratch.wal / name)
                brought.append(scratch.wal / name)
    return brought


def _left_in(fork: Fork, size: int) -> WalSegment:
    return WalSegment.containing(fork.timeline, LSN(fork.lsn - 1), size)


def forks_between(history: TimelineHistory, start: LSN, end: LSN) -> tuple[Fork, ...]:
    """The forks that a recovery along a timeline passes; not those of an ancestor that lie beyond a later one."""
    return tuple(
        fork
        for fork, following in zip(history.forks, history.path[1:], strict=True)
        if start < fork.lsn < end
        and (history.timeline_at(fork.lsn - 1), history.timeline_at(fork.lsn)) == (fork.timeline, following)
    )


def stretch_of(scratch: Scratch, fence: Fence, timeline: int, consistent: LSN, cut: LSN) -> Stretch:
    """Where the targets of a copy may lie.

    Args:
        scratch: with the copy's WAL.
        fence: of its source.
        timeline: that recovery follows.
        consistent: stop LSN of the backup.
        cut: the first one of the fence.
    """
    forks = forks_between(_history(scratch, timeline), consistent, cut)
    left = (fork for fork in forks if (scratch.wal / _left_in(fork, fence.segment_size).name).exists())
    return Stretch(consistent, cut, timeline, forks, frozenset(fork.timeline for fork in left))


def read_stretch(
    scratch: Scratch, bin_directory: Path, fence: Fence, timeline: int, first: str, start: LSN
) -> Iterator[Record]:
    """The ends of transactions and the restore points of a copy's WAL, in the order of WAL.

    Args:
        scratch: with the copy's WAL.
        bin_directory: with pg_waldump.
        fence: up to whose end the WAL is there.
        timeline: that recovery follows.
        first: name of the first segment.
        start: where recovery begins.

    Raises:
        ObjectDamaged: WAL in between cannot be read.
    """
    begin = WalSegment.parse(first, fence.segment_size)
    segments = segments_between(_history(scratch, timeline), begin, fence.end_lsn)
    with temporary_directory("targets") as directory:
        for segment in segments:  # all under the timeline that pg_waldump is told
            link = directory / segment.on(timeline).name
            link.symlink_to(scratch.wal.absolute() / segment.name)
        yield from read_records(
            bin_directory, directory, start, fence.end_lsn, timeline, ("Transaction", "XLOG")
        )


def _history(scratch: Scratch, timeline: int) -> TimelineHistory:
    path = scratch.wal / f"{timeline:08X}.history"
    if not path.exists():
        return TimelineHistory(timeline)
    return TimelineHistory.parse(timeline, path.read_bytes().decode(errors="replace"))
