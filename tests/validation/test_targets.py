"""Recovery targets of a drill on real servers: chosen at random, recovered to, and asked for canary commits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from pgproof.backups.catalog import PROVEN
from pgproof.postgres.programs import account
from pgproof.timelines.lsn import LSN
from pgproof.validation.drill import Restored
from pgproof.validation.fences.fence import Fence
from pgproof.validation.targets.plan import PlannedTarget, Stretch, plan_targets
from pgproof.validation.targets.stretch import read_stretch, stretch_of
from pgproof.validation.targets.trial import Trial
from pgproof.wal.records import CommitRecord, Record
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import drill, fence_of, restored_copy
from tests.validation.writers import TABLES, writers

VERSIONS = [
    pytest.param(major, marks=pytest.mark.skipif(bool(installed(major)), reason=installed(major)))
    for major in (15, 17, 18)
]
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
QUIET = "SELECT pg_current_xact_id()"


@pytest.mark.parametrize("major", VERSIONS)
def test_targets_amid_busy_writers(major: int) -> None:
    """Every kind of target, while transactions of every kind end: subtransactions, prepared ones, aborts."""
    with running_source(major, max_prepared_transactions="20") as source:
        source.sql(TABLES)
        source.write_config("drill.targets = 8")
        with writers(source, 6, prepare=True) as load:
            source.backup()
            source.sql("SELECT pg_create_restore_point('noon')")
            source.archive_now()
            with load.at_full_speed():
                fence = fence_of(source)
            found = drill(source, fence)
    assert (found.proof.verdict, found.comparison.targets.finding) == (PROVEN, ""), found.proof.summary
    targets = found.proof.targets
    assert {t["kind"] for t in targets} == {"time", "lsn", "xid", "name"}
    assert [(t["ok"], t["last_found"], t["next_found"]) for t in targets] == [
        (True, t["last_expected"], t["next_expected"]) for t in targets
    ]
    assert all(t["canaries"] >= 2 and t["seconds"] > 0 for t in targets)
    places = [LSN.parse(t["last_found"]["lsn"]) for t in targets]
    assert places == sorted(places)
    assert places[-1] < min(LSN.parse(cut) for cut in found.proof.cuts.values())
    assert list(found.proof.phases) == [
        *("fence", "extract", "verify", "fetch", "targets"),
        *("start", "replay", "count", "compare", "check"),
    ]


@pytest.fixture(scope="module")
def idle() -> Iterator[Source]:
    """A source on which nothing happens but what the test of the moment does."""
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 5) g")
        source.backup()
        yield source


def test_an_idle_source_gets_its_canaries_from_the_fence(idle: Source) -> None:
    """Without them there would be no commit at all between the backup and the cut."""
    code, out, err = answer(idle, "drill", "main", "--targets", "3", "--seed", "11", "--json")
    assert code == 0, err
    targets = json.loads(out)["targets"]
    assert [(t["ok"], t["seed"], t["place"], t["timeline"]) for t in targets] == [
        (True, 11, "random", 1) for t in targets
    ]
    assert {t["kind"] for t in targets} == {"time", "lsn", "xid"}


def test_the_page_shows_a_line_for_each_target(idle: Source) -> None:
    idle.sql(QUIET)
    code, out, err = answer(idle, "drill", "main", "--targets", "1", "--seed", "11", "--json")
    assert code == 0, err
    (target,) = json.loads(out)["targets"]
    code, out, err = answer(idle, "drill", "main", "--targets", "1", "--seed", "11")
    assert code == 0, err
    lines = [line for line in " ".join(out.split()).split("  ") if "recovery target" in line]
    assert len(lines) == 1 and f"recovery target time {target['value'][:4]}" in lines[0]


def test_no_targets_are_named_as_not_checked(idle: Source) -> None:
    code, out, err = answer(idle, "drill", "main", "--targets", "0", "--json")
    assert code == 0, err
    proof = json.loads(out)
    assert (proof["targets"], "targets" in proof["phases"]) == ([], False)
    item = {"database": "every database", "what": "recovery targets", "reason": "drill.targets is 0"}
    assert item in proof["not_checked"]


# ---- planned by hand


@dataclass
class Copy:
    """A restored copy, and what its WAL says."""

    source: Source
    fence: Fence
    restored: Restored
    stretch: Stretch
    records: list[Record]

    @property
    def ends(self) -> list[CommitRecord]:
        """Transactions' ends in reach of a target."""
        ends = [record for record in self.records if isinstance(record, CommitRecord)]
        return [end for end in ends if self.stretch.consistent <= end.lsn <= self.stretch.cut]

    def trial(self) -> Trial:
        scratch, role = self.restored.scratch, self.fence.bootstrap_role
        return Trial(scratch, self.source.bin, role, account(None), 60, seed=1)


@contextmanager
def copy_of(source: Source) -> Iterator[Copy]:
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        wal, scratch = restored.replayable, restored.scratch
        assert wal is not None and fence.cut is not None
        stretch = stretch_of(scratch, fence, wal.timeline, wal.stop, fence.cut)
        records = read_stretch(scratch, source.bin, fence, wal.timeline, wal.first, wal.start)
        yield Copy(source, fence, restored, stretch, list(records))


def planned(copy: Copy, stretch: Stretch, fits: Callable[[PlannedTarget], bool]) -> PlannedTarget:
    """The first of many plans that is as wanted."""
    for seed in range(400):
        for target in plan_targets(copy.records, stretch, 3, seed):
            if fits(target):
                return target
    raise AssertionError("no seed plans such a target")


def commit_in_bursts(source: Source) -> None:
    """Thousands of commits a second without waiting for the disk: many share a microsecond."""
    loop = b"DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"

    def run() -> None:
        with source.connect() as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(loop)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_transactions_of_one_microsecond_stay_together(idle: Source) -> None:
    """A time that two transactions have: inclusive keeps both, exclusive neither; in one copy, one after the other."""
    commit_in_bursts(idle)
    with copy_of(idle) as copy:
        ends = copy.ends
        newest, twins = NEVER, []
        for number in range(1, len(ends) - 2):
            time, following = ends[number].time, ends[number + 1].time
            assert time is not None
            if time > newest and time == following and ends[number + 2].time != time:
                twins.append(ends[number - 1 : number + 3])
            newest = max(newest, time)
        assert twins, "no two transactions of one microsecond"
        before, one, two, after = twins[len(twins) // 2]
        neither = planned(
            copy,
            replace(copy.stretch, consistent=before.lsn, cut=one.lsn),
            lambda t: t.target.exclusive and t.target.kind == "time" and t.target.time == one.time,
        )
        both = planned(
            copy,
            replace(copy.stretch, consistent=one.lsn, cut=after.lsn),
            lambda t: not t.target.exclusive and t.target.kind == "time" and t.target.time == one.time,
        )
        assert (neither.after[:2], both.before[-2:]) == ((one, two), (one, two))
        trial = copy.trial()
        trial.run([neither, both])
    assert [(r.ok, r.finding, r.reason) for r in trial.results] == [(True, "", "")] * 2
