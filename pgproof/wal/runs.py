"""A run is WAL segments in a row on one timeline; an archive is few runs, however many segments it holds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar, overload

from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment

Interval = tuple[int, int]  # segment numbers, both ends included


@dataclass(frozen=True, order=True, slots=True)
class Run:
    """Segments in a row: both ends are in it, and so is every one between."""

    first: WalSegment
    last: WalSegment

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1

    @property
    def timeline(self) -> int:
        return self.first.timeline

    @property
    def start(self) -> LSN:
        return self.first.start

    @property
    def end(self) -> LSN:
        """The first LSN after the run."""
        return self.last.end

    def __iter__(self) -> Iterator[WalSegment]:
        for number in range(self.first.number, self.last.number + 1):
            yield WalSegment(self.first.timeline, number, self.first.size)

    def __str__(self) -> str:
        return self.first.name if self.count == 1 else f"{self.first} to {self.last} ({self.count} segments)"


class Numbers:
    """Segment numbers of one timeline, kept as intervals: a set whose size is that of its holes.

    Args:
        numbers: in any order, also more than once.
    """

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        following = -1
        for number in sorted(numbers):
            if number == following:
                following += 1
            elif number > following:
                if self._firsts:
                    self._lasts.append(following - 1)
                self._firsts.append(number)
                following = number + 1
        if self._firsts:
            self._lasts.append(following - 1)

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> Numbers:
        """The numbers of intervals, which may come in any order and overlap."""
        made = cls()
        for first, last in sorted(intervals):
            if first > last:
                continue
            if made._lasts and first <= made._lasts[-1] + 1:
                made._lasts[-1] = max(made._lasts[-1], last)
            else:
                made._firsts.append(first)
                made._lasts.append(last)
        return made

    @property
    def intervals(self) -> Iterator[Interval]:
        """In order; between two of them a number is missing."""
        return zip(self._firsts, self._lasts, strict=True)

    @property
    def first(self) -> int:
        return self._firsts[0]

    @property
    def last(self) -> int:
        return self._lasts[-1]

    def within(self, first: int, last: int) -> Iterator[Interval]:
        """The intervals of what is there from one number to another, both included."""
        for place in range(bisect_left(self._lasts, first), bisect_right(self._firsts, last)):
            yield max(first, self._firsts[place]), min(last, self._lasts[place])

    def without(self, first: int, last: int) -> Iterator[Interval]:
        """The intervals of what is missing from one number to another, both included."""
        following = first
        for there, until in self.within(first, last):
            if following < there:
                yield following, there - 1
            following = until + 1
        if following <= last:
            yield following, last

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number)
        return place > 0 and number <= self._lasts[place - 1]

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __iter__(self) -> Iterator[int]:
        for first, last in self.intervals:
            yield from range(first, last + 1)

    def __sub__(self, other: Numbers) -> Numbers:
        return Numbers.of(hole for one in self.intervals for hole in other.without(*one))

    def __and__(self, other: Numbers) -> Numbers:
        return Numbers.of(both for one in self.intervals for both in other.within(*one))

    def __or__(self, other: Numbers) -> Numbers:
        return Numbers.of([*self.intervals, *other.intervals])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers):
            return NotImplemented
        return (self._firsts, self._lasts) == (other._firsts, other._lasts)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Numbers.of({list(self.intervals)})"


Numbered = dict[int, Numbers]  # by timeline


def by_timeline(runs: Iterable[Run]) -> Numbered:
    """The numbers of runs, which may overlap."""
    found: dict[int, list[Interval]] = {}
    for run in runs:
        found.setdefault(run.timeline, []).append((run.first.number, run.last.number))
    return {timeline: Numbers.of(intervals) for timeline, intervals in sorted(found.items())}


R = TypeVar("R", bound=Run)


@overload
def runs_of(numbered: Numbered, size: int) -> Iterator[Run]: ...
@overload
def runs_of(numbered: Numbered, size: int, kind: type[R]) -> Iterator[R]: ...
def runs_of(numbered: Numbered, size: int, kind: type[Run] = Run) -> Iterator[Run]:
    """The runs of numbers, in order of timeline and position; they may be of a kind of their own."""
    for timeline, numbers in sorted(numbered.items()):
        for first, last in numbers.intervals:
            begin = WalSegment(timeline, first, size)
            yield kind(begin, begin if first == last else WalSegment(timeline, last, size))


def subtract(these: Numbered, those: Numbered) -> Numbered:
    """Of these numbers the ones that are not among those."""
    left = {timeline: numbers - those.get(timeline, Numbers()) for timeline, numbers in these.items()}
    return {timeline: numbers for timeline, numbers in left.items() if numbers}


def intersect(these: Numbered, those: Numbered) -> Numbered:
    """The numbers that are among these and those."""
    both = {timeline: numbers & those.get(timeline, Numbers()) for timeline, numbers in these.items()}
    return {timeline: numbers for timeline, numbers in both.items() if numbers}
