"""The life of a future: from its fork until something of it was archived last.

One that ended before its recovery window began has nothing that the window promises, so that its WAL and its base go
(docs/architecture.md, "Which future a restore follows"). Where that is in doubt it counts as alive.

A decision must not change by carrying it out. So life is read off what stays as long as a future lives: the end of its
WAL, its history, and the newest backup of all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf

from pgproof.backups.catalog import BackupEntry
from pgproof.retention.window import Holdings, lies_on, reach_of
from pgproof.timelines.history import Fork, TimelineHistory, past_of
from pgproof.timelines.lsn import LSN
from pgproof.wal.stored import told

_ENDLESS = LSN((1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Futures:
    """The futures of an archive.

    Args:
        paths: of those that live, or lived inside their window; one that is the past of another is not named.
        ended: timelines of which nothing was archived since.
        in_doubt: timelines whose past is not known, and which may need it.
    """

    paths: tuple[TimelineHistory, ...]
    ended: frozenset[int] = frozenset()
    in_doubt: tuple[int, ...] = ()


def find_futures(
    entries: Sequence[BackupEntry],
    usable: Collection[str],
    timelines: set[int],
    histories: Mapping[int, TimelineHistory],
    cutoff: datetime,
    holdings: Holdings | None = None,
    relied: BackupEntry | None = None,
) -> Futures:
    """The futures that have a window, and the timelines that need none.

    Args:
        entries: every backup, oldest first; one at least.
        usable: labels of the backups that can be restored as far as we know.
        timelines: every timeline that has WAL, a history or a backup.
        histories: of every timeline that has a history file.
        cutoff: every window reaches back to this time at least.
        holdings: of the archive; None knows no times, so that nothing has ended.
        relied: the newest proven backup; windows along paths on which it lies reach back to it.
    """
    return _Look(entries, usable, timelines, histories, cutoff, holdings, relied).futures()


@dataclass(frozen=True, slots=True)
class _Look:
    """What ``find_futures`` looks at."""

    entries: Sequence[BackupEntry]
    usable: Collection[str]
    timelines: set[int]
    histories: Mapping[int, TimelineHistory]
    cutoff: datetime
    holdings: Holdings | None
    relied: BackupEntry | None

    def futures(self) -> Futures:
        paths: list[TimelineHistory] = []
        ended: set[int] = set()
        in_doubt: list[int] = []
        for timeline in sorted(self.timelines, reverse=True):
            path = past_of(timeline, self.histories)
            if not in_doubt and self._has_ended(path):  # one that is in doubt may continue any lower one
                ended.add(timeline)
            elif pasts := self._possible_pasts(path):
                in_doubt.append(timeline)
                paths += [*pasts, path]  # it may be that none of them is its own
            elif not any(other.contains(timeline, self._end_of(path)) for other in paths):
                paths.append(path)
        return Futures(tuple(reversed(paths)), frozenset(ended), tuple(reversed(in_doubt)))

    def _possible_pasts(self, path: TimelineHistory) -> list[TimelineHistory]:
        """The paths that a timeline without its history may continue; it left each before its own first segment.

        None once a backup of its own is as old as the window.
        """
        timeline, reach, first = path.timeline, self._reach(path), self._first_of(path.timeline)
        own = [e for e in self.entries if e.record.timeline == timeline and e.label in self.usable]
        if not self._lacks_past(path) or first is None or any(e.record.reachable_from <= reach for e in own):
            return []
        lower = [entry for entry in self.entries if entry.record.timeline < timeline]
        found = [
            TimelineHistory(timeline, (*past_of(one, self.histories).forks, Fork(one, first)))
            for one in sorted({entry.record.timeline for entry in lower})
        ]
        return [possible for possible in found if any(lies_on(possible, entry) for entry in lower)]

    def _lacks_past(self, path: TimelineHistory) -> bool:
        """Nobody knows whence a timeline came; the first one looks the same, and nothing is lower than that."""
        return path.timeline not in self.histories and not path.forks

    def _reach(self, path: TimelineHistory) -> datetime:
        """How far back its window reaches; the newest proven backup may lie on a past that is not known."""
        reach = reach_of(path, self.cutoff, self.relied)
        if self.relied and self._lacks_past(path) and self.relied.record.timeline < path.timeline:
            return min(reach, self.relied.record.reachable_from)
        return reach

    def _has_ended(self, path: TimelineHistory) -> bool:
        return (
            not lies_on(path, self.entries[-1]) and self._seen(path.timeline) < self._reach(path).timestamp()
        )

    def _seen(self, timeline: int) -> float:
        """When a timeline was last seen alive, in epoch seconds by the clock of the server that was backed up last.

        By the end of its WAL, for a repair stores older segments later, and by its history. The WAL of a backup is
        stored before it is recorded: by as much as it seems older, the store's clock is behind.
        """
        if self.holdings is None:
            return inf
        listing, record = self.holdings.listing, self.entries[-1].record
        behind = record.stopped_at.timestamp() - listing.times.of(record.last_segment)
        newest, part = listing.newest(timeline), listing.received.get(timeline)
        times = [listing.times.histories.get(timeline, 0.0)]
        times += [listing.times.of(newest)] if newest else []
        if part is not None and (newest is None or part.segment.number > newest.number):
            times.append(told(part.modified))
        return max(times) + max(0.0, behind)

    def _first_of(self, timeline: int) -> LSN | None:
        """Where the WAL of a timeline begins, with what expire removed; None when there is none."""
        if self.holdings is None:
            return _ENDLESS
        known = [self.holdings.listing.numbers.get(timeline), self.holdings.removed.get(timeline)]
        firsts = [numbers.first for numbers in known if numbers]
        return LSN(min(firsts) * self.holdings.listing.segment_size) if firsts else None

    def _end_of(self, path: TimelineHistory) -> LSN:
        """Up to where a timeline is archived or backed up."""
        ends = [path.forks[-1].lsn] if path.forks else [LSN(0)]
        ends += [e.record.stop_lsn for e in self.entries if e.record.timeline == path.timeline]
        ends += [self.holdings.listing.end_of(path.timeline)] if self.holdings else []
        return max(ends)
