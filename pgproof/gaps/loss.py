"""A loss is a recovery window that ends before the archive does: at a gap, a segment that cannot be read, or a break.

While one whole window of a backup that can be relied on reaches the end of the archive on the source's timeline, a loss
is of the past alone. When none does, every new commit is lost to recovery as well, until a base backup begins a new
window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgproof.errors import PermanentError
from pgproof.gaps.gap import GapReport, RecoveryWindow
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.segment import WalSegment
from pgproof.wal.breaks import Break

_NAMED = 5  # backups in a sentence


@dataclass(frozen=True, slots=True)
class Loss:
    """A window, and the first segment that stops a recovery along it: missing, damaged, or with a break in it."""

    window: RecoveryWindow
    segment: WalSegment
    damaged: bool = False
    broken: Break | None = None

    @property
    def why(self) -> str:
        if self.broken:
            return self.broken.within
        return f"which is {'damaged' if self.damaged else 'missing'}"


def sentences(found: Iterable[Loss]) -> list[str]:
    """One for each segment that stops recoveries: which windows end at it."""
    groups: dict[tuple[WalSegment, str, int], list[str]] = {}
    for loss in found:
        key = (loss.segment, loss.why, loss.window.timeline)
        groups.setdefault(key, []).append(loss.window.backup)
    return [
        f"{_windows(backups)} on timeline {timeline} {'ends' if len(backups) == 1 else 'end'} at {segment}, "
        f"{why}."
        for (segment, why, timeline), backups in groups.items()
    ]


def _windows(backups: Sequence[str]) -> str:
    more = f" and {len(backups) - _NAMED} more" if len(backups) > _NAMED else ""
    noun = "recovery window" if len(backups) == 1 else "recovery windows"
    return f"The {noun} of {', '.join(backups[:_NAMED])}{more}"


def losses(report: GapReport) -> list[Loss]:
    """The windows that end at a missing or damaged segment, in the order of the report."""
    damaged = damaged_segments(report)
    found = []
    for window in report.windows:
        stops = [segment for segment in damaged if crosses(window, segment, path_of(report, window.timeline))]
        first = min([*stops, *([window.broken_by] if window.broken_by else [])], default=None, key=_number)
        if first is not None:
            ends = first == window.broken_by
            broken = next((one for one in report.breaks if ends and one.segment == first), None)
            found.append(Loss(window, first, first in damaged, broken))
    return found


def newest_is_lost(report: GapReport) -> bool:
    """Whether backups are there, and no whole window of theirs goes on along the source's timeline.

    A cluster without any backup has lost nothing: there was no window.
    """
    if report.newest is None or not report.windows:
        return False
    lost = [loss.window for loss in losses(report)]
    current = [
        window
        for window in report.windows
        if window.timeline == report.newest.timeline and not window.expired and not window.unusable
    ]
    return all(window in lost for window in current)


def crosses(window: RecoveryWindow, segment: WalSegment, path: TimelineHistory) -> bool:
    """Whether a recovery along a window would need a segment; its last byte says on whose timeline it counts."""
    if window.expired or segment.end <= window.start:
        return False
    return path.timeline_at(segment.end - 1) == segment.timeline or segment == window.broken_by


def path_of(report: GapReport, timeline: int) -> TimelineHistory:
    """The history of a timeline that was followed."""
    return next((path for path in report.paths if path.timeline == timeline), TimelineHistory(timeline))


def damaged_segments(report: GapReport) -> list[WalSegment]:
    """The damaged segments; a name that is none is left out."""
    known = [report.newest, report.oldest, *(gap.first for gap in report.gaps)]
    size = next((segment.size for segment in known if segment is not None), 0)
    return [found for name, _ in report.damaged if size and (found := segment_named(name, size)) is not None]


def segment_named(name: str, size: int) -> WalSegment | None:
    """The segment of this name, if it is one's."""
    try:
        return WalSegment.parse(name, size)
    except PermanentError:
        return None


def _number(segment: WalSegment) -> int:
    return segment.number
