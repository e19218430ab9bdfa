"""A recovery window is the WAL of a timeline's path from a base backup on: any point in it can be reached.

Invariant 4: WAL that a kept backup needs to reach any later point of a window is never removed. Where a
position is in doubt, its WAL stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pgproof.backups.catalog import BackupEntry
from pgproof.backups.record import BackupRecord
from pgproof.repository.layout import Layout
from pgproof.repository.store import ObjectInfo
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import HISTORY_NAME
from pgproof.wal.archive import WalListing, end_of_segments, part_name, runs_between, wal_name
from pgproof.wal.runs import Interval, Numbered, Numbers, by_timeline, intersect, subtract

_ENDLESS = 1 << 64  # above every segment number


@dataclass(frozen=True, slots=True)
class Window:
    """A recovery window: the path of timelines that it follows, and the backup that it starts from.

    Args:
        path: of timelines.
        base: the backup.
        following: the backup that will be the base when it is old enough; None where none is needed for that.
    """

    path: TimelineHistory
    base: BackupEntry
    following: BackupEntry | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the archive holds, and which of the rest expire itself removed: such a hole is never filled again."""

    listing: WalListing
    removed: Numbered = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Island:
    """Backups of a path from which WAL ends at the same hole.

    Args:
        entries: oldest first.
        apart: whether expire removed WAL before the first of them, so that no older backup will ever reach them.
    """

    entries: list[BackupEntry]
    apart: bool


@dataclass(frozen=True, slots=True)
class Need:
    """A stretch of WAL that stays: on a timeline, from an LSN to another, or without an end."""

    timeline: int
    start: LSN
    end: LSN | None = None

    def numbers(self, size: int) -> Interval:
        """The numbers of the segments of a size that hold a byte of it."""
        return self.start // size, _ENDLESS if self.end is None else (self.end - 1) // size


@dataclass(frozen=True, slots=True)
class WalNeeds:
    """All WAL that stays, as intervals of segment numbers: invariant 4 in one place.

    Expire asks it of every object, the gap check of every missing run.

    Args:
        needs: of ``wal_needs``, or more.
        newest: the newest kept backup; what may be newer stays, as the next backup may build on it.
        ended: timelines on which nothing is newer, and no next backup is taken.
    """

    needs: tuple[Need, ...]
    newest: BackupRecord
    ended: frozenset[int] = frozenset()

    def on(self, timeline: int, size: int) -> Numbers:
        """The numbers of the segments of a timeline that stay.

        Args:
            timeline: of the segments.
            size: of a segment in bytes.
        """
        intervals = [need.numbers(size) for need in self.needs if need.timeline == timeline]
        if timeline not in self.ended:
            newer = 0 if timeline > self.newest.timeline else self.newest.first_segment.start // size
            intervals.append((newer, _ENDLESS))
        return Numbers.of(intervals)


def find_windows(
    entries: Sequence[BackupEntry],
    usable: Collection[str],
    paths: Iterable[TimelineHistory],
    cutoff: datetime,
    holdings: Holdings | None = None,
    relied: BackupEntry | None = None,
) -> tuple[Window, ...]:
    """The windows that the backups allow, each with its base.

    Args:
        entries: every backup, oldest first.
        usable: labels of the backups that can be restored as far as we know; preferred as a base.
        paths: of the futures that have a window.
        cutoff: every window reaches back to this time at least, where a backup does.
        holdings: of the archive; a base counts as far as its WAL is unbroken. None takes all WAL as there.
        relied: the newest proven backup; windows along paths on which it lies reach back to it at least, as nothing
            newer is proven.
    """
    return tuple(
        window
        for path in paths
        for window in _windows(path, entries, usable, reach_of(path, cutoff, relied), holdings)
    )


def reach_of(path: TimelineHistory, cutoff: datetime, relied: BackupEntry | None) -> datetime:
    """How far back the window along a path reaches: to the newest proven backup at least, where that lies on it."""
    return min(cutoff, relied.record.reachable_from) if relied and lies_on(path, relied) else cutoff


def lies_on(path: TimelineHistory, entry: BackupEntry) -> bool:
    """Whether a recovery along the path can start from the backup; its stop LSN decides."""
    return path.contains(entry.record.timeline, entry.record.stop_lsn)


def _windows(
    path: TimelineHistory,
    entries: Sequence[BackupEntry],
    usable: Collection[str],
    cutoff: datetime,
    holdings: Holdings | None,
) -> list[Window]:
    """The window along a path; several where its WAL has holes, each with the base that reaches back in its part."""
    windows: list[Window] = []
    for island in _islands(path, [entry for entry in entries if lies_on(path, entry)], holdings):
        old = [entry for entry in island.entries if entry.record.reachable_from <= cutoff]
        good = [entry for entry in island.entries if entry.label in usable]
        reaching = [entry for entry in good if entry in old]
        found = (_proven(reaching) or reaching)[-1:]
        if found:
            younger = [entry for entry in good if entry not in old]
            following = _proven(younger) or [entry for entry in younger if found[0].state != "proven"]
            needless = windows or not following  # before a hole no base follows: what is behind it will do
            windows.append(Window(path, found[0], None if needless else following[0]))
        else:  # none is both old and usable: keep the one that reaches back, and the oldest usable one
            found = old[-1:] or island.entries[:1]
            found += [entry for entry in good[:1] if entry not in found]
            windows += [Window(path, base) for base in found]
        if reaching or (old and island.apart):  # what lies before is older than the window
            break
    return windows


def _proven(entries: Sequence[BackupEntry]) -> list[BackupEntry]:
    return [entry for entry in entries if entry.state == "proven"]


def _islands(
    path: TimelineHistory, on_path: Sequence[BackupEntry], holdings: Holdings | None
) -> list[Island]:
    """The backups of a path by the hole at which WAL from each ends, the newest part first.

    In an archive without any WAL of the path there are no parts to tell apart.
    """
    first = min((e.record.first_segment for e in on_path), key=lambda one: one.number, default=None)
    end = end_of_segments(holdings.listing, path) if holdings else LSN(0)
    if holdings is None or first is None or not end:
        return [Island(list(on_path), apart=False)] if on_path else []
    missing = subtract(by_timeline(runs_between(path, first, end)), holdings.listing.numbers)
    holes = _union(missing)
    gone = _union(intersect(missing, holdings.removed))
    islands: dict[int, list[BackupEntry]] = {}
    for entry in on_path:
        hole = next(holes.within(entry.record.first_segment.number, _ENDLESS), (_ENDLESS, _ENDLESS))[0]
        islands.setdefault(hole, []).append(entry)
    order = sorted(islands, reverse=True)
    return [
        Island(islands[hole], any(True for _ in gone.within(before, hole - 1)))
        for hole, before in zip(order, [*order[1:], 0], strict=True)
    ]


def reaching(
    paths: Iterable[TimelineHistory],
    entries: Sequence[BackupEntry],
    listing: WalListing,
    numbers: Numbered,
) -> list[str]:
    """The backups from which all WAL to the end of one of the paths is among the numbers, oldest first.

    Args:
        paths: timelines with their ancestry.
        entries: every backup, oldest first.
        listing: the archive, which says where each path ends.
        numbers: of segments.
    """
    found = set()
    for path in paths:
        on_path = [entry for entry in entries if lies_on(path, entry)]
        end = end_of_segments(listing, path)
        if not on_path or not end:
            continue
        first = min((entry.record.first_segment for entry in on_path), key=lambda one: one.number)
        holes = _union(subtract(by_timeline(runs_between(path, first, end)), numbers))
        last = holes.last if holes else -1
        found |= {entry.label for entry in on_path if entry.record.first_segment.number > last}
    return [entry.label for entry in entries if entry.label in found]


def _union(numbered: Numbered) -> Numbers:
    """Numbers of a path, on which each is of one timeline."""
    return Numbers.of(interval for numbers in numbered.values() for interval in numbers.intervals)


def wal_needs(kept: Sequence[BackupEntry], windows: Iterable[Window]) -> list[Need]:
    """The WAL that stays for these backups and windows.

    Args:
        kept: every kept backup, oldest first; one at least.
        windows: whose bases are among the kept.
    """
    needs = []
    for entry in kept:  # each can be restored to its own end
        record = entry.record
        needs.append(Need(record.timeline, record.first_segment.start, record.last_segment.end))
    for window in windows:
        since = window.base.record.stopped_at
        starts = (
            entry.record.first_segment.start
            for entry in kept
            if entry.record.stopped_at >= since and lies_on(window.path, entry)
        )
        needs += _needs_of_path(window.path, min(starts))
    return needs


def _needs_of_path(path: TimelineHistory, start: LSN) -> Iterator[Need]:
    """The WAL of a path from an LSN on: each ancestor counts up to the fork, and not where it began behind that."""
    for index, timeline in enumerate(path.path):
        begun = path.forks[index - 1].lsn if index else LSN(0)
        left = min((fork.lsn for fork in path.forks[index:]), default=None)
        if left is None or left > max(begun, start):
            yield Need(timeline, start, left)


def unneeded(
    layout: Layout, wal: Iterable[ObjectInfo], sizes: Collection[int], needs: WalNeeds
) -> tuple[ObjectInfo, ...]:
    """The WAL objects that nothing kept needs, oldest first.

    ``.partial`` and ``.backup`` files, and received parts, share the fate of the segment whose name they carry;
    histories and objects with other names stay. Should records differ in segment size
    (``pg_resetwal --wal-segsize``), a name is read in each size, and one need is enough.

    Args:
        layout: of the archive.
        wal: objects below ``wal/`` and ``received/``.
        sizes: of segments, of every kept backup.
        needs: what stays.
    """
    removable = []
    stays: dict[tuple[int, int], Numbers] = {}
    for info in wal:
        name = wal_name(layout, info.key) or part_name(layout, info.key)
        if name is None or HISTORY_NAME.fullmatch(name):
            continue
        timeline, log, place = (int(name[at : at + 8], 16) for at in (0, 8, 16))
        possible = [size for size in sizes if place < 0x1_0000_0000 // size]
        for size in possible:
            if (timeline, size) not in stays:
                stays[timeline, size] = needs.on(timeline, size)
        if possible and not any(
            log * (0x1_0000_0000 // size) + place in stays[timeline, size] for size in possible
        ):
            removable.append((name, info))
    return tuple(info for _, info in sorted(removable))
