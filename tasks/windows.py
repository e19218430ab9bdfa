"""Windows: recovery windows as stretches of time, ready to be drawn.

A pure function from what a gap check found to rows, one for each backup and timeline that continues it. The
picture (``tasks.picture``) and the sketch in characters (``tasks.sketch``) show the same rows. WAL has no clock of
its own: where an LSN has no known time, its place is interpolated between the times that are known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pgproof.gaps.check import WalCheck
from pgproof.gaps.gap import Gap, RecoveryWindow
from pgproof.gaps.loss import crosses, segment_named
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment

SHOWN = 48  # rows; more would be neither readable nor small


class Kind(StrEnum):
    """What is true of a stretch of one window."""

    REACH = "reach"  # every moment can be recovered
    RECEIVED = "received"  # so can these, from a segment that is not finished yet
    GAP = "gap"  # segments are missing
    DAMAGE = "damage"  # a segment is there and cannot be read
    BEYOND = "beyond"  # archived, and out of this backup's reach, because something before it is missing
    EXPIRED = "expired"  # removed on purpose: newer backups reach it
    FLIGHT = "flight"  # on the source alone


@dataclass(frozen=True, slots=True)
class View:
    """What the picture is made from.

    Args:
        windows, gaps, damaged, paths: as the gap check reports them.
        now: aware.
        end: of the archive on the source's timeline, and that timeline.
        newest_commit: time of the newest commit that is in the repository, also behind a gap.
        rpo_seconds: how much would be lost now; None when it cannot be known.
        received: how far an unfinished segment was received beyond ``end``; None when it was not.
        insert: the source's insert position, when it could be asked.
    """

    windows: tuple[RecoveryWindow, ...]
    gaps: tuple[Gap, ...]
    damaged: tuple[tuple[str, str], ...]
    paths: tuple[TimelineHistory, ...]
    now: datetime
    end: WalSegment | None = None
    newest_commit: datetime | None = None
    rpo_seconds: float | None = None
    received: LSN | None = None
    insert: LSN | None = None


def view_of(found: WalCheck, now: datetime) -> View:
    """What the picture needs of a gap check.

    Args:
        found: by the check.
        now: aware.
    """
    report, insert, archived = found.report, None, found.newest_commit
    if found.lag_seconds is not None:
        archived = now - timedelta(seconds=found.lag_seconds)
    received = report.received.end if report.received is not None else None
    if report.newest is not None and report.lag is not None:
        insert = LSN(max(report.newest.end, received or 0) + report.lag)
    return View(
        report.windows,
        report.gaps,
        report.damaged,
        report.paths,
        now,
        report.newest,
        archived,
        found.rpo_seconds,
        received=received,
        insert=insert,
    )


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a row; ``label`` is the segment's name where one is missing or damaged."""

    kind: Kind
    begin: datetime
    end: datetime
    label: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One window: its stretches in order of time, and a sentence about it."""

    backup: str
    timeline: int
    stretches: tuple[Stretch, ...]
    text: str
    forks: tuple[tuple[Fork, datetime], ...] = ()

    @property
    def broken(self) -> bool:
        return any(stretch.kind in (Kind.GAP, Kind.DAMAGE) for stretch in self.stretches)

    @property
    def expired(self) -> bool:
        return any(stretch.kind is Kind.EXPIRED for stretch in self.stretches)


@dataclass(frozen=True, slots=True)
class Clock:
    """When an LSN of one timeline was written, as well as it is known."""

    points: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, known: Iterable[tuple[LSN, datetime | None]]) -> Clock:
        """From positions with their times; a clock that was set back does not turn time round."""
        points: list[tuple[int, float]] = []
        for lsn, time in sorted((int(lsn), time.timestamp()) for lsn, time in known if time is not None):
            points.append((lsn, max(time, points[-1][1] if points else time)))
        return cls(tuple(points))

    def at(self, lsn: int) -> float:
        """Seconds since the epoch; beyond what is known, the nearest that is."""
        index = bisect_right(self.points, (lsn, float("inf")))
        if index in (0, len(self.points)):
            return self.points[min(index, len(self.points) - 1)][1]
        (left, earlier), (right, later) = self.points[index - 1 : index + 1]
        return earlier + (later - earlier) * (lsn - left) / (right - left)


@dataclass(frozen=True, slots=True)
class Fault:
    """Segments in a row that are missing or damaged."""

    kind: Kind
    first: WalSegment
    last: WalSegment

    @property
    def label(self) -> str:
        count = self.last.number - self.first.number + 1
        return self.first.name if count == 1 else f"{self.first} ({count} segments)"


def rows_of(view: View) -> tuple[list[Row], int]:
    """The rows of a picture, grouped by timeline and in order of time, and how many were left out.

    Args:
        view: what was found.
    """
    paths = {path.timeline: path for path in view.paths}
    faults = _faults(view)
    rows = []
    for timeline in sorted({window.timeline for window in view.windows}):
        path = paths.get(timeline, TimelineHistory(timeline))
        own = [window for window in view.windows if window.timeline == timeline]
        clock = _clock(own, view, timeline)
        own.sort(key=lambda window: (window.from_time, window.backup))
        rows += [_row(window, own, path, clock, view, faults) for window in own]
    return _chosen(rows)


def _chosen(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Not more than can be shown: expired ones go first, then the oldest; broken ones last."""
    by_weight = sorted(range(len(rows)), key=lambda n: (not rows[n].broken, rows[n].expired, -n))
    kept = set(by_weight[:SHOWN])
    return [row for n, row in enumerate(rows) if n in kept], len(rows) - len(kept)


def _clock(own: Sequence[RecoveryWindow], view: View, timeline: int) -> Clock:
    known: list[tuple[LSN, datetime | None]] = []
    for window in own:
        known += [(window.start, window.from_time), (window.end, window.to_time)]
    if view.end is not None and view.end.timeline == timeline:
        known.append((view.received or view.end.end, view.newest_commit or view.now))
        if view.insert is not None:
            known.append((max(view.insert, view.received or view.end.end), view.now))
    return Clock.of(known)


def _faults(view: View) -> list[Fault]:
    """Gaps and damage, also what breaks a window and is in no gap."""
    faults = [Fault(Kind.GAP, gap.first, gap.last) for gap in view.gaps]
    damaged = {name for name, _ in view.damaged}
    known = [gap.first for gap in view.gaps] + [view.end] + [window.broken_by for window in view.windows]
    size = next((segment.size for segment in known if segment is not None), 0)
    for name in damaged:
        if size and (segment := segment_named(name, size)):
            faults.append(Fault(Kind.DAMAGE, segment, segment))
    covered = {fault.first for fault in faults}
    for window in view.windows:
        if (first := window.broken_by) is not None and first not in covered:
            covered.add(first)
            faults.append(Fault(Kind.DAMAGE if first.name in damaged else Kind.GAP, first, first))
    return sorted(faults, key=lambda fault: fault.first.number)


def _row(
    window: RecoveryWindow,
    own: Sequence[RecoveryWindow],
    path: TimelineHistory,
    clock: Clock,
    view: View,
    faults: Sequence[Fault],
) -> Row:
    time = _Time(clock, window.from_time)
    met = [fault for fault in faults if _crosses(window, fault, path)]
    reach = max(window.to_time if window.to_time and not met else time.at(window.end), window.from_time)
    if window.expired:
        later = [o.from_time for o in own if not o.expired and o.from_time > window.from_time]
        parts = [Stretch(Kind.REACH, window.from_time, reach)]
        parts.append(Stretch(Kind.EXPIRED, reach, max(reach, min(later, default=reach))))
    elif met:
        parts = _broken(window, met, time, max(other.end for other in own))
    else:
        parts = _whole(window, reach, time, view)
    forks = tuple((fork, time.at(fork.lsn)) for fork in path.forks if fork.lsn > window.start)
    return Row(window.backup, window.timeline, tuple(parts), _sentence(window, met), forks)


@dataclass(frozen=True, slots=True)
class _Time:
    """The clock of a timeline for one window, which has no moment before its backup."""

    clock: Clock
    earliest: datetime

    def at(self, lsn: int) -> datetime:
        seconds = max(self.clock.at(lsn), self.earliest.timestamp())
        return datetime.fromtimestamp(seconds, self.earliest.tzinfo)


def _crosses(window: RecoveryWindow, fault: Fault, path: TimelineHistory) -> bool:
    return crosses(window, fault.first, path) or crosses(window, fault.last, path)


def _broken(window: RecoveryWindow, met: Sequence[Fault], time: _Time, archive: LSN) -> list[Stretch]:
    parts, position, kind = [], window.from_time, Kind.REACH
    for fault in met:
        begin, end = time.at(fault.first.start), time.at(fault.last.end)
        parts.append(Stretch(kind, position, max(begin, position)))
        parts.append(Stretch(fault.kind, max(begin, position), max(end, position), fault.label))
        position, kind = parts[-1].end, Kind.BEYOND
    parts.append(Stretch(kind, position, max(position, time.at(max(archive, met[-1].last.end)))))
    return parts


def _whole(window: RecoveryWindow, reach: datetime, time: _Time, view: View) -> list[Stretch]:
    """Archived, then received as far as it goes, then on the source alone."""
    if view.end is None or window.timeline != view.end.timeline:
        return [Stretch(Kind.REACH, window.from_time, reach)]
    archived = reach
    if view.received is not None and view.received > view.end.end:
        archived, reach = min(time.at(view.end.end), reach), max(reach, time.at(view.received))
    parts = [Stretch(Kind.REACH, window.from_time, archived)]
    parts += [Stretch(Kind.RECEIVED, archived, reach)] if reach > archived else []
    if view.rpo_seconds and view.now > reach:
        parts.append(Stretch(Kind.FLIGHT, reach, view.now))
    return parts


def _sentence(window: RecoveryWindow, met: Sequence[Fault]) -> str:
    text = f"{window.start} to {window.end}"
    if window.expired:
        return f"{text}; what follows is expired"
    if not met:
        return f"{text}, complete"
    state = "damaged" if met[0].kind is Kind.DAMAGE else "missing"
    more = f"; {len(met) - 1} more behind it" if len(met) > 1 else ""
    return f"{text}, then {met[0].label} {state}{more}"
