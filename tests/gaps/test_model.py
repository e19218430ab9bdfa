"""A model of timelines: a world of servers that fail over, are restored and cloned, and what its archive must say.

The world knows which server is production, and which commits each archived segment holds. The engine sees names,
histories, backups and the commits of segments that it asks for, as it sees them in a repository.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from pgproof.backups.catalog import BackupEntry
from pgproof.gaps.gap import check_gaps
from pgproof.restore.futures import Choice, choose_future
from pgproof.restore.locate import WalReader
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing
from pgproof.wal.records import CommitRecord
from pgproof.wal.runs import Numbers
from tests.retention.archives import NOON, entry
from tests.wal.listings import SIZE, catalog, source

Commit = tuple[int, int, int]  # LSN, minute, number


@dataclass
class Server:
    """One server: its timeline, those that it left, and every commit that a client of it sees."""

    timeline: int
    left: list[tuple[int, int]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    lsn: int = 3 * SIZE + 40


@dataclass
class World:
    """Servers and one archive; ``production`` is the one that users write to."""

    dice: random.Random
    production: Server = field(default_factory=lambda: Server(1))
    minute: int = 0
    count: int = 0
    timelines: int = 1
    archive: dict[tuple[int, int], list[Commit]] = field(default_factory=dict)
    histories: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    backups: list[BackupEntry] = field(default_factory=list)
    lost: set[tuple[int, int]] = field(default_factory=set)

    def write(self, server: Server) -> None:
        """A commit; what fills a segment archives it."""
        self.count += 1
        size = self.dice.randrange(1, 6) * SIZE // 10
        if server.lsn // SIZE != (server.lsn + size) // SIZE:
            self.switch(server)
        server.commits.append((server.lsn + 8, self.minute, self.count))
        server.lsn += size

    def switch(self, server: Server) -> None:
        """Finish the segment and archive it; it begins with what the timeline before had of it."""
        number = server.lsn // SIZE
        self.archive[server.timeline, number] = [c for c in server.commits if c[0] // SIZE == number]
        server.lsn = (number + 1) * SIZE + 40

    def fork(self, server: Server, lsn: int) -> Server:
        """A server that has another's past up to an LSN, and archives its history."""
        self.timelines += 1
        left = [*server.left, (server.timeline, lsn)]
        self.histories[self.timelines] = left
        return Server(self.timelines, left, [c for c in server.commits if c[0] < lsn], lsn)

    def backup(self) -> None:
        self.switch(self.production)
        number = self.production.lsn // SIZE
        at = NOON + timedelta(minutes=self.minute)
        self.backups.append(entry(f"b{self.minute}", at, number, timeline=self.production.timeline))
        self.production.lsn = number * SIZE + 8192
        self.switch(self.production)

    def failover(self) -> None:
        """To a standby that may lack the last commits; the old primary may have archived them."""
        old = self.production
        back = self.dice.choice([0, 0, 1, 2])
        lsn = min([old.lsn, *(c[0] - 8 for c in old.commits[len(old.commits) - back :])])
        if self.dice.random() < 0.3:
            self.switch(old)
        self.production = self.fork(old, lsn)

    def restore(self) -> None:
        """Production is restored to an earlier commit, behind the first backup on its path, and goes on."""
        old = self.production
        first = min((e.record.stop_lsn for e in self.backups if self.on(old, e)), default=None)
        places = [c[0] + 8 for c in old.commits if first is not None and c[0] > first]
        if places:
            self.switch(old)
            self.production = self.fork(old, self.dice.choice(places))

    def clone(self) -> None:
        """A clone is promoted for a moment, archives something or not, and is thrown away."""
        stray = self.fork(self.production, self.production.lsn)
        for _ in range(self.dice.randrange(3)):
            self.write(stray)
        if self.dice.random() < 0.6:
            self.switch(stray)

    def lose(self) -> None:
        if self.archive:
            segment = self.dice.choice(sorted(self.archive))
            self.lost.add(segment)

    def on(self, server: Server, backup: BackupEntry) -> bool:
        """Whether a backup is of a server's past."""
        timeline, stop = backup.record.timeline, backup.record.stop_lsn
        path = [*(parent for parent, _ in server.left), server.timeline]
        if timeline not in path:
            return False
        place = path.index(timeline)
        began = server.left[place - 1][1] if place else 0
        return stop >= began and all(stop <= lsn for _, lsn in server.left[place:])

    # ---- what the engine sees

    def listing(self) -> WalListing:
        numbers: dict[int, list[int]] = {}
        for timeline, number in self.archive.keys() - self.lost:
            numbers.setdefault(timeline, []).append(number)
        return WalListing(
            SIZE,
            {timeline: Numbers(found) for timeline, found in sorted(numbers.items())},
            {
                timeline: TimelineHistory(timeline, tuple(Fork(parent, LSN(lsn)) for parent, lsn in left))
                for timeline, left in self.histories.items()
            },
        )

    def choose(self, source: int | None) -> Choice:
        return choose_future(self.backups, self.listing(), lambda major: Reader(self), lambda: source)

    # ---- what is true

    def restored(self, left: list[tuple[int, int]], timeline: int) -> set[int]:
        """The commits that recovery along a path finds in the archive, whatever else is missing."""
        found = set()
        for (own, number), commits in self.archive.items():
            if (own, number) not in self.lost and self._of(left, timeline, (number + 1) * SIZE - 1) == own:
                found |= {count for _, _, count in commits}
        return found

    @staticmethod
    def _of(left: list[tuple[int, int]], timeline: int, lsn: int) -> int:
        """The timeline from which a path takes a byte: the youngest that had begun."""
        following = timeline
        for parent, fork in reversed(left):
            if lsn >= fork:
                return following
            following = parent
        return following


class Reader(WalReader):
    """Reads the commits of the world's segments."""

    def __init__(self, world: World) -> None:
        self.world = world

    def commits(self, segment: WalSegment) -> list[CommitRecord]:
        found = self.world.archive[segment.timeline, segment.number]
        return [CommitRecord(LSN(lsn), 800 + n, _time(minute), True) for lsn, minute, n in found]


def _time(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def live(seed: int, *, gaps: bool) -> World:
    """A life of up to 40 steps."""
    dice = random.Random(seed)
    world = World(dice)
    world.write(world.production)
    world.backup()
    steps = [*["write"] * 8, *["switch"] * 3, "backup", "failover", "restore", "clone", *["lose"] * gaps]
    for _ in range(dice.randrange(5, 40)):
        world.minute += 1
        step = dice.choice(steps)
        if step in ("write", "switch"):
            getattr(world, step)(world.production)
        else:
            getattr(world, step)()
    return world


def check_choice(seed: int) -> str:
    """What is wrong with the choice of a future; empty when nothing is."""
    world = live(seed, gaps=False)
    production = world.production
    if not any(world.on(production, backup) for backup in world.backups):
        return ""  # there is no way to it
    told, alone = world.choose(production.timeline), world.choose(None)
    if told.conflict is None and told.history.timeline != production.timeline:
        return f"the source is on {production.timeline}, and {told.history.timeline} is followed"
    wanted = world.restored(production.left, production.timeline)
    followed = world.restored(world.histories.get(alone.history.timeline, []), alone.history.timeline)
    if alone.conflict is not None:
        return f"refused without a reason: {alone.conflict}" if newest_is_productions(world) else ""
    if not wanted <= followed:
        return f"commits {sorted(wanted - followed)} of production are archived and not restored"
    foreign = followed - {count for _, _, count in production.commits}
    return (
        f"commits {sorted(foreign)} are not production's" if newest_is_productions(world) and foreign else ""
    )


def newest_is_productions(world: World) -> bool:
    """Whether the newest commit in the archive is one that only production has made."""
    commits = [c for found in world.archive.values() for c in found]
    newest = max(commits, key=lambda commit: commit[1:])
    own = max((lsn for _, lsn in world.production.left), default=0)
    return newest in world.production.commits and newest[0] >= own


def check_gap(seed: int) -> str:
    """What is wrong with the gaps that are found; empty when nothing is."""
    world = live(seed, gaps=True)
    server = world.production
    own = [number for timeline, number in world.archive if timeline == server.timeline]
    newest = WalSegment(server.timeline, max(own), SIZE).name if own else None
    facts = source(server.lsn / SIZE, timeline=server.timeline, archived=newest)
    report = check_gaps(catalog(*world.backups), world.listing(), facts)
    found = {(run.timeline, segment.number) for run in report.gaps for segment in run}
    if invented := found - world.lost:
        return f"gaps {sorted(invented)} are invented"
    starts = [e.record.first_segment.number for e in world.backups if world.on(server, e)]
    if not starts or not own:
        return ""
    needed = {
        (world._of(server.left, server.timeline, (number + 1) * SIZE - 1), number)
        for number in range(min(starts), max(own) + 1)
    }
    missed = (needed & world.lost) - found
    return f"gaps {sorted(missed)} are missed" if missed else ""


@pytest.mark.parametrize("check", [check_choice, check_gap])
def test_histories(check: object) -> None:
    found = {seed: fault for seed in range(2000) if (fault := check(seed))}  # type: ignore[operator]
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_choice, check_gap])
def test_thousands_of_histories(check: object) -> None:
    found = {seed: fault for seed in range(2000, 20_000) if (fault := check(seed))}  # type: ignore[operator]
    assert found == {}


def test_the_model_meets_what_it_is_about() -> None:
    """Strays, forks that do not ascend, refusals and losses all come up in the bounded part."""
    worlds = [live(seed, gaps=False) for seed in range(400)]
    assert sum(len(world.histories) > len(world.production.left) for world in worlds) > 100
    assert (
        sum(
            [lsn for _, lsn in w.production.left] != sorted(lsn for _, lsn in w.production.left)
            for w in worlds
        )
        > 5
    )
    assert sum(world.choose(world.production.timeline).conflict is not None for world in worlds) > 10
    assert (
        sum(world.choose(None).history.timeline != max(world.histories, default=1) for world in worlds) > 50
    )
