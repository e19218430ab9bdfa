"""The gap check one segment at a time, as anybody would write it first: what the one with runs must agree with.

It shares the paths and what retention keeps with pgproof.gaps.gap, and nothing that counts in runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pgproof.backups.catalog import Catalog
from pgproof.backups.record import BackupRecord
from pgproof.config import RetentionConfig
from pgproof.gaps.gap import GapReport, recovery_paths
from pgproof.postgres.facts import ServerFacts
from pgproof.retention.decision import decide
from pgproof.retention.window import Holdings
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing

Window = tuple[str, int, LSN, LSN, WalSegment | None, bool]


@dataclass
class Archive:
    """What the oracle looks at: every archived segment, listed."""

    catalog: Catalog
    segments: set[WalSegment]
    listing: WalListing
    policy: RetentionConfig | None = None
    now: datetime | None = None


@dataclass
class Answer:
    """Gaps, windows and needed segments, one by one."""

    missing: set[WalSegment]
    windows: list[Window]
    present: set[WalSegment]


def check(archive: Archive, source: ServerFacts | None) -> Answer:
    """Enumerate all that any recovery needs, and look for each."""
    found = [
        (entry.record, history, list(_wanted(entry.record, history, archive, source)))
        for history in recovery_paths(archive.catalog, archive.listing, source)
        for entry in archive.catalog.entries
        if history.contains(entry.record.timeline, entry.record.stop_lsn)
    ]
    needed = {segment for _, _, wanted in found for segment in wanted}
    missing = needed - archive.segments
    gone = set(expired(archive, missing))
    windows = [_window(*one, missing, gone) for one in found]
    return Answer(missing - gone, windows, needed - missing)


def answer_of(report: GapReport) -> Answer:
    """A report, taken apart into segments."""
    return Answer(
        {segment for gap in report.gaps for segment in gap},
        [(w.backup, w.timeline, w.start, w.end, w.broken_by, w.expired) for w in report.windows],
        {segment for run in report.needed for segment in run},
    )


def _wanted(
    record: BackupRecord, history: TimelineHistory, archive: Archive, source: ServerFacts | None
) -> Iterator[WalSegment]:
    end = end_of_path(archive.segments, history)
    if source and source.archiver.last_archived and source.timeline == history.timeline:
        end = max(end, WalSegment.parse(source.archiver.last_archived, source.segment_size).end)
    return segments_between(history, record.first_segment, max(end, record.stop_lsn))


def segments_between(history: TimelineHistory, first: WalSegment, last_lsn: int) -> Iterator[WalSegment]:
    """The segments that a recovery reads, in order."""
    number = first.number
    while number * first.size < max(last_lsn, first.start + 1):
        end_of_segment = (number + 1) * first.size - 1
        timeline = history.timeline_at(min(end_of_segment, last_lsn))
        yield WalSegment(max(timeline, first.timeline), number, first.size)
        number += 1


def end_of_path(segments: set[WalSegment], history: TimelineHistory) -> LSN:
    """The end of the newest segment along a path that is not beyond a fork."""
    ends = [LSN(0)]
    for index, timeline in enumerate(history.path):
        left = min((fork.lsn for fork in history.forks[index:]), default=None)
        for segment in segments:
            if segment.timeline == timeline:
                fork = segment.end if left is None else LSN(left - left % segment.size)
                ends.append(min(segment.end, fork))
    return max(ends)


def expired(archive: Archive, missing: set[WalSegment]) -> Iterable[WalSegment]:
    """Of missing segments those that no need of retention covers with a byte, and that no next backup may need."""
    if archive.policy is None or archive.now is None or not missing:
        return
    timelines = archive.listing.timelines | {segment.timeline for segment in missing}
    timelines |= {entry.record.timeline for entry in archive.catalog.entries}
    kept = decide(
        archive.catalog,
        timelines,
        archive.listing.histories,
        archive.policy,
        archive.now,
        Holdings(archive.listing),
    )
    newest = kept.entries[-1].record
    for segment in missing:
        newer = segment.timeline > newest.timeline or segment.end > newest.first_segment.start
        if not (newer and segment.timeline not in kept.wal.ended) and not any(
            segment.timeline == need.timeline
            and segment.end > need.start
            and (need.end is None or segment.start < need.end)
            for need in kept.wal.needs
        ):
            yield segment


def _window(
    record: BackupRecord,
    history: TimelineHistory,
    wanted: list[WalSegment],
    missing: set[WalSegment],
    gone: set[WalSegment],
) -> Window:
    first = next((segment for segment in wanted if segment in missing), None)
    end = first.start if first else wanted[-1].end
    broken = None if first in gone else first
    return (record.label, history.timeline, record.stop_lsn, end, broken, first in gone)
