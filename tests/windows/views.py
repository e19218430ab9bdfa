"""Views made by hand: an hour of WAL in segments of 1 MB, one a minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pgproof.gaps.gap import Gap, RecoveryWindow
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from tasks.windows import View

MB = 1 << 20
BEGIN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOW = BEGIN + timedelta(minutes=60)
END = 60  # the first segment that is not archived


def at(minute: float) -> datetime:
    return BEGIN + timedelta(minutes=minute)


def lsn(minute: float) -> LSN:
    return LSN(int(minute * MB))


def segment(number: int, timeline: int = 1) -> WalSegment:
    return WalSegment(timeline, number, MB)


def window(minute: float, end: float = END, timeline: int = 1, **other: Any) -> RecoveryWindow:
    """A backup that ended at a minute, and is followed by WAL up to another one."""
    values: dict[str, Any] = {
        "backup": f"20261123T12{int(minute):02}00Z-full",
        "timeline": timeline,
        "start": lsn(minute),
        "end": lsn(end),
        "from_time": at(minute),
        "to_time": at(end),
        "broken_by": None,
    }
    return RecoveryWindow(**{**values, **other})


def broken(minute: float, at_segment: int, timeline: int = 1, **other: Any) -> RecoveryWindow:
    return window(minute, at_segment, timeline, broken_by=segment(at_segment, timeline), **other)


def view(*windows: RecoveryWindow, **other: Any) -> View:
    values: dict[str, Any] = {
        "gaps": (),
        "damaged": (),
        "paths": (TimelineHistory(1),),
        "now": NOW,
        "end": segment(END - 1),
        "newest_commit": NOW,
        "rpo_seconds": 0.0,
    }
    return View(windows, **{**values, **other})


def gap(first: int, last: int | None = None, timeline: int = 1) -> Gap:
    return Gap(segment(first, timeline), segment(last or first, timeline))
