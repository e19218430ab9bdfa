"""A reading is one pass over the WAL that a recovery will replay: what its records make a restored cluster do.

Which tablespaces it creates, to which values the source raised the five settings that a hot standby must have, and
where recovery would end early.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.repository.repository import Archive
from pgproof.restore.locate import WalReader
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, find_part
from pgproof.wal.beside import ArchivedBeside
from pgproof.wal.breaks import Break, reset_at
from pgproof.wal.parameters import ParameterSearch, Searched, searched, widest
from pgproof.wal.records import ParameterChange
from pgproof.wal.tablespaces import TablespaceRecord, tablespace_records

AT_ONCE = (
    4 << 30
)  # bytes of WAL that are read for a plan; about 20 s. More is read while the files are extracted
_MEMORY = 512 << 20  # bytes of WAL in memory at once, where segments are not larger than that

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Reading:
    """What was read.

    Args:
        tablespaces: records of them, in the order of WAL.
        raised: the largest value of each of the five settings; nothing for one that WAL does not name.
        breaks: where recovery ends.
        segments: how many were read.
        seconds: that it took.
    """

    tablespaces: tuple[TablespaceRecord, ...] = ()
    raised: Mapping[str, int] = field(default_factory=dict)
    breaks: tuple[Break, ...] = ()
    segments: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Segment:
    """One segment, looked at."""

    segment: WalSegment
    tablespaces: list[TablespaceRecord]
    parameters: Searched
    reset: Break | None


def read_wal(
    archive: Archive,
    segments: Sequence[WalSegment],
    reader: WalReader | None,
    workers: int,
    progress: Progress = lambda size: None,
    ended: Callable[[], bool] = lambda: False,
) -> Reading:
    """Read segments once, each of them for everything.

    Args:
        archive: to read from.
        segments: that recovery will replay, in order.
        reader: confirms with pg_waldump what may be a change of settings; None where it is not installed.
        workers: segments at a time.
        progress: told the bytes of WAL that were read.
        ended: whether nobody waits for it any more.

    Raises:
        ObjectMissing, ObjectDamaged: a segment is not there, or cannot be read.
    """
    started = time.monotonic()
    tablespaces: set[TablespaceRecord] = set()
    raised: dict[str, int] = {}
    breaks: list[Break] = []
    search = ParameterSearch()

    def look(segment: WalSegment) -> _Segment:
        content = _content(archive, segment)
        progress(len(content))
        found = tablespace_records(content, ArchivedBeside([lambda: archive], segment))
        return _Segment(segment, found, searched([content]), reset_at(segment, content))

    for one in _in_order(look, segments, workers, ended):
        tablespaces.update(one.tablespaces)
        if one.reset:
            breaks.append(one.reset)
            search = ParameterSearch()  # nothing before it reaches into it
        row = search.add(one.segment, one.parameters)
        for change in _changes(reader, row) if reader and row else ():
            raised = widest(raised, change.values)
            if change.minimal:
                breaks.append(Break(_holder(row, change.lsn), change.lsn))
    ordered = tuple(sorted(tablespaces, key=lambda record: record.lsn))
    return Reading(
        ordered, raised, tuple(sorted(set(breaks))), len(segments), round(time.monotonic() - started, 1)
    )


def _in_order(
    look: Callable[[WalSegment], _Segment],
    segments: Sequence[WalSegment],
    workers: int,
    ended: Callable[[], bool],
) -> Iterator[_Segment]:
    """What is found in each segment, in the order of WAL, several at a time and no more than fit into memory."""
    at_once = max(1, min(workers, _MEMORY // segments[0].size)) if segments else 1
    waiting: deque[Future[_Segment]] = deque()
    with ThreadPoolExecutor(at_once, "wal") as pool:
        for segment in segments:
            if ended():
                return
            waiting.append(pool.submit(look, segment))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _changes(reader: WalReader, row: Sequence[WalSegment]) -> list[ParameterChange]:
    try:
        records = reader.records(*row, rmgrs=("XLOG",))
    except ObjectDamaged:  # recovery itself comes to it, and says more
        return []
    return [record for record in records if isinstance(record, ParameterChange)]


def _holder(row: Sequence[WalSegment], lsn: LSN) -> WalSegment:
    return next(segment for segment in row if segment.end > lsn)


def _content(archive: Archive, segment: WalSegment) -> bytes:
    """A segment as it is archived, or what was received of it."""
    try:
        key = find_key(archive, segment.name)
    except ObjectMissing:
        part = find_part(archive, segment)
        if part is None:
            raise
        key = part.key
    return archive.read_whole(key, segment.size)
