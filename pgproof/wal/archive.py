"""The WAL archive: which segments, histories, partial segments and received parts a repository holds."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import inf

from pgproof.errors import ObjectDamaged, ObjectMissing, WalGap
from pgproof.repository.layout import SUFFIXES, Layout, without_suffix
from pgproof.repository.repository import Archive
from pgproof.repository.store import ObjectInfo
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import (
    BACKUP_HISTORY_NAME,
    HISTORY_NAME,
    PARTIAL_NAME,
    SEGMENT_NAME,
    WalSegment,
)
from pgproof.wal.breaks import Break
from pgproof.wal.checked import read_memory
from pgproof.wal.runs import Numbered, Run, by_timeline, runs_of, subtract
from pgproof.wal.stored import StoredTimes, told

_LARGEST_HISTORY = 1 << 24  # bytes
_PART_NAME = re.compile(r"([0-9A-F]{24})\.([0-9A-F]{8})")


@dataclass(frozen=True, slots=True)
class ReceivedPart:
    """The received beginning of a segment that is not archived whole yet: up to ``end`` it holds WAL, then zeros."""

    segment: WalSegment
    end: LSN
    key: str
    modified: float = field(default=0.0, compare=False)

    @classmethod
    def parse(cls, layout: Layout, key: str, segment_size: int) -> ReceivedPart | None:
        """The part that an object below ``received/`` is; None when it is none, or not where it belongs."""
        name = part_name(layout, key)
        foreign = not key.endswith(SUFFIXES)
        if name is None or foreign or int(name[16:], 16) >= 0x1_0000_0000 // segment_size:
            return None
        segment = WalSegment.parse(name, segment_size)
        offset = part_end(key)
        return cls(segment, LSN(segment.start + offset), key) if 0 < offset <= segment_size else None


@dataclass(frozen=True)
class WalListing:
    """What is archived, by name, from one listing.

    Args:
        segment_size: bytes.
        numbers: the segment numbers of each timeline.
        histories: of each timeline that has a history file.
        stored_size: bytes that all WAL takes in the repository.
        received: the newest received part of each timeline that has one.
        times: when segments and histories were stored.
        breaks: where no recovery goes past, as far as content checks have found any; see ``list_for_recovery``.
        unread: key and reason of each history file that cannot be read; it counts as missing.
    """

    segment_size: int
    numbers: Numbered = field(default_factory=dict)
    histories: dict[int, TimelineHistory] = field(default_factory=dict)
    stored_size: int = 0
    received: dict[int, ReceivedPart] = field(default_factory=dict)
    times: StoredTimes = field(default_factory=StoredTimes)
    breaks: tuple[Break, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)

    def __contains__(self, segment: WalSegment) -> bool:
        return segment.number in self.numbers.get(segment.timeline, ())

    @property
    def timelines(self) -> set[int]:
        return self.written | set(self.histories)

    @property
    def written(self) -> set[int]:
        """The timelines that have WAL, and not a history file alone."""
        return set(self.numbers) | set(self.received)

    def newest(self, timeline: int) -> WalSegment | None:
        """The newest segment of a timeline."""
        numbers = self.numbers.get(timeline)
        return WalSegment(timeline, numbers.last, self.segment_size) if numbers else None

    def end_of(self, timeline: int) -> LSN:
        """Up to where a timeline is archived, received parts included; 0 when nothing is."""
        ends = (self.newest(timeline), self.received.get(timeline))
        return max((found.end for found in ends if found), default=LSN(0))

    def count(self) -> int:
        return sum(len(numbers) for numbers in self.numbers.values())


def list_wal(archive: Archive, segment_size: int) -> WalListing:
    """List the archive; history files are read, segments are not.

    Received parts are listed first: one that is removed while we look, because its segment has just been
    archived whole, is then found as that.

    Args:
        archive: of one system identifier.
        segment_size: of its cluster, in bytes.
    """
    objects = chain(*(archive.store.list(part) for part in (archive.layout.received, archive.layout.wal)))
    return listing_of(archive.layout, objects, segment_size, lambda key: read_history(archive, key))


def list_for_recovery(archive: Archive, segment_size: int) -> WalListing:
    """As ``list_wal``, with what content checks found that no recovery goes past."""
    listing = list_wal(archive, segment_size)
    return replace(listing, breaks=read_memory(archive, segment_size).breaks)


def listing_of(
    layout: Layout,
    objects: Iterable[ObjectInfo],
    segment_size: int,
    history_at: Callable[[str], TimelineHistory],
) -> WalListing:
    """What objects below ``wal/`` and ``received/`` are, in any order and any number.

    A million names pass through here, so that a segment costs three slices and two look-ups: the part of its key
    up to the log is judged once, its last 8 digits are looked up among those that the segment size allows, and
    its time is noted.

    Args:
        layout: of the archive.
        objects: of a listing.
        segment_size: bytes.
        history_at: reads the history file of a key.
    """
    start = len(layout.wal)
    places = {f"{place:08X}": place for place in range(0x1_0000_0000 // segment_size)}
    logs: dict[str, array[float] | None] = {}
    others: list[ObjectInfo] = []
    total = 0
    log_end, name_end = start + 18 + 16, start + 18 + 24
    for info in objects:
        key = info.key
        total += info.size
        log = key[:log_end]
        try:
            known = logs[log]
        except KeyError:
            known = logs[log] = array("d", bytes(8 * len(places))) if _is_log(layout, log) else None
        place = places.get(key[log_end:name_end])
        if known is None or place is None or key[name_end:] not in SUFFIXES:
            others.append(info)
        else:
            modified = info.modified if info.modified > 0 else inf
            if modified > known[place]:
                known[place] = modified
    times = StoredTimes(
        {(int(log[-16:-8], 16), int(log[-8:], 16)): known for log, known in logs.items() if known is not None}
    )
    listing = WalListing(segment_size, times.numbers, {}, total, times=times)
    _add_others(listing, layout, others, history_at)
    return listing


def _is_log(layout: Layout, prefix: str) -> bool:
    """Whether the keys of segments begin so: wal/<timeline>/<log>/<timeline><log>."""
    name = prefix.rsplit("/", 1)[-1] + "00000000"
    return bool(SEGMENT_NAME.fullmatch(name)) and layout.wal_file(name) == prefix + "00000000"


def _add_others(
    listing: WalListing,
    layout: Layout,
    others: Iterable[ObjectInfo],
    history_at: Callable[[str], TimelineHistory],
) -> None:
    for info in others:
        if info.key.startswith(layout.received):
            part = ReceivedPart.parse(layout, info.key, listing.segment_size)
            if part is not None:
                part = replace(part, modified=info.modified)
                newest = listing.received.get(part.segment.timeline, part)
                listing.received[part.segment.timeline] = max(part, newest, key=lambda one: one.end)
            continue
        name = wal_name(layout, info.key)
        if name is None:
            continue
        if HISTORY_NAME.fullmatch(name):
            try:
                history = history_at(info.key)
            except ObjectDamaged as error:  # as one that is missing, which is safe
                listing.unread[info.key] = f"{error.fact}. {error.detail}"
            else:
                listing.histories[history.timeline] = history
                listing.times.histories[history.timeline] = told(info.modified)
        elif SEGMENT_NAME.fullmatch(name):
            WalSegment.parse(name, listing.segment_size)  # says of which segment size it is none


def wal_name(layout: Layout, key: str) -> str | None:
    """The name of the WAL file that an object is; None when it is none, or not where it belongs."""
    base = without_suffix(key)
    name = base.rsplit("/", 1)[-1]
    forms = (SEGMENT_NAME, PARTIAL_NAME, BACKUP_HISTORY_NAME, HISTORY_NAME)
    known = any(form.fullmatch(name) for form in forms)
    return name if known and layout.wal_file(name) == base else None


def part_name(layout: Layout, key: str) -> str | None:
    """The name of the segment that an object below ``received/`` is a part of; None when it is none."""
    base = without_suffix(key)
    match = _PART_NAME.fullmatch(base.rsplit("/", 1)[-1])
    if match is None or layout.received_part(match[1], int(match[2], 16)) != base:
        return None
    return match[1]


def part_end(key: str) -> int:
    """How many bytes of its segment a received part has, by its key."""
    return int(without_suffix(key)[-8:], 16)


def read_history(archive: Archive, key: str) -> TimelineHistory:
    """An archived history file.

    Raises:
        ObjectDamaged: it cannot be read.
    """
    name = without_suffix(key).rsplit("/", 1)[-1]
    return TimelineHistory.parse(
        int(name[:8], 16), archive.read_whole(key, _LARGEST_HISTORY).decode(errors="replace")
    )


def find_key(archive: Archive, name: str) -> str:
    """The key of an archived WAL file, whichever codec wrote it.

    Raises:
        ObjectMissing: it is not archived. A store that cannot be asked raises StoreUnavailable instead.
    """
    base = archive.layout.wal_file(name)
    preferred = archive.repository.codec.suffix
    for suffix in (preferred, *(other for other in SUFFIXES if other != preferred)):
        try:
            return archive.store.head(base + suffix).key
        except ObjectMissing:
            continue
    raise ObjectMissing(f'WAL file "{name}" is not in the archive "{archive.store.url}"')


def is_archived(archive: Archive, name: str) -> bool:
    """Whether a WAL file is archived whole."""
    try:
        find_key(archive, name)
    except ObjectMissing:
        return False
    return True


def find_part(archive: Archive, segment: WalSegment) -> ReceivedPart | None:
    """The received part of a segment that reaches furthest; None when there is none."""
    prefix = f"{archive.layout.received}{segment.timeline:08X}/"
    parts = [
        ReceivedPart.parse(archive.layout, info.key, segment.size) for info in archive.store.list(prefix)
    ]
    own = (part for part in parts if part is not None and part.segment == segment)
    return max(own, key=lambda part: part.end, default=None)


def runs_between(history: TimelineHistory, first: WalSegment, last_lsn: int) -> list[Run]:
    """The segments that a recovery along a timeline reads, in order.

    Across a fork the segment that holds it is read from the younger timeline, which starts with a copy of the
    older one's pages (``XLogFileReadAnyTLI``); the older timeline's own copy may be a ``.partial``.

    Args:
        history: of the recovery's target timeline.
        first: where the backup starts.
        last_lsn: the position to reach, exclusive.
    """
    size = first.size
    last = (max(last_lsn, first.start + 1) - 1) // size
    # only where a fork lies, and in the last segment, can the timeline be another than one segment before
    turns = {first.number, last, *(fork.lsn // size for fork in history.forks)}
    begins = sorted(number for number in turns if first.number <= number <= last)
    runs: list[Run] = []
    for number, following in zip(begins, [*begins[1:], last + 1], strict=True):
        timeline = max(history.timeline_at(min((number + 1) * size - 1, last_lsn)), first.timeline)
        end = WalSegment(timeline, following - 1, size)
        if runs and runs[-1].timeline == timeline:
            runs[-1] = Run(runs[-1].first, end)
        else:
            runs.append(Run(WalSegment(timeline, number, size), end))
    return runs


def segments_between(history: TimelineHistory, first: WalSegment, last_lsn: int) -> Iterator[WalSegment]:
    """The segments of ``runs_between``, one by one."""
    return chain.from_iterable(runs_between(history, first, last_lsn))


def end_of_path(listing: WalListing, history: TimelineHistory) -> LSN:
    """The end of the WAL that is in the repository along a path, received parts included; 0 when nothing is."""
    part = received_on(listing, history)
    return part.end if part else end_of_segments(listing, history)


def end_of_segments(listing: WalListing, history: TimelineHistory) -> LSN:
    """The end of the newest whole segment along a path; 0 when there is none.

    What an ancestor wrote after it was left belongs to another future: a server that was restored to an earlier
    point starts a timeline whose WAL ends long before that of the old one.
    """
    ends = [LSN(0)]
    for index, timeline in enumerate(history.path):
        newest = listing.newest(timeline)
        if newest is None:
            continue
        left = _left_at(history, index, newest.size)
        ends.append(newest.end if left is None else min(newest.end, left))
    return max(ends)


def _left_at(history: TimelineHistory, index: int, size: int) -> LSN | None:
    """Up to where the path's timeline of an index counts; None when it is never left."""
    left = min((fork.lsn for fork in history.forks[index:]), default=None)
    # the segment that holds a fork counts from the younger timeline alone (runs_between)
    return None if left is None else LSN(left - left % size)


def received_on(listing: WalListing, history: TimelineHistory) -> ReceivedPart | None:
    """The received part that continues what is archived along a path.

    It counts when the segment directly before it is archived, or nothing is, and it reaches further than
    every whole segment of the path.
    """
    end = end_of_segments(listing, history)
    for index in range(len(history.path) - 1, -1, -1):
        part = listing.received.get(history.path[index])
        if part is None or part.end <= end or part.segment in listing:
            continue
        left = _left_at(history, index, part.segment.size)
        if (left is None or part.end <= left) and _continues(listing, history, part.segment, end):
            return part
    return None


def _continues(listing: WalListing, history: TimelineHistory, segment: WalSegment, end: LSN) -> bool:
    if not end:
        return True
    before = WalSegment(history.timeline_at(segment.start - 1), segment.number - 1, segment.size)
    return segment.start == end and before in listing


def present_between(
    listing: WalListing, history: TimelineHistory, first: WalSegment, last_lsn: int
) -> list[WalSegment]:
    """The segments of ``segments_between`` that are there, archived or received."""
    part = received_on(listing, history)
    there = part.segment if part else None
    wanted = segments_between(history, first, last_lsn)
    return [segment for segment in wanted if segment in listing or segment == there]


def require(
    listing: WalListing,
    wanted: Sequence[Run],
    purpose: str,
    received: ReceivedPart | None = None,
) -> list[WalSegment]:
    """The wanted segments, all of which must be there: archived, or as far as they are wanted received.

    What is missing is found by the ends of runs: a restore asks for each backup that it may take, and a year of WAL
    lies behind the oldest.

    Raises:
        WalGap: the first missing one is named, with how many others are missing.
    """
    there = by_timeline([Run(received.segment, received.segment)]) if received else {}
    missing = list(
        runs_of(subtract(subtract(by_timeline(wanted), listing.numbers), there), listing.segment_size)
    )
    if missing:
        first = min((run.first for run in missing), key=lambda segment: (segment.number, segment.timeline))
        others = sum(run.count for run in missing) - 1
        more = f" and {others} more" if others else ""
        raise WalGap(
            f'WAL segment "{first}"{more} is missing from the archive',
            f"It holds LSN {first.start} to {first.end}, needed {purpose}.",
            "pgproof wal check NAME --repair looks for it on the source, on standbys and in copies, and says which "
            "recovery windows remain; when nobody has it, take a new backup",
        )
    return [segment for run in wanted for segment in run]
