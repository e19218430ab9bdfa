"""A WAL gap is a segment that a recovery would need and the archive does not hold.

Checked by name, along the ancestry of every timeline, from each backup to the newest archived segment. A segment
that the source has not finished or not yet archived is *in flight*, which is no gap; one that the source's
archiver reports as archived and that is not there is. Nor is it a gap where expire has removed what lies between
an old backup and the recovery windows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import Catalog
from pgproof.backups.record import BackupRecord
from pgproof.postgres.facts import ServerFacts
from pgproof.timelines.history import TimelineHistory, history_of, leaves
from pgproof.wal.archive import WalListing, end_of_path, segments_between
from pgproof.wal.lsn import LSN
from pgproof.wal.segment import SEGMENT_NAME, WalSegment

# An idle server's insert position is just behind the first page's header (SizeOfXLogLongPHD)
_PAGE_HEADER = 40

Expired = Callable[[Collection[WalSegment]], Collection[WalSegment]]


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing segments in a row: both ends are missing, and so is every one between."""

    first: WalSegment
    last: WalSegment

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1

    def __str__(self) -> str:
        return self.first.name if self.count == 1 else f"{self.first} to {self.last} ({self.count} segments)"


@dataclass(frozen=True, slots=True)
class RecoveryWindow:
    """From one backup, along one timeline: every LSN from ``start`` to ``end`` can be recovered.

    It ends before the archive does where a segment is missing: ``broken_by`` is the gap's first one, None when
    expire removed what followed.
    """

    backup: str
    timeline: int
    start: LSN
    end: LSN
    from_time: datetime
    broken_by: WalSegment | None
    expired: bool = False
    to_time: datetime | None = None


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
    checked: tuple[WalSegment, ...] = ()
    paths: tuple[TimelineHistory, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.gaps and not self.damaged

    def as_dict(self) -> dict[str, Any]:
        tree = asdict(self)
        tree.pop("checked")
        tree.pop("paths")
        tree["ok"] = self.ok
        tree["oldest"], tree["newest"] = (str(s) if s else None for s in (self.oldest, self.newest))
        tree["gaps"] = [
            {"first": gap.first.name, "last": gap.last.name, "segments": gap.count} for gap in self.gaps
        ]
        for window, values in zip(self.windows, tree["windows"], strict=True):
            values["start"], values["end"] = str(window.start), str(window.end)
            values["broken_by"] = window.broken_by.name if window.broken_by else None
        return tree


def check_gaps(
    catalog: Catalog,
    listing: WalListing,
    source: ServerFacts | None,
    expired: Expired = lambda missing: (),
) -> GapReport:
    """Compare what is archived with what every recovery needs.

    Args:
        catalog: the backups.
        listing: the archive.
        source: facts of the running source, when it can be asked; they tell a gap from a segment in flight.
        expired: of missing segments those that expire would remove, which are no gap.
    """
    paths = recovery_paths(catalog, listing, source)
    found = [
        (entry.record, history, list(_wanted(entry.record, history, listing, source)))
        for history in paths
        for entry in catalog.entries
        if history.contains(entry.record.timeline, entry.record.stop_lsn)
    ]
    needed = {segment for _, _, wanted in found for segment in wanted}
    missing = {segment for segment in needed if segment not in listing}
    gone = set(expired(missing)) if missing else set()
    newest = _newest(listing, source)
    in_flight, lag = _in_flight(listing, source)
    return GapReport(
        listing.count(),
        listing.stored_size,
        min(needed, key=lambda s: s.number) if needed else None,
        newest,
        tuple(group(missing - gone)),
        tuple(_window(*one, missing, gone) for one in found),
        in_flight,
        lag,
        checked=tuple(sorted(needed - missing)),
        paths=tuple(paths),
    )


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


def _wanted(
    record: BackupRecord, history: TimelineHistory, listing: WalListing, source: ServerFacts | None
) -> Iterable[WalSegment]:
    end = _end_of_archive(listing, history, source)
    return segments_between(history, record.first_segment, max(end, record.stop_lsn))


def _window(
    record: BackupRecord,
    history: TimelineHistory,
    wanted: Sequence[WalSegment],
    missing: Collection[WalSegment],
    gone: Collection[WalSegment],
) -> RecoveryWindow:
    first = next((segment for segment in wanted if segment in missing), None)
    expired = first in gone
    return RecoveryWindow(
        record.label,
        history.timeline,
        record.stop_lsn,
        first.start if first else wanted[-1].end,
        record.stopped_at,
        None if expired else first,
        expired,
    )


def group(missing: Iterable[WalSegment]) -> list[Gap]:
    """Missing segments as gaps, in order."""
    gaps: list[Gap] = []
    for segment in sorted(missing):
        if gaps and gaps[-1].last.next() == segment:
            gaps[-1] = Gap(gaps[-1].first, segment)
        else:
            gaps.append(Gap(segment, segment))
    return gaps


def _end_of_archive(listing: WalListing, history: TimelineHistory, source: ServerFacts | None) -> LSN:
    """The end of the newest segment along a path, or of what the source says it archived."""
    end = end_of_path(listing, history)
    acknowledged = _acknowledged(source)
    if acknowledged is not None and acknowledged.timeline == history.timeline:
        return max(end, acknowledged.end)
    return end


def _acknowledged(source: ServerFacts | None) -> WalSegment | None:
    """The newest segment that the source's archiver got an OK for."""
    name = source.archiver.last_archived if source else None
    if source is None or name is None or not SEGMENT_NAME.fullmatch(name[:24]) or name.endswith(".partial"):
        return None
    return WalSegment.parse(name[:24], source.segment_size)


def _newest(listing: WalListing, source: ServerFacts | None) -> WalSegment | None:
    timeline = source.timeline if source and source.timeline in listing.numbers else None
    if timeline is None:
        timeline = max(listing.numbers, default=None)
    return None if timeline is None else listing.newest(timeline)


def _in_flight(listing: WalListing, source: ServerFacts | None) -> tuple[int, int | None]:
    if source is None:
        return 0, None
    end = end_of_path(listing, history_of(source.timeline, listing.histories))
    if not end:
        return 1, None
    lag = max(0, source.insert_lsn - end)
    lag = 0 if lag <= _PAGE_HEADER else lag
    return -(-lag // listing.segment_size), lag


def describe(report: GapReport) -> Sequence[tuple[str, str, str, str]]:
    """Rows of the windows table: backup, timeline, reach, and what ends it."""
    return [
        (
            window.backup,
            str(window.timeline),
            f"{window.start} to {window.end}",
            f"broken by {window.broken_by}"
            if window.broken_by
            else ("older: WAL after it is expired" if window.expired else "complete"),
        )
        for window in report.windows
    ]
