"""Lives of clusters: backups, promotions, recoveries, drills; and the WAL that they need, by brute force.

The model knows the truth about its timelines (parent and fork), and answers from it alone: it shares no code
with ``pgproof.retention`` or ``pgproof.timelines``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import strategies as st

from pgproof.backups.catalog import BackupEntry, Hold
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import ExpireFacts
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from tests.retention.archives import NOON, SIZE, entry, facts, history_object, wal

ACTIONS = (
    "write",
    "full",
    "full",
    "incremental",
    "promote",
    "recover",
    "split",
    "drill",
    "fail",
    "hold",
    "wait",
)
Segment = tuple[int, int]  # timeline and number


@dataclass
class Life:
    """A cluster as it went on, in half segments of WAL and hours of time."""

    now: datetime = NOON
    timeline: int = 1
    position: int = SIZE
    parents: dict[int, tuple[int, int]] = field(default_factory=dict)  # timeline: parent, LSN of the fork
    segments: set[Segment] = field(default_factory=set)
    partials: set[Segment] = field(default_factory=set)
    backups: list[BackupEntry] = field(default_factory=list)
    taken: int = 0

    def act(self, action: str, amount: int, choice: int) -> None:
        """One step; ``amount`` is 0 to 9, ``choice`` picks among what there is."""
        self.now += timedelta(hours=1)
        if action == "write":
            self._write(amount)
        elif action == "wait":
            self.now += timedelta(hours=12 * amount)
        elif action in ("full", "incremental"):
            self._backup(action, amount, choice)
        elif action == "promote":
            self._fork(self.timeline, self.position)
        elif action == "recover":
            self._recover(amount, choice)
        elif action == "split":
            self._split(amount)
        elif self.backups:
            self._mark(action, choice % len(self.backups))

    def _write(self, halves: int) -> None:
        start, self.position = self.position, self.position + halves * SIZE // 2 + 1
        self.segments |= {(self.timeline, n) for n in range(start // SIZE, self.position // SIZE)}

    def _backup(self, action: str, amount: int, choice: int) -> None:
        start = self.position
        self._write(amount % 4)
        stop = self.position
        self.segments.add((self.timeline, (stop - 1) // SIZE))
        path = [b.label for b in self.backups if self.reaches(b, self.timeline)]
        parent = path[choice % len(path)] if action == "incremental" and path else None
        self.taken += 1
        made = entry(f"b{self.taken:02d}", self.now, 1, timeline=self.timeline, parent=parent)
        record = replace(made.record, start_lsn=LSN(start), stop_lsn=LSN(stop))
        self.backups.append(replace(made, record=record))
        self._write(2)

    def _fork(self, parent: int, lsn: int) -> None:
        self.partials.add((parent, lsn // SIZE))
        self.timeline = max([1, *self.parents]) + 1
        self.parents[self.timeline] = (parent, lsn)
        self.position = lsn
        self._write(2)

    def _recover(self, amount: int, choice: int) -> None:
        """A point-in-time recovery from some backup to a point after it, on the timeline of the backup."""
        if self.backups:
            record = self.backups[choice % len(self.backups)].record
            self._fork(record.timeline, record.stop_lsn + amount * SIZE // 3)

    def _split(self, amount: int) -> None:
        """A test copy is promoted and archives here, while the cluster goes on upon its own timeline."""
        timeline, position = self.timeline, self.position
        begun = self.parents[timeline][1] if timeline in self.parents else SIZE
        self._fork(timeline, max(begun, position - amount * 2 * SIZE))
        self.timeline, self.position = timeline, position

    def _mark(self, action: str, index: int) -> None:
        old = self.backups[index]
        if action == "drill":
            self.backups[index] = replace(old, proven_at=self.now, failed=None)
        elif action == "fail":
            self.backups[index] = replace(old, failed="differs")
        else:
            until = None if index % 3 == 0 else self.now + timedelta(days=index)
            self.backups[index] = replace(old, hold=Hold(old.label, "audit", until))

    def path(self, timeline: int) -> list[tuple[int, int, float]]:
        """The stretches of WAL that lead to the end of a timeline: timeline, first LSN, end LSN."""
        stretches: list[tuple[int, int, float]] = []
        end = float("inf")
        while timeline in self.parents:
            parent, lsn = self.parents[timeline]
            if lsn < end:  # else the next one left its past before it began itself
                stretches.insert(0, (timeline, lsn, end))
            timeline, end = parent, min(end, lsn)
        return [(timeline, 0, end), *stretches]

    def reaches(self, backup: BackupEntry, timeline: int) -> bool:
        """Whether a recovery can go from the backup to the end of the timeline."""
        record = backup.record
        return any(record.timeline == t and record.stop_lsn <= end for t, _, end in self.path(timeline))

    @property
    def ends(self) -> list[int]:
        """The timelines that no other continues, and the one on which the cluster lives."""
        known = {1, *self.parents}
        return sorted(known - {parent for parent, _ in self.parents.values()} | {self.timeline})

    def replay(self, backup: BackupEntry, timeline: int) -> set[Segment]:
        """Every archived segment with a byte that a recovery from the backup to that end can read."""
        first = backup.record.start_lsn // SIZE
        return {
            (t, number)
            for t, number in self.segments
            for of, start, end in self.path(timeline)
            if t == of and number >= first and number * SIZE < end and (number + 1) * SIZE > start
        }

    def own(self, backup: BackupEntry) -> set[Segment]:
        """The segments from a backup's start to its stop (invariant 2)."""
        record = backup.record
        numbers = range(record.start_lsn // SIZE, (record.stop_lsn - 1) // SIZE + 1)
        return {(record.timeline, number) for number in numbers}

    def histories(self) -> dict[int, TimelineHistory]:
        """The history files that PostgreSQL would have written."""
        found: dict[int, TimelineHistory] = {}
        for timeline in sorted(self.parents):
            parent, lsn = self.parents[timeline]
            before = found[parent].forks if parent in found else ()
            found[timeline] = TimelineHistory(timeline, (*before, Fork(parent, LSN(lsn))))
        return found

    def objects(self) -> list[ObjectInfo]:
        found = [history_object(timeline) for timeline in self.parents]
        for timeline, number in self.segments:
            found += wal(timeline, [number])
        for timeline, number in self.partials:
            found += wal(timeline, [number], ".partial")
        return found

    def facts(self, **limits: int) -> ExpireFacts:
        return facts(self.backups, self.objects(), now=self.now, histories=self.histories(), **limits)


steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9), st.integers(0, 99)), min_size=12, max_size=32
)
limits = st.fixed_dictionaries(
    {
        "daily": st.integers(0, 4),
        "weekly": st.integers(0, 2),
        "monthly": st.integers(0, 2),
        "wal_window": st.integers(0, 6 * 86400),
    }
)


def live(taken: list[tuple[str, int, int]]) -> Life:
    """A life from its steps; it always starts with some WAL and a full backup."""
    life = Life()
    life.act("write", 4, 0)
    life.act("full", 1, 0)
    for action, amount, choice in taken:
        life.act(action, amount, choice)
    return life
