"""Stored times: when each segment and history of an archive was stored, from one listing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import inf

from pgproof.timelines.segment import WalSegment
from pgproof.wal.runs import Interval, Numbered, Numbers


def told(modified: float) -> float:
    """The time of an object; infinite where its store does not tell, as nothing is known to be older."""
    return modified if modified > 0 else inf


@dataclass(frozen=True, slots=True)
class StoredTimes:
    """In epoch seconds, by the store's clock.

    Args:
        logs: times of the segments of a timeline's log, by place; 0 where none is.
        histories: of each timeline that has a history file.
    """

    logs: dict[tuple[int, int], array[float]] = field(default_factory=dict)
    histories: dict[int, float] = field(default_factory=dict)

    def of(self, segment: WalSegment) -> float:
        """When a segment was stored; 0 when it is not there, infinite where the store does not tell."""
        log, place = divmod(segment.number, 0x1_0000_0000 // segment.size)
        times = self.logs.get((segment.timeline, log))
        return times[place] if times else 0.0

    @property
    def numbers(self) -> Numbered:
        """The numbers of the segments that are there."""
        found: dict[int, list[Interval]] = {}
        for (timeline, log), times in sorted(self.logs.items()):
            marks = bytes(map(bool, times))
            first = marks.find(1)
            before = log * len(marks)
            while first >= 0:
                hole = marks.find(0, first)
                end = len(marks) if hole < 0 else hole
                found.setdefault(timeline, []).append((before + first, before + end - 1))
                first = marks.find(1, end)
        return {timeline: Numbers.of(intervals) for timeline, intervals in found.items()}
