"""A timeline history tells where a timeline forked from its ancestors.

The file's format is that of ``readTimeLineHistory`` in PostgreSQL's timeline.c: a line for each ancestor with
its timeline, the LSN at which it was left, and a reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN

_LINE = re.compile(r"(\d+)\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s+(.*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fork:
    """The point at which a timeline was left: WAL of ``timeline`` counts up to ``lsn``, exclusive."""

    timeline: int
    lsn: LSN
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """A timeline and its ancestors, oldest first.

    Forks need not lie in ascending order: a recovery along timeline 2 that ends before 2 forked from 1, and is
    promoted, leaves a history of ``1 0/5011838`` and then ``2 0/3026B60`` (seen on PostgreSQL 17). Timeline 3
    then follows 1 from 0/3026B60 on, and what 1 wrote after that belongs to another future.
    """

    timeline: int
    forks: tuple[Fork, ...] = ()

    @classmethod
    def parse(cls, timeline: int, text: str) -> TimelineHistory:
        """Read the content of ``<timeline>.history``.

        Raises:
            ObjectDamaged: a line cannot be read, or ancestors are out of order.
        """
        forks: list[Fork] = []
        for line in text.split("\n"):  # a reason may hold any other kind of line break, and "#"
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            match = _LINE.fullmatch(stripped)
            if match is None or (forks and int(match[1]) <= forks[-1].timeline):
                raise ObjectDamaged(
                    f"history of timeline {timeline} cannot be read", f'The line is "{line}".'
                )
            forks.append(Fork(int(match[1]), LSN.parse(match[2]), match[3] or ""))
        if forks and forks[-1].timeline >= timeline:
            raise ObjectDamaged(
                f"history of timeline {timeline} cannot be read",
                f"Its last ancestor is timeline {forks[-1].timeline}.",
            )
        return cls(timeline, tuple(forks))

    def contains(self, timeline: int, lsn: int) -> bool:
        """Whether a recovery along this timeline can start from a position.

        For a backup it is the **stop** LSN that counts: a backup that ended after the fork holds pages of
        the other future.

        Args:
            timeline: of the position.
            lsn: the position; exactly at the fork still counts.
        """
        if timeline not in self.path:
            return False
        index = self.path.index(timeline)
        begin = self.forks[index - 1].lsn if index else 0
        return lsn >= begin and all(lsn <= fork.lsn for fork in self.forks[index:])

    def timeline_at(self, lsn: int) -> int:
        """The timeline whose WAL holds the byte at ``lsn`` on this path (``tliOfPointInHistory``)."""
        continued = self.path[1:]
        for fork, timeline in zip(reversed(self.forks), reversed(continued), strict=True):
            if lsn >= fork.lsn:
                return timeline
        return self.path[0]

    @property
    def path(self) -> tuple[int, ...]:
        """The timelines from the oldest ancestor to this one."""
        return (*(fork.timeline for fork in self.forks), self.timeline)


def history_of(timeline: int, histories: Mapping[int, TimelineHistory]) -> TimelineHistory:
    """A timeline's history; the first timeline, and one whose file is not archived, has no ancestors."""
    return histories.get(timeline, TimelineHistory(timeline))


def past_of(timeline: int, histories: Mapping[int, TimelineHistory]) -> TimelineHistory:
    """As ``history_of``; where the file is not archived, what a younger timeline's says of it, which is the same."""
    younger = next((history for history in histories.values() if timeline in history.path), None)
    if timeline in histories or younger is None:
        return history_of(timeline, histories)
    return TimelineHistory(timeline, younger.forks[: younger.path.index(timeline)])


def leaves(timelines: set[int], histories: Mapping[int, TimelineHistory]) -> list[TimelineHistory]:
    """The timelines that no other known timeline continues."""
    known = [history_of(timeline, histories) for timeline in sorted(timelines | set(histories))]
    ancestors = {fork.timeline for history in known for fork in history.forks}
    return [history for history in known if history.timeline not in ancestors]


def divergence(one: TimelineHistory, other: TimelineHistory) -> LSN:
    """The first LSN whose byte two paths take from different timelines; the end of all LSNs when there is none."""
    places = sorted({LSN(0), *(fork.lsn for path in (one, other) for fork in path.forks)})
    return next((lsn for lsn in places if one.timeline_at(lsn) != other.timeline_at(lsn)), LSN((1 << 64) - 1))
