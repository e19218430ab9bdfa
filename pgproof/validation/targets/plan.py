"""A target plan: recovery targets within a stretch of WAL, and the commits that must and must not be there at each.

What must be there follows from the WAL by PostgreSQL's own rules, ``recoveryStopsBefore`` and ``recoveryStopsAfter``
of xlogrecovery.c, applied to the ends of transactions: commits and aborts, of prepared transactions too.

- time: before the first end whose time is later, or with *exclusive* not earlier. The first in the order of WAL: times
  do not rise with it when two sessions commit at once, or when the clock was set back;
- lsn: after the first record that begins there or later; with *exclusive* before it;
- xid: after the end of that transaction, or with *exclusive* before it;
- name: after the first restore point of that name.

The WAL may be far larger than memory, so it passes by once.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.history import Fork
from pgproof.timelines.lsn import LSN
from pgproof.wal.records import CommitRecord, Record, RestorePoint

CANARIES = 10  # commits on each side that are asked for
_KINDS = ("time", "lsn", "xid", "name")
_HALF = 1 << 31  # further apart, two xids of 32 bits cannot be told from one
_MOST_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """The WAL in which targets may lie.

    Args:
        consistent: the backup's stop LSN: no recovery may end before it.
        cut: the LSN of a commit; no target may lead past it.
        timeline: that recovery follows.
        forks: of its path within the stretch, each with the timeline that was left there.
        followed: timelines that were left, whose own WAL up to the fork is there.
    """

    consistent: LSN
    cut: LSN
    timeline: int
    forks: tuple[Fork, ...] = ()
    followed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PlannedTarget:
    """A target, and what the WAL says of it.

    Args:
        target: as PostgreSQL shall be told.
        place: why there: ``random``, or which side of which fork.
        before: the last commits that must be there, in the order of WAL.
        after: the first commits that must not be there.
        last: the end of a transaction, commit or abort, that recovery replays last.
        next_lsn: where the first end begins that it must not replay.
        stop: the LSN before or after whose record recovery stops.
    """

    target: RecoveryTarget
    place: str
    before: tuple[CommitRecord, ...]
    after: tuple[CommitRecord, ...]
    last: CommitRecord
    next_lsn: LSN
    stop: LSN

    @property
    def stops_after(self) -> bool:
        """Whether the record at ``stop`` is replayed."""
        return self.target.kind == "name" or (self.target.kind != "time" and not self.target.exclusive)


@dataclass(frozen=True, slots=True)
class Wish:
    """Where a target shall lie: at the first fitting border between two ends of transactions.

    Args:
        at: what comes after the border begins here or later.
        floor: what comes before it begins here or later.
        below: what comes before it begins before this; None is anywhere.
        fraction: from 0 to 1, chooses among the values that mean the same border; 0 is the nearest one.
    """

    kind: str
    exclusive: bool
    at: LSN
    floor: LSN
    fraction: float
    timeline: int
    place: str = "random"
    below: LSN | None = None


def draw_wishes(stretch: Stretch, count: int, seed: int) -> list[Wish]:
    """Choose places, kinds and sides at random, and both sides of one fork where there is any.

    Args:
        stretch: to choose in.
        count: of targets at random; the first is a time, the second an LSN.
        seed: the same seed chooses the same shares of the stretch.
    """
    # no secret depends on it, and it must be repeatable
    dice = random.Random(seed)
    wishes = []
    for number in range(count):
        at = LSN(stretch.consistent + int(dice.random() * (stretch.cut - stretch.consistent)))
        exclusive, on_edge, fraction = dice.random() < 0.5, dice.random() < 0.5, dice.random()
        wishes.append(
            Wish(
                _KINDS[number % len(_KINDS)],
                exclusive,
                at,
                stretch.consistent,
                0.0 if on_edge else fraction,
                stretch.timeline,
            )
        )
    return wishes + (_at_fork(stretch, dice.choice(stretch.forks)) if count and stretch.forks else [])


def _at_fork(stretch: Stretch, fork: Fork) -> list[Wish]:
    """Just before a fork, if possible on the timeline that was left there, and just after it."""
    # the old timeline may end at the fork: only an inclusive LSN is sure to be found there
    old = fork.timeline if fork.timeline in stretch.followed else stretch.timeline
    before, after = f"before the fork at {fork.lsn}", f"after the fork at {fork.lsn}"
    return [
        Wish("lsn", False, fork.lsn, stretch.consistent, 0.0, old, before, fork.lsn),
        Wish("lsn", True, fork.lsn, fork.lsn, 0.0, stretch.timeline, after),
    ]


def plan_targets(records: Iterable[Record], stretch: Stretch, count: int, seed: int) -> list[PlannedTarget]:
    """Plan targets in the order in which one copy can be recovered to all of them.

    A wish that cannot be met, such as for a restore point where there is none, becomes an LSN. Fewer targets than
    wished for are planned where too little was committed.

    Args:
        records: ends of transactions and restore points in the order of WAL, from where recovery begins to some
            commits after the cut.
        stretch: where targets may lie.
        count: of targets at random.
        seed: of the choice.
    """
    pairs = []
    for wish in draw_wishes(stretch, count, seed):
        instead = _Search(replace(wish, kind="lsn"), stretch.cut)
        pairs.append((_Search(wish, stretch.cut) if wish.kind != "lsn" else instead, instead))
    _search(records, [search for pair in pairs for search in dict.fromkeys(pair)])
    distinct: dict[RecoveryTarget, PlannedTarget] = {}
    for pair in pairs:
        found = [search.planned for search in pair]
        for planned in (target for target in found if target and target.target not in distinct):
            distinct[planned.target] = planned
            break
    return sorted(distinct.values(), key=lambda found: (found.stop, found.stops_after, str(found.target)))


def _search(records: Iterable[Record], searches: list[_Search]) -> None:
    waiting = sorted(searches, key=lambda search: search.begins, reverse=True)
    active: list[_Search] = []
    past = _Past()
    for record in records:
        if not isinstance(record, (CommitRecord, RestorePoint)):
            continue
        while waiting and waiting[-1].begins <= record.lsn:
            active.append(waiting.pop())
        if active:
            for search in active:
                search.see(record, past)
            active = [search for search in active if not search.done]
        past.add(record)
        if not waiting and not active:
            break


@dataclass
class _Past:
    """What has passed by."""

    last: CommitRecord | None = None
    commits: deque[CommitRecord] = field(default_factory=lambda: deque(maxlen=CANARIES))
    newest: datetime | None = None
    names: set[str] = field(default_factory=set)
    wrapped: bool = False
    _first_xid: int = 0
    _highest: int = 0  # above the first one, without wraparound

    def add(self, record: CommitRecord | RestorePoint) -> None:
        if isinstance(record, RestorePoint):
            if len(self.names) < _MOST_NAMES:
                self.names.add(record.name)
            return
        self.last = record
        if record.committed and record.xid:
            self.commits.append(record)
        if record.time is not None and (self.newest is None or record.time > self.newest):
            self.newest = record.time
        if record.xid:
            self._count(record.xid)

    def _count(self, xid: int) -> None:
        """Notice when xids have gone round so far that an old one could be taken for a new one."""
        self._first_xid = self._first_xid or xid
        ahead = (xid - self._first_xid - self._highest) & 0xFFFFFFFF
        if ahead < _HALF:
            self._highest += ahead
        self.wrapped = self.wrapped or self._highest >= _HALF

    def knows(self, name: str) -> bool:
        """Whether a restore point of this name may have passed by: recovery would stop at that one."""
        return name in self.names or len(self.names) >= _MOST_NAMES


class _Search:
    """Looks for the border of one wish while records pass by."""

    def __init__(self, wish: Wish, cut: LSN) -> None:
        self._wish, self._cut = wish, cut
        # restore points are rare: any of the whole stretch will do
        self.begins = wish.floor if wish.kind == "name" else wish.at
        self._dice = random.Random(wish.fraction)
        self._points = 0
        self._point: RestorePoint | None = None
        self._last: CommitRecord | None = None
        self._newest: datetime | None = None
        self._before: tuple[CommitRecord, ...] = ()
        self._next: CommitRecord | None = None
        self._after: list[CommitRecord] = []

    @property
    def done(self) -> bool:
        return self._wish.kind != "name" and len(self._after) >= CANARIES

    def see(self, record: CommitRecord | RestorePoint, past: _Past) -> None:
        """Look at the next record.

        Args:
            record: the next one.
            past: all that came before it.
        """
        if isinstance(record, RestorePoint):
            if self._wish.kind == "name":
                self._see_point(record, past)
            return
        if self._last is None and self._wish.kind != "name" and self._fits(record, past):
            self._open(past)
        if self._last is None:
            return
        self._next = self._next or record
        if record.committed and record.xid and len(self._after) < CANARIES:
            self._after.append(record)

    def _see_point(self, point: RestorePoint, past: _Past) -> None:
        """One of all restore points at random, each as likely as any other (Vitter's algorithm R)."""
        clear = point.name.isprintable() and "\ufffd" not in point.name and not past.knows(point.name)
        if not clear or not point.lsn < self._cut or not self._settled(past):
            return
        self._points += 1
        if self._dice.random() * self._points < 1:
            self._point = point
            self._open(past)

    def _open(self, past: _Past) -> None:
        self._last, self._newest = past.last, past.newest
        self._before, self._next, self._after = tuple(past.commits), None, []

    def _settled(self, past: _Past) -> bool:
        """Whether what has passed by may be what is there at the target."""
        last, below = past.last, self._wish.below
        if last is None or not past.commits or last.lsn < self._wish.floor:
            return False
        return below is None or last.lsn < below

    def _fits(self, record: CommitRecord, past: _Past) -> bool:
        """Whether the border before a record can be told to PostgreSQL in the wished way."""
        if record.lsn > self._cut or not self._settled(past):
            return False
        if self._wish.kind == "time":
            return record.time is not None and past.newest is not None and record.time > past.newest
        if self._wish.kind == "xid":
            named = record if self._wish.exclusive else past.last
            return named is not None and named.xid != 0 and not past.wrapped
        return True

    @property
    def planned(self) -> PlannedTarget | None:
        """The target; None when there is none with a commit on either side."""
        if self._last is None or self._next is None or not self._after:
            return None
        value, stop = self._value(self._last, self._next)
        exclusive = self._wish.exclusive and self._wish.kind != "name"
        target = RecoveryTarget(self._wish.kind, value, exclusive, self._wish.timeline)
        return PlannedTarget(
            target,
            self._wish.place,
            self._before,
            tuple(self._after),
            self._last,
            self._next.lsn,
            stop,
        )

    def _value(self, last: CommitRecord, following: CommitRecord) -> tuple[str, LSN]:
        """The value that means the border between two ends, and where recovery then stops."""
        kind, exclusive, fraction = self._wish.kind, self._wish.exclusive, self._wish.fraction
        if kind == "name":
            assert self._point is not None
            return self._point.name, self._point.lsn
        if kind == "time":
            assert self._newest is not None and following.time is not None
            offset = timedelta(
                microseconds=int(fraction * ((following.time - self._newest) // timedelta(microseconds=1)))
            )
            time = following.time - offset if exclusive else self._newest + offset
            return time.isoformat(sep=" "), following.lsn
        if kind == "xid":
            named = following if exclusive else last
            return str(named.xid), named.lsn
        if not exclusive:
            return str(last.lsn), last.lsn
        lsn = LSN(following.lsn - int(fraction * (following.lsn - last.lsn)))
        return str(lsn), lsn
