"""A WAL gap is a segment that a recovery would need and the archive does not hold.

Checked by name, along the ancestry of every timeline, from each backup to the newest archived segment. A segment
that the source has not finished or not yet archived is *in flight*, which is no gap; one that the source's
archiver reports as archived and that is not there is. Nor is it a gap where expire has removed what lies between
an old backup and the recovery windows.

Everything is computed with runs of segments, never one by one: an archive of a million segments is a few runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.record import BackupRecord
from pgproof.postgres.facts import ServerFacts
from pgproof.timelines.history import TimelineHistory, history_of, leaves
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import SEGMENT_NAME, WalSegment
from pgproof.wal.archive import (
    ReceivedPart,
    WalListing,
    end_of_path,
    end_of_segments,
    received_on,
    runs_between,
)
from pgproof.wal.breaks import Break, first_crossed
from pgproof.wal.runs import Numbered, Numbers, Run, by_timeline, runs_of, subtract

# An idle server's insert position is just behind the first page's header (SizeOfXLogLongPHD)
_PAGE_HEADER = 40
_ENDLESS = 1 << 64  # above every segment number

Expired = Callable[[Numbered], Numbered]


@dataclass(frozen=True, order=True, slots=True)
class Gap(Run):
    """Missing segments in a row: both ends are missing, and so is every one between."""


@dataclass(frozen=True, slots=True)
class RecoveryWindow:
    """From one backup, along one timeline: every LSN from ``start`` to ``end`` can be recovered.

    It ends before the archive does where a segment is missing: ``broken_by`` is the gap's first one, None when
    expire removed what followed. As times it reaches from the backup's stop to the newest commit before its
    end, None when that was not read. ``unusable`` says why nobody should rely on it: its backup failed, or cannot be
    restored.
    """

    backup: str
    timeline: int
    start: LSN
    end: LSN
    from_time: datetime
    broken_by: WalSegment | None
    expired: bool = False
    to_time: datetime | None = None
    unusable: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "backup": self.backup,
            "timeline": self.timeline,
            "start": str(self.start),
            "end": str(self.end),
            "from_time": self.from_time.isoformat(),
            "to_time": self.to_time.isoformat() if self.to_time else None,
            "broken_by": self.broken_by.name if self.broken_by else None,
            "expired": self.expired,
            "unusable": self.unusable,
        }


@dataclass(frozen=True, slots=True)
class GapReport:
    """What the archive holds, what is missing, and what can be recovered.

    Args:
        segments: how many are archived.
        stored_size: bytes that they take.
        oldest, newest: of the range that was checked, on the newest timeline.
        gaps: missing segments.
        windows: one for each backup and timeline that continues it.
        in_flight: segments that the source has and the archive does not have yet.
        lag: bytes between the end of the archive and the source's insert position; None without a source.
        damaged: segments that cannot be read, with the reason; only after a content check.
        needed: what recoveries need and is there.
        without_history: timelines without their history file: where a backup lies there, recovery along them does
            not begin; where WAL does, no recovery finds the way from an older timeline to them.
        received: the received part that continues the source's timeline, or the newest one.
        breaks: where recoveries end although no name is missing; as far as a content check has read.
        paths: the timelines that were followed, with their forks; a picture of the windows needs them.
    """

    segments: int
    stored_size: int
    oldest: WalSegment | None
    newest: WalSegment | None
    gaps: tuple[Gap, ...]
    windows: tuple[RecoveryWindow, ...]
    in_flight: int = 0
    lag: int | None = None
    damaged: tuple[tuple[str, str], ...] = ()
    needed: tuple[Run, ...] = ()
    without_history: tuple[int, ...] = ()
    received: ReceivedPart | None = None
    paths: tuple[TimelineHistory, ...] = ()
    breaks: tuple[Break, ...] = ()

    @property
    def ok(self) -> bool:
        sound = not self.gaps and not self.damaged and not self.without_history and not self.breaks
        return sound and not self.unusable

    @property
    def unusable(self) -> str:
        """Why no window can be relied on, as of the newest; empty while one can, or where there is none."""
        if not self.windows or not all(window.unusable for window in self.windows):
            return ""
        return f"backup {self.windows[-1].backup}: {self.windows[-1].unusable}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "segments": self.segments,
            "stored_size": self.stored_size,
            "oldest": self.oldest.name if self.oldest else None,
            "newest": self.newest.name if self.newest else None,
            "gaps": [gap_dict(gap) for gap in self.gaps],
            "windows": [window.as_dict() for window in self.windows],
            "in_flight": self.in_flight,
            "lag": self.lag,
            "damaged": [list(one) for one in self.damaged],
            "breaks": [one.as_dict() for one in self.breaks],
            "without_history": list(self.without_history),
            "received_to": str(self.received.end) if self.received else None,
        }


def gap_dict(gap: Run) -> dict[str, Any]:
    """A gap as JSON has it."""
    return {"first": gap.first.name, "last": gap.last.name, "segments": gap.count}


@dataclass(frozen=True, slots=True)
class _Need:
    """What a recovery from one backup along one timeline reads: whole segments, then a received part."""

    record: BackupRecord
    history: TimelineHistory
    runs: list[Run]
    part: ReceivedPart | None
    unusable: str = ""

    def first_of(self, missing: Numbered) -> WalSegment | None:
        """The first segment on the way that is missing."""
        for run in self.runs:
            for first, _ in missing.get(run.timeline, Numbers()).within(run.first.number, run.last.number):
                return WalSegment(run.timeline, first, run.first.size)
        return None

    def window(self, missing: Numbered, waiting: Numbered, gone: Numbered) -> RecoveryWindow:
        first = self.first_of(missing)
        expired = first is not None and first.number in gone.get(first.timeline, ())
        broken = first is not None and not expired and first.number not in waiting.get(first.timeline, ())
        whole = self.runs[-1].end if self.runs else self.record.first_segment.start
        return RecoveryWindow(
            self.record.label,
            self.history.timeline,
            self.record.stop_lsn,
            first.start if first else (self.part.end if self.part else whole),
            self.record.reachable_from,
            first if broken else None,
            expired,
            unusable=self.unusable,
        )


def check_gaps(
    catalog: Catalog,
    listing: WalListing,
    source: ServerFacts | None,
    expired: Expired = lambda missing: {},
) -> GapReport:
    """Compare what is archived with what every recovery needs.

    Args:
        catalog: the backups.
        listing: the archive.
        source: facts of the running source, when it can be asked; they tell a gap from a segment in flight.
        expired: of missing segments those that expire would remove, which are no gap.
    """
    paths = recovery_paths(catalog, listing, source)
    needs = [
        replace(_need(entry.record, history, listing, source), unusable=_unusable(entry, catalog))
        for history in paths
        for entry in catalog.entries
        if history.contains(entry.record.timeline, entry.record.stop_lsn)
    ]
    wanted = by_timeline(run for need in needs for run in need.runs)
    missing = subtract(wanted, listing.numbers)
    waiting = _handed_over_next(missing, source)
    lost = subtract(missing, waiting)
    size = listing.segment_size
    gone = expired(lost) if lost else {}
    in_flight, lag = _in_flight(listing, source, waiting)
    return GapReport(
        segments=listing.count(),
        stored_size=listing.stored_size,
        oldest=min((need.record.first_segment for need in needs), key=lambda s: s.number, default=None),
        newest=_newest(listing, source),
        gaps=tuple(runs_of(subtract(lost, gone), size, Gap)),
        windows=tuple(need.window(missing, waiting, gone) for need in needs),
        in_flight=in_flight,
        lag=lag,
        needed=tuple(runs_of(subtract(wanted, missing), size)),
        without_history=_without_history(catalog, listing),
        received=_received(listing, source),
        paths=tuple(paths),
    )


def _unusable(entry: BackupEntry, catalog: Catalog) -> str:
    if entry.failed:
        return f"its {entry.failed_what} failed"
    return "" if catalog.is_whole(entry.label) else "a backup that it builds on is missing"


def with_breaks(report: GapReport, known: Sequence[Break]) -> GapReport:
    """The report with the windows that end at a break, and the breaks at which any does.

    Args:
        report: by names alone.
        known: breaks that content checks have found.
    """
    paths = {path.timeline: path for path in report.paths}
    windows, met = [], set()
    for window in report.windows:
        broken = first_crossed(known, paths[window.timeline], window.start, window.end)
        if broken is not None:
            met.add(broken)
            window = replace(window, end=broken.lsn, broken_by=broken.segment, expired=False)
        windows.append(window)
    return replace(report, windows=tuple(windows), breaks=tuple(sorted(met)))


def recovery_paths(
    catalog: Catalog, listing: WalListing, source: ServerFacts | None
) -> list[TimelineHistory]:
    """The timelines along which a recovery may be wanted.

    Those that no other continues; and those that went on after another forked from them, because a backup or
    the source itself is there: a restored copy was promoted and archived its history, say.
    """
    timelines = {entry.record.timeline for entry in catalog.entries} | (
        {source.timeline} if source else set()
    )
    paths = leaves(listing.timelines | timelines, listing.histories)
    beside = {
        entry.record.timeline
        for entry in catalog.entries
        if not any(path.contains(entry.record.timeline, entry.record.stop_lsn) for path in paths)
    }
    beside |= {source.timeline} if source else set()
    beside -= {path.timeline for path in paths}
    return [*paths, *(history_of(timeline, listing.histories) for timeline in sorted(beside))]


def _need(
    record: BackupRecord, history: TimelineHistory, listing: WalListing, source: ServerFacts | None
) -> _Need:
    end = max(_end_of_archive(listing, history, source), record.stop_lsn)
    part = received_on(listing, history)
    if part is None or part.end < end:
        return _Need(record, history, runs_between(history, record.first_segment, end), None)
    if part.segment.number == record.first_segment.number:
        return _Need(record, history, [], part)
    runs = runs_between(history, record.first_segment, part.segment.start)
    return _Need(record, history, runs, part)


def _end_of_archive(listing: WalListing, history: TimelineHistory, source: ServerFacts | None) -> LSN:
    """The end of the newest segment along a path, or of what the source says it archived."""
    end = end_of_segments(listing, history)
    acknowledged = _acknowledged(source)
    if acknowledged is not None and acknowledged.timeline == history.timeline:
        return max(end, acknowledged.end)
    return end


def _handed_over_next(missing: Numbered, source: ServerFacts | None) -> Numbered:
    """What is missing before newer segments only because several are stored at once: it is in flight.

    The archiver hands over the oldest segment first (``pgarch_readyXlog``), so that one which it has not
    reported as archived will still come, although a newer one is there already.
    """
    if source is None or source.follows or not source.archiving or source.timeline not in missing:
        return {}
    name = source.archiver.last_archived or ""
    acknowledged = _acknowledged(source)
    if acknowledged is not None and acknowledged.timeline == source.timeline:
        after = acknowledged.number
    elif (
        name[:8] and int(name[:8], 16) <= source.timeline
    ):  # only the history, or nothing of this timeline yet
        after = -1
    else:
        return {}
    numbers = Numbers.of(missing[source.timeline].within(after + 1, _ENDLESS))
    return {source.timeline: numbers} if numbers else {}


def _acknowledged(source: ServerFacts | None) -> WalSegment | None:
    """The newest segment that the source's archiver got an OK for."""
    name = source.archiver.last_archived if source else None
    if source is None or name is None or not SEGMENT_NAME.fullmatch(name[:24]) or name.endswith(".partial"):
        return None
    if source.follows:
        return None  # what a standby once archived as a primary says nothing of today
    return WalSegment.parse(name[:24], source.segment_size)


def _newest(listing: WalListing, source: ServerFacts | None) -> WalSegment | None:
    timeline = source.timeline if source and source.timeline in listing.numbers else None
    if timeline is None:
        timeline = max(listing.numbers, default=None)
    return None if timeline is None else listing.newest(timeline)


def _in_flight(listing: WalListing, source: ServerFacts | None, waiting: Numbered) -> tuple[int, int | None]:
    if source is None:
        return 0, None
    end = end_of_path(listing, history_of(source.timeline, listing.histories))
    if not end:
        return 1, None
    behind = max(0, source.insert_lsn - end)
    behind = 0 if behind <= _PAGE_HEADER else behind
    firsts = [numbers.first for numbers in waiting.values()]
    count = -(-behind // listing.segment_size) + sum(map(len, waiting.values()))
    failed = _failed(source, listing)
    if failed and failed.start < end and failed.number not in waiting.get(failed.timeline, ()):
        firsts.append(failed.number)
        count += 1
    lag = max(behind, source.insert_lsn - min(firsts) * listing.segment_size) if firsts else behind
    return count, lag


def _failed(source: ServerFacts, listing: WalListing) -> WalSegment | None:
    """The segment that the archiver fails to hand over, when the archive lacks it; it counts without a backup, too."""
    name = source.archiver.last_failed or ""
    if source.follows or not source.archiver.failing or not SEGMENT_NAME.fullmatch(name):
        return None
    segment = WalSegment.parse(name, source.segment_size)
    return None if segment in listing or segment.timeline != source.timeline else segment


def _without_history(catalog: Catalog, listing: WalListing) -> tuple[int, ...]:
    """Timelines without a history file; the first one has none, and the lowest needs none unless a backup is there."""
    begun = {entry.record.timeline for entry in catalog.entries}
    used = begun | {*listing.numbers, *listing.received}
    lowest = min(used | set(listing.histories), default=1)
    needed = {timeline for timeline in used if timeline > lowest} | (begun - {1})
    return tuple(sorted(needed - set(listing.histories)))


def _received(listing: WalListing, source: ServerFacts | None) -> ReceivedPart | None:
    timelines = {source.timeline} if source else set(listing.received)
    found = [received_on(listing, history_of(timeline, listing.histories)) for timeline in timelines]
    return max((part for part in found if part), key=lambda part: part.end, default=None)
