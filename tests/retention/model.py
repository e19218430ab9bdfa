"""A model of retention: lives of clusters with their true futures, and what every expire owes them, by brute force.

It knows the truth, which the engine has to find out: who forked from whom, when each byte was written, what is proven,
which backup is good, which future has ended. It answers from that alone, point by point and segment by segment, and
shares no code with the engine; only the facts that it hands over are the engine's values.

An expire owes in two directions: nothing that is promised may go (``owed``), and nothing may stay for nothing
(``needless``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pgproof.backups.catalog import BackupEntry, Hold
from pgproof.retention.plan import ExpireFacts, ExpirePlan
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.wal.runs import Numbers
from tests.retention.archives import SIZE, entry, facts, history_object, names, positions, wal

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Segment = tuple[int, int]  # timeline and number


@dataclass(frozen=True)
class Point:
    """Somebody may want to recover to here."""

    timeline: int
    lsn: int
    time: datetime


@dataclass
class Taken:
    """A backup as it truly is."""

    label: str
    timeline: int
    start: int
    stop: int
    time: datetime
    parent: str | None
    proven: bool = False
    failed: bool = False
    held: bool = False

    @property
    def own(self) -> set[Segment]:
        return {(self.timeline, n) for n in range(self.start // SIZE, (self.stop - 1) // SIZE + 1)}


@dataclass
class World:
    """A cluster with its archive."""

    policy: dict[str, int]
    now: datetime = START
    timeline: int = 1
    position: int = SIZE
    forks: dict[int, tuple[int, int]] = field(default_factory=dict)  # timeline: whence, at which LSN
    segments: set[Segment] = field(default_factory=set)
    stored: dict[Segment, datetime] = field(default_factory=dict)  # by a clock that is right
    promoted: dict[int, datetime] = field(default_factory=dict)  # when the history was stored
    untold: set[int] = field(default_factory=set)  # timelines whose history is not in the archive
    clock: timedelta | None = timedelta(0)  # how far the store's clock is ahead; None: it tells no times
    points: list[Point] = field(default_factory=list)
    backups: dict[str, Taken] = field(default_factory=dict)
    removed: set[Segment] = field(default_factory=set)  # by rot or by expire: not archived again
    expired: set[Segment] = field(default_factory=set)
    count: int = 0

    # ---- what happens

    def write(self, halves: int) -> None:
        """Commits, half a segment at a time; full segments are archived."""
        for _ in range(halves):
            self.now += timedelta(minutes=20)
            self.position += SIZE // 2
            self.points.append(Point(self.timeline, self.position, self.now))
        self._archive()

    def _archive(self) -> None:
        begun = self.forks[self.timeline][1] if self.timeline in self.forks else SIZE
        for number in range(begun // SIZE, self.position // SIZE):
            if (self.timeline, number) not in self.removed:
                self.segments.add((self.timeline, number))
                self.stored.setdefault((self.timeline, number), self.now)

    def switch(self) -> None:
        """The rest of the segment stays empty, and it is archived."""
        self.position += -self.position % SIZE
        self._archive()

    def back_up(self, parent: str | None = None) -> None:
        self.now += timedelta(minutes=10)
        start = self.position + 40
        self.position += SIZE // 4
        stop = self.position
        self.switch()
        self.now += timedelta(minutes=10)
        self.count += 1
        label = f"b{self.count:03}"
        self.backups[label] = Taken(label, self.timeline, start, stop, self.now, parent)

    def fork(self, whence: int, lsn: int) -> int:
        """A server was promoted there: a new timeline, with the rest of that segment."""
        made = max([1, *self.forks]) + 1
        self.forks[made] = (whence, lsn)
        self.promoted[made] = self.now
        return made

    def fail_over(self) -> None:
        self.timeline = self.fork(self.timeline, self.position)
        self.write(2)

    def stray(self, halves: int) -> None:
        """A clone is promoted, archives, and is gone; production goes on where it was."""
        home, position, now = self.timeline, self.position, self.now
        self.timeline = self.fork(home, position)
        self.write(halves)
        self.timeline, self.position, self.now = home, position, now

    def recover(self, point: Point) -> None:
        """Production is brought back to a point of its past, and goes on from there."""
        self.timeline, self.position = self.fork(point.timeline, point.lsn), point.lsn
        self.write(2)

    def lose(self, segment: Segment) -> None:
        """Rot, or a lifecycle rule."""
        self.segments.discard(segment)
        self.removed.add(segment)

    # ---- what is true

    def path(self, timeline: int) -> list[tuple[int, int, float]]:
        """The stretches of WAL that lead to a timeline's end: timeline, first LSN, end."""
        stretches: list[tuple[int, int, float]] = []
        end = float("inf")
        while timeline in self.forks:
            whence, lsn = self.forks[timeline]
            if lsn < end:
                stretches.insert(0, (timeline, lsn, end))
            timeline, end = whence, min(end, lsn)
        return [(timeline, 0, end), *stretches]

    def at(self, path: list[tuple[int, int, float]], lsn: int) -> int:
        return next(timeline for timeline, first, end in path if first <= lsn < end)

    def whole(self, backup: Taken, kept: set[str]) -> bool:
        while backup.parent is not None:
            if backup.parent not in kept:
                return False
            backup = self.backups[backup.parent]
        return True

    def bad(self, backup: Taken) -> bool:
        """Failed itself, or builds on what failed and was never proven."""
        if backup.failed or backup.proven:
            return backup.failed
        return backup.parent in self.backups and self.bad(self.backups[backup.parent or ""])

    def root(self, backup: Taken) -> str:
        """The full backup of a chain, as far as it is there."""
        while backup.parent in self.backups:
            backup = self.backups[backup.parent or ""]
        return backup.label

    def lies(self, backup: Taken, path: list[tuple[int, int, float]]) -> bool:
        """Whether a recovery along a path can begin with a backup."""
        return any(t == backup.timeline and first <= backup.stop <= end for t, first, end in path)

    def reach(self, backup: Taken, path: list[tuple[int, int, float]], segments: set[Segment]) -> int:
        """The first segment of a path that is not there, from a backup on."""
        ends = [min((n + 1) * SIZE, end) for on, _, end in path for t, n in self.segments if on == t]
        last = int(max(ends, default=0))
        number = backup.start // SIZE
        while (
            number * SIZE < last and (self.at(path, min((number + 1) * SIZE, last) - 1), number) in segments
        ):
            number += 1
        return number

    def way(self, backup: Taken, point: Point) -> set[Segment] | None:
        """What a recovery from a backup to a point reads; None where there is no way."""
        path = self.path(point.timeline)
        if not self.lies(backup, path) or backup.stop > point.lsn:
            return None
        return {
            (max(self.at(path, min((n + 1) * SIZE, point.lsn) - 1), backup.timeline), n)
            for n in range(backup.start // SIZE, (point.lsn - 1) // SIZE + 1)
        }

    def recoverable(self, kept: set[str], segments: set[Segment], *, proven: bool = False) -> set[Point]:
        """The points that a backup that is good as far as anybody knows leads to."""
        good = [
            backup
            for label, backup in self.backups.items()
            if label in kept and self.whole(backup, kept) and not self.bad(backup)
        ]
        good = [backup for backup in good if backup.proven or not proven]
        found = set()
        for point in self.points:
            for backup in good:
                needed = self.way(backup, point)
                if needed is not None and needed <= segments:
                    found.add(point)
                    break
        return found

    # ---- what the engine is told, and what it did

    def facts(self, now: datetime) -> ExpireFacts:
        histories: dict[int, TimelineHistory] = {}
        for timeline, (whence, lsn) in sorted(self.forks.items()):
            before = histories[whence].forks if whence in histories else ()
            histories[timeline] = TimelineHistory(timeline, (*before, Fork(whence, LSN(lsn))))
        histories = {timeline: known for timeline, known in histories.items() if timeline not in self.untold}
        objects = [history_object(timeline, self._shown(self.promoted[timeline])) for timeline in histories]
        for timeline, number in sorted(self.segments):
            objects += wal(timeline, [number], stored=self._shown(self.stored[timeline, number]))
        expired = {t: Numbers(n for timeline, n in self.expired if timeline == t) for t, _ in self.expired}
        return facts(
            [self._entry(backup) for backup in self.backups.values()],
            objects,
            now=now,
            histories=histories,
            removed=expired,
            **self.policy,
        )

    def _shown(self, stored: datetime) -> datetime | None:
        """As the store's clock has it."""
        return None if self.clock is None else stored + self.clock

    def _entry(self, backup: Taken) -> BackupEntry:
        hold = Hold(backup.label, "audit") if backup.held else None
        failed = "differs" if self.bad(backup) else None
        made = entry(
            backup.label, backup.time, 1, timeline=backup.timeline, parent=backup.parent, proven=backup.proven
        )
        record = replace(made.record, start_lsn=LSN(backup.start), stop_lsn=LSN(backup.stop))
        return replace(made, record=record, failed=failed, hold=hold)

    def carry_out(self, plan: ExpirePlan) -> None:
        gone = {
            position
            for position, name in zip(positions(plan.remove_wal), names(plan.remove_wal), strict=True)
            if len(name) == 24
        }
        self.segments -= gone
        self.removed |= gone
        self.expired |= gone
        self.backups = {label: taken for label, taken in self.backups.items() if label in plan.kept}


def owed(world: World, plan: ExpirePlan) -> None:
    """What an expire owes, checked against the plan before it is carried out.

    Raises:
        AssertionError: it takes what it must not.
    """
    kept = set(plan.kept)
    gone = set(positions(plan.remove_wal))
    left = world.segments - gone
    order = sorted(world.backups.values(), key=lambda backup: (backup.time, backup.label))
    proven = [b for b in order if b.proven and not b.failed and world.whole(b, set(world.backups))]
    assert order[-1].label in kept, "the newest goes"
    assert not proven or proven[-1].label in kept, "the newest proven goes"
    for backup in order:
        if backup.held:
            assert backup.label in kept, f"held {backup.label} goes"
        if backup.label in kept:
            assert backup.parent is None or backup.parent in kept, f"{backup.label} loses its parent"
            assert not backup.own & gone, f"{backup.label} loses its own WAL"
    _slots(world, order, kept)
    before, after = world.recoverable(set(world.backups), world.segments), world.recoverable(kept, left)
    since = order[-1].time - timedelta(seconds=world.policy["wal_window"])
    lost = [point for point in before - after if point.time >= since]
    assert not lost, f"the window loses {sorted(lost, key=lambda p: p.time)[0]}"
    if proven:
        behind = {
            p for p in before if (way := world.way(proven[-1], p)) is not None and way <= world.segments
        }
        assert behind <= after, "what lies behind the newest proof is lost"
    for backup in order:
        if backup in proven and backup.label not in kept:
            assert any(b.time > backup.time and b.label in kept for b in proven), (
                f"no proof for {backup.label}"
            )


def _slots(world: World, order: list[Taken], kept: set[str]) -> None:
    """Each day, week and month that counts has its best backup; failed ones fill none."""
    for best in _best(world, order):
        assert any(b.label in kept for b in best), f"a period has none of {[b.label for b in best]}"


def _best(world: World, order: list[Taken]) -> list[list[Taken]]:
    """The best backups of each day, week and month that counts, oldest first."""
    good = [backup for backup in order if not world.bad(backup)]
    forms = {"daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m"}
    found = []
    for kind, form in forms.items():
        periods: dict[str, list[Taken]] = {}
        for backup in good:
            periods.setdefault(backup.time.strftime(form), []).append(backup)
        for period in list(reversed(periods))[: world.policy[kind]]:
            inside = periods[period]
            whole = [b for b in inside if world.whole(b, set(world.backups))]
            found.append([b for b in whole if b.proven] or whole or inside)
    return found


def needless(world: World, plan: ExpirePlan, now: datetime) -> None:
    """What stays and has no reason, checked against the plan before it is carried out.

    Raises:
        AssertionError: a backup or a segment stays for nothing.
    """
    order = sorted(world.backups.values(), key=lambda backup: (backup.time, backup.label))
    futures = _living(world, order, now)
    if futures is None:
        return
    kept = [backup for backup in order if backup.label in plan.kept]
    bases = {timeline: _bases(world, order, timeline, reach) for timeline, reach in futures.items()}
    allowed = {backup.label for backup in _by_rule(world, order)}
    allowed |= {backup.label for found in bases.values() for backup in found}
    for backup in reversed(kept):
        if backup.parent and backup.label in allowed:
            allowed.add(backup.parent)
    for backup in kept:
        assert backup.label in allowed, f"{backup.label} stays for nothing; futures {futures}"
    needed = {segment for backup in kept for segment in backup.own}
    for timeline, found in bases.items():
        path = world.path(timeline)
        after = [b for b in kept if world.lies(b, path) and found and b.time >= min(b.time for b in found)]
        begin = min((backup.start // SIZE for backup in after), default=None)
        if begin is not None:
            needed |= {
                (t, n)
                for t, n in world.segments
                for on, _, end in path
                if on == t and n >= begin and n * SIZE < end
            }
    newest = order[-1]
    for timeline, number in sorted(world.segments - set(positions(plan.remove_wal)) - needed):
        newer = timeline > newest.timeline or number >= newest.start // SIZE
        assert newer and timeline in futures, (
            f"segment {(timeline, number)} stays for nothing; futures {futures}"
        )


def _living(world: World, order: list[Taken], now: datetime) -> dict[int, datetime] | None:
    """The futures that something is owed to, and since when; None where nobody can know that.

    A quarter of an hour is the time by which a backup's WAL is stored before its record.
    """
    newest = order[-1]
    if not newest.own <= world.segments:
        return None
    since = min(now, newest.time) - timedelta(seconds=world.policy["wal_window"])
    proven = [b for b in order if b.proven and not b.failed and world.whole(b, set(world.backups))]
    found = {}
    for timeline in [1, *world.forks]:
        path = world.path(timeline)
        behind = [b for b in proven[-1:] if world.lies(b, path) or timeline in world.untold]
        reach = min([since, *(backup.time for backup in behind)])
        last = [time for (t, _), time in world.stored.items() if t == timeline]
        last += [world.promoted[timeline]] if timeline in world.promoted else []
        late = max(world.clock or timedelta(0), timedelta(0)) + timedelta(minutes=15)
        alive = world.clock is None or (last and max(last) + late >= reach)
        if alive or world.lies(newest, path):
            found[timeline] = reach
    return None if world.untold & set(found) else found


def _bases(world: World, order: list[Taken], timeline: int, reach: datetime) -> list[Taken]:
    """The backups that may be the base of a future's window, now or next.

    A hole parts the backups before it from those behind; each part has a base until one is as old as the window.
    """
    path = world.path(timeline)
    parts: dict[int, list[Taken]] = {}
    for backup in order:
        if world.lies(backup, path):
            parts.setdefault(world.reach(backup, path, world.segments), []).append(backup)
    found: list[Taken] = []
    for hole in sorted(parts, reverse=True):
        part = parts[hole]
        good = [b for b in part if world.whole(b, set(world.backups)) and not world.bad(b)]
        old = [backup for backup in good if backup.time <= reach]
        if old:
            base = ([backup for backup in old if backup.proven] or old)[-1]
            young = [backup for backup in good if backup.time > reach and (backup.proven or not base.proven)]
            return [*found, base, *([backup for backup in young if backup.proven] or young)[:1]]
        reaching = [backup for backup in part if backup.time <= reach]
        found += [*(reaching[-1:] or part[:1]), *good[:1]]
    return found


def _by_rule(world: World, order: list[Taken]) -> list[Taken]:
    """The backups that stay whatever the windows are."""
    proven = [backup for backup in order if backup.proven and not backup.failed]
    whole = [backup for backup in proven if world.whole(backup, set(world.backups))]
    found = [order[-1], *proven[-1:], *whole[-1:], *(backup for backup in order if backup.held)]
    if not whole:
        fulls = [backup for backup in order if backup.parent is None]
        roots = {b.label for b in ([b for b in fulls if not world.bad(b)] or fulls)[-2:]}
        found += [backup for backup in order if world.root(backup) in roots]
    return found + [best[-1] for best in _best(world, order)]
