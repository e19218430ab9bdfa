"""The WAL archive: which segments, histories and partial segments a repository holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pgproof.errors import ObjectMissing, WalGap
from pgproof.repository.layout import SUFFIXES, without_suffix
from pgproof.repository.repository import Archive
from pgproof.timelines.history import TimelineHistory
from pgproof.wal.lsn import LSN
from pgproof.wal.segment import HISTORY_NAME, SEGMENT_NAME, WalSegment


@dataclass(frozen=True)
class WalListing:
    """What is archived, by name, from one listing.

    Args:
        segment_size: bytes.
        numbers: the segment numbers of each timeline.
        histories: of each timeline that has a history file.
        stored_size: bytes that all WAL takes in the repository.
    """

    segment_size: int
    numbers: dict[int, set[int]] = field(default_factory=dict)
    histories: dict[int, TimelineHistory] = field(default_factory=dict)
    stored_size: int = 0

    def __contains__(self, segment: WalSegment) -> bool:
        return segment.number in self.numbers.get(segment.timeline, ())

    @property
    def timelines(self) -> set[int]:
        return set(self.numbers) | set(self.histories)

    def newest(self, timeline: int) -> WalSegment | None:
        """The newest segment of a timeline."""
        numbers = self.numbers.get(timeline)
        return WalSegment(timeline, max(numbers), self.segment_size) if numbers else None

    def count(self) -> int:
        return sum(len(numbers) for numbers in self.numbers.values())


def list_wal(archive: Archive, segment_size: int) -> WalListing:
    """List the archive; history files are read, segments are not.

    Args:
        archive: of one system identifier.
        segment_size: of its cluster, in bytes.
    """
    listing = WalListing(segment_size)
    total = 0
    for info in archive.store.list(archive.layout.wal):
        total += info.size
        name = without_suffix(info.key).rsplit("/", 1)[-1]
        if SEGMENT_NAME.fullmatch(name):
            segment = WalSegment.parse(name, segment_size)
            listing.numbers.setdefault(segment.timeline, set()).add(segment.number)
        elif HISTORY_NAME.fullmatch(name):
            history = read_history(archive, info.key)
            listing.histories[history.timeline] = history
    return WalListing(segment_size, listing.numbers, listing.histories, total)


def read_history(archive: Archive, key: str) -> TimelineHistory:
    """An archived history file.

    Raises:
        ObjectDamaged: it cannot be read.
    """
    name = without_suffix(key).rsplit("/", 1)[-1]
    return TimelineHistory.parse(int(name[:8], 16), b"".join(archive.open(key)).decode(errors="replace"))


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


def segments_between(history: TimelineHistory, first: WalSegment, last_lsn: int) -> Iterator[WalSegment]:
    """The segments that a recovery along a timeline reads, in order.

    Across a fork the segment that holds it is read from the younger timeline, which starts with a copy of the
    older one's pages (``XLogFileReadAnyTLI``); the older timeline's own copy may be a ``.partial``.

    Args:
        history: of the recovery's target timeline.
        first: where the backup starts.
        last_lsn: the position to reach, exclusive.
    """
    number = first.number
    while number * first.size < max(last_lsn, first.start + 1):
        end_of_segment = (number + 1) * first.size - 1
        timeline = history.timeline_at(min(end_of_segment, last_lsn))
        yield WalSegment(max(timeline, first.timeline), number, first.size)
        number += 1


def end_of_path(listing: WalListing, history: TimelineHistory) -> LSN:
    """The end of the WAL that is archived along a path; 0 when nothing is.

    What an ancestor wrote after it was left belongs to another future: a server that was restored to an earlier
    point starts a timeline whose WAL ends long before that of the old one.
    """
    ends = [LSN(0)]
    for index, timeline in enumerate(history.path):
        newest = listing.newest(timeline)
        if newest is None:
            continue
        left = min((fork.lsn for fork in history.forks[index:]), default=None)
        # the segment that holds a fork counts from the younger timeline alone (segments_between)
        ends.append(newest.end if left is None else min(newest.end, LSN(left - left % newest.size)))
    return max(ends)


def require(listing: WalListing, wanted: Iterator[WalSegment], purpose: str) -> list[WalSegment]:
    """The wanted segments, all of which must be archived.

    Raises:
        WalGap: the first missing one is named, with how many others are missing.
    """
    segments = list(wanted)
    missing = [segment for segment in segments if segment not in listing]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WalGap(
            f'WAL segment "{missing[0]}"{more} is missing from the archive',
            f"It holds LSN {missing[0].start} to {missing[0].end}, needed {purpose}.",
            "pgproof wal check NAME shows which recovery windows remain; "
            "copy the segment from the source's pg_wal and run pgproof wal push on it, or take a new backup",
        )
    return segments
