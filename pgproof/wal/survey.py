"""The survey of a content check: what one listing of the archive says about which segments must be read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pgproof.errors import ObjectDamaged, PermanentError
from pgproof.repository.layout import without_suffix
from pgproof.repository.repository import Archive
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.segment import HISTORY_NAME, SEGMENT_NAME, WalSegment
from pgproof.wal.archive import read_history


class Span(Protocol):
    """Segments in a row, of one timeline; both ends are in it."""

    @property
    def first(self) -> WalSegment: ...

    @property
    def last(self) -> WalSegment: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A span of its own."""

    first: WalSegment
    last: WalSegment


def rows_of(segments: Iterable[WalSegment]) -> list[Row]:
    """Segments in any order as the rows that they make."""
    rows: list[Row] = []
    for segment in sorted(segments):
        if rows and rows[-1].last.next() == segment:
            rows[-1] = Row(rows[-1].first, segment)
        else:
            rows.append(Row(segment, segment))
    return rows


class Known(Protocol):
    """What is known of segments, so that they need not be read."""

    def keep(self, segment: WalSegment, modified: float) -> bool:
        """Whether a segment need not be read, as its object was stored at that time."""

    def forget(self, segment: WalSegment) -> None:
        """It must be read all the same."""


@dataclass(frozen=True, order=True, slots=True)
class Stored:
    """An archived segment: where it is, and when it was stored (epoch seconds, 0 unknown)."""

    segment: WalSegment
    key: str
    modified: float


class Needed:
    """The segments of spans, for a quick look at whether one is among them."""

    def __init__(self, spans: Iterable[Span]) -> None:
        ordered = sorted((span.first, span.last) for span in spans)
        self._firsts = [first for first, _ in ordered]
        self._lasts = [last for _, last in ordered]

    def __contains__(self, segment: WalSegment) -> bool:
        index = bisect_right(self._firsts, segment) - 1
        return index >= 0 and segment <= self._lasts[index]


@dataclass(frozen=True)
class Survey:
    """What is to be read, and what lies around it.

    Args:
        needed: all that recoveries need.
        to_read: of those, what is archived and not known to be good.
        newest: the number of the newest archived segment of each timeline.
        histories: of each timeline whose history file is archived.
    """

    needed: Needed
    to_read: dict[WalSegment, Stored] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)
    histories: dict[int, TimelineHistory] = field(default_factory=dict)

    def timelines(self, segment: WalSegment) -> frozenset[int]:
        """The timelines that pages of a segment may carry; empty when its history is not known."""
        history = self.histories.get(segment.timeline)
        return frozenset(history.path if history else ())

    def before(self, segment: WalSegment) -> WalSegment | None:
        """The segment that recovery reads before one; at a fork it is an ancestor's."""
        if segment.number == 0:
            return None
        previous = WalSegment(segment.timeline, segment.number - 1, segment.size)
        if previous in self.needed:
            return previous
        history = self.histories.get(segment.timeline)
        parent = previous.on(history.timeline_at(segment.start - 1)) if history else previous
        return parent if parent in self.needed else None

    def after(self, segment: WalSegment) -> WalSegment | None:
        """The segment that recovery reads after one; across a fork it is a descendant's."""
        if segment.next() in self.needed:
            return segment.next()
        for timeline in sorted(self.histories):
            following = segment.next().on(timeline)
            if following in self.needed and self.before(following) == segment:
                return following
        return None

    def ends_wal(self, segment: WalSegment) -> bool:
        """Whether nothing follows a segment in the archive, so that WAL may end within it."""
        return self.newest.get(segment.timeline) == segment.number and self.after(segment) is None


def take_survey(archive: Archive, spans: Iterable[Span], known: Known) -> Survey:
    """List the archive once, and sort out what must be read.

    Args:
        archive: to list; its history files are read, segments are not.
        spans: what recoveries need.
        known: what need not be read; it learns which of it is still there and unchanged.
    """
    spans = list(spans)
    survey = Survey(Needed(spans))
    size = spans[0].first.size
    for info in archive.store.list(archive.layout.wal):
        name = without_suffix(info.key).rsplit("/", 1)[-1]
        if SEGMENT_NAME.fullmatch(name):
            with suppress(PermanentError):  # of no segment of this size; the listing by name says so
                _note(survey, known, Stored(WalSegment.parse(name, size), info.key, info.modified), archive)
        elif HISTORY_NAME.fullmatch(name):
            with suppress(ObjectDamaged):
                survey.histories[int(name[:8], 16)] = read_history(archive, info.key)
    return survey


def _note(survey: Survey, known: Known, stored: Stored, archive: Archive) -> None:
    segment = stored.segment
    survey.newest[segment.timeline] = max(survey.newest.get(segment.timeline, 0), segment.number)
    if segment not in survey.needed:
        return
    other = survey.to_read.get(segment)  # the same under another codec's suffix
    if other is None and known.keep(segment, stored.modified):
        return
    known.forget(segment)
    preferred = without_suffix(stored.key) + archive.repository.codec.suffix
    if other is None or stored.key == preferred:  # as find_key chooses
        survey.to_read[segment] = stored
