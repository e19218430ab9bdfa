"""The plan of recovery targets, against an oracle that walks the WAL as PostgreSQL does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.history import Fork
from pgproof.timelines.lsn import LSN
from pgproof.validation.targets.plan import CANARIES, PlannedTarget, Stretch, plan_targets
from pgproof.wal.records import CommitRecord, QuietPoint, Record, RestorePoint

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Other:
    """A record of no interest: recovery can stop at it all the same."""

    lsn: LSN


Walked = CommitRecord | RestorePoint | Other


def stops_before(record: Walked, target: RecoveryTarget) -> bool:
    """``recoveryStopsBefore``."""
    if target.kind == "lsn" and target.exclusive and record.lsn >= target.lsn:
        return True
    if not isinstance(record, CommitRecord):
        return False
    if target.kind == "xid" and target.exclusive:
        return record.xid == int(target.value)
    if target.kind == "time" and record.time is not None:
        return record.time >= target.time if target.exclusive else record.time > target.time
    return False


def stops_after(record: Walked, target: RecoveryTarget) -> bool:
    """``recoveryStopsAfter``."""
    if target.kind == "name":
        return isinstance(record, RestorePoint) and record.name == target.value
    if target.kind == "lsn" and not target.exclusive:
        return record.lsn >= target.lsn
    if target.kind == "xid" and not target.exclusive:
        return isinstance(record, CommitRecord) and record.xid == int(target.value)
    return False


def replayed(records: list[Walked], target: RecoveryTarget) -> list[Walked] | None:
    """What recovery to a target replays; None when it runs to the end of WAL."""
    done = []
    for record in records:
        if stops_before(record, target):
            return done
        done.append(record)
        if stops_after(record, target):
            return done
    return None


@st.composite
def wal(draw: st.DrawFn) -> list[Walked]:
    """Records with steps between them, times that stand still or go back, aborts, xids out of order and without."""
    kinds = draw(st.lists(st.sampled_from("cccccaxnoo"), min_size=4, max_size=60))
    xids = draw(st.permutations(range(1000, 1000 + len(kinds))))
    position, time = 0x1000000, NOON
    records: list[Walked] = []
    for kind, xid in zip(kinds, xids, strict=True):
        position += draw(st.integers(32, 300))
        lsn = LSN(position)
        if kind == "o":
            records.append(Other(lsn))
        elif kind == "n":
            records.append(RestorePoint(lsn, draw(st.sampled_from(["one", "two", "three\n", "vier"]))))
        else:
            time += timedelta(microseconds=draw(st.sampled_from([0, 0, 1, 3, 500, 500, 90_000, -700])))
            records.append(CommitRecord(lsn, 0 if kind == "x" else xid, time, kind != "a"))
    cut = position + 100
    tail = [CommitRecord(LSN(cut + 100 * n), 2000 + n, time + timedelta(seconds=1), True) for n in range(3)]
    return [*records, *tail]


def passed(records: list[Walked]) -> list[Record]:
    """What pg_waldump lists of it."""
    return [record for record in records if not isinstance(record, Other)]


def check(planned: PlannedTarget, records: list[Walked], stretch: Stretch) -> None:
    """Recovery to the target replays just what the plan says, begins after the backup and ends before the cut."""
    found = replayed(records, planned.target)
    assert found is not None
    commits = [r for r in records if isinstance(r, CommitRecord) and r.committed and r.xid]
    there = [record for record in commits if record in found]
    assert planned.before == tuple(there[-CANARIES:])
    assert planned.after == tuple([record for record in commits if record not in found][:CANARIES])
    ends = [record for record in found if isinstance(record, CommitRecord)]
    assert planned.last == ends[-1]
    assert all(record.lsn < planned.next_lsn for record in found)
    assert planned.next_lsn == next(r.lsn for r in records if isinstance(r, CommitRecord) and r not in ends)
    assert all(record.lsn < stretch.cut for record in found)
    assert stretch.consistent <= planned.last.lsn


@settings(max_examples=400)
@given(wal(), st.integers(0, 2**32 - 1), st.integers(0, 9), st.floats(0, 0.9))
def test_planned_as_postgresql_recovers(records: list[Walked], seed: int, count: int, begin: float) -> None:
    cut = records[-3].lsn
    consistent = records[int(begin * (len(records) - 3))].lsn
    stretch = Stretch(consistent, cut, 1)
    planned = plan_targets(passed(records), stretch, count, seed)
    assert len(planned) <= count
    assert len({target.target for target in planned}) == len(planned)
    last_of_earlier = 0
    for target in planned:
        check(target, records, stretch)
        # one copy can be recovered to all of them: none replays less than the one before it
        found = replayed(records, target.target)
        assert found is not None and len(found) >= last_of_earlier
        last_of_earlier = len(found)


@settings(max_examples=200)
@given(wal(), st.integers(0, 2**32 - 1), st.floats(0.2, 0.8), st.booleans())
def test_both_sides_of_a_fork(records: list[Walked], seed: int, share: float, followed: bool) -> None:
    index = int(share * (len(records) - 3)) + 1
    fork = Fork(1, records[index].lsn)
    stretch = Stretch(LSN(records[0].lsn), records[-3].lsn, 2, (fork,), frozenset({1} if followed else ()))
    planned = {target.place: target for target in plan_targets(passed(records), stretch, 1, seed)}
    before, after = (
        planned.get(f"before the fork at {fork.lsn}"),
        planned.get(f"after the fork at {fork.lsn}"),
    )
    for target in planned.values():
        check(target, records, stretch)
    if before is not None:
        assert before.target.timeline == (1 if followed else 2)
        assert before.last.lsn < fork.lsn <= before.next_lsn
    if after is not None:
        assert after.target.timeline == 2
        assert fork.lsn <= after.last.lsn
        commits = [r for r in records if isinstance(r, CommitRecord) and r.committed and r.xid]
        assert not any(fork.lsn <= commit.lsn < after.last.lsn for commit in commits)


def test_a_plan_is_repeated_by_its_seed() -> None:
    records = ends([5, 10, 15, 20, 25, 30, 35, 40])
    stretch = Stretch(LSN(1), LSN(0x1000700), 1)
    first, second = (plan_targets(records, stretch, 6, 7) for _ in range(2))
    assert first == second
    assert first != plan_targets(records, stretch, 6, 8)
    assert len(first) == 6


def ends(milliseconds: list[int]) -> list[CommitRecord]:
    """Commits 256 bytes apart, the first at 0/1000000 with xid 700, at these milliseconds after noon."""
    return [
        CommitRecord(LSN(0x1000000 + 256 * n), 700 + n, NOON + timedelta(milliseconds=m), True)
        for n, m in enumerate(milliseconds)
    ]


def test_equal_times_stay_together() -> None:
    """Whatever time is chosen, transactions of one time are all there or none of them is."""
    records = ends([1, 2, 2, 2, 3, 3, 9])
    stretch = Stretch(records[0].lsn, records[-1].lsn, 1)
    borders = set()
    for seed in range(60):
        for target in plan_targets(records, stretch, 1, seed):
            check(target, list(records), stretch)
            borders.add((target.target.exclusive, target.before[-1].xid))
    assert {xid for _, xid in borders} == {700, 703, 705}
    assert len(borders) == 6


def test_a_time_before_the_clock_was_set_back_ends_at_the_first_later_one() -> None:
    """Commits of 12:00:00.001 to .003 come after one of .009: only times from .009 on can be told apart."""
    records = ends([9, 1, 2, 3, 10, 11])
    stretch = Stretch(LSN(1), records[-1].lsn, 1)
    for seed in range(20):
        (target,) = plan_targets(records, stretch, 1, seed)
        assert target.target.time >= NOON + timedelta(milliseconds=9)
        assert target.before[-1].xid in (703, 704)
        check(target, list(records), stretch)


def test_a_clock_that_stays_behind_leaves_an_lsn() -> None:
    records = ends([90_000, 1, 2, 3, 4])
    stretch = Stretch(records[1].lsn, records[-1].lsn, 1)
    (target,) = plan_targets(records, stretch, 1, 1)
    assert target.target.kind == "lsn"
    check(target, list(records), stretch)


def test_xids_that_went_round_are_no_targets() -> None:
    """An xid of 32 bits may name two transactions of this WAL; recovery stops at the first."""
    xids = [100, 1 << 30, 1 << 31, 3 << 30, 4_294_967_290, 90, 101, 102, 103]
    records = [replace(record, xid=xid) for record, xid in zip(ends(list(range(9))), xids, strict=True)]
    stretch = Stretch(records[5].lsn, records[-1].lsn, 1)
    for seed in range(30):
        planned = plan_targets(records, stretch, 3, seed)
        assert {target.target.kind for target in planned} <= {"time", "lsn"}
    early = Stretch(LSN(1), records[1].lsn, 1)
    kinds = {t.target.kind for seed in range(30) for t in plan_targets(records, early, 3, seed)}
    assert kinds == {"time", "lsn", "xid"}


def test_the_first_restore_point_of_a_name_is_the_only_one() -> None:
    """``recoveryStopsAfter`` stops at the first; one that was written before the backup ended is out of reach."""
    points = [RestorePoint(LSN(0x1000000 + 256 * n + 128), name) for n, name in enumerate("aabba")]
    commits = ends([1, 2, 3, 4, 5, 6, 7])
    records: list[Record] = sorted([*points, *commits], key=lambda record: record.lsn)
    stretch = Stretch(commits[1].lsn, commits[-1].lsn, 1)
    found = {
        target.target.value
        for seed in range(20)
        for target in plan_targets(records, stretch, 4, seed)
        if target.target.kind == "name"
    }
    assert found == {"b"}


def test_every_restore_point_has_its_chance() -> None:
    points = [RestorePoint(LSN(0x1000000 + 256 * n + 128), f"p{n}") for n in range(5)]
    commits = ends([1, 2, 3, 4, 5, 6, 7])
    records: list[Record] = sorted([*points, *commits], key=lambda record: record.lsn)
    stretch = Stretch(LSN(1), commits[-1].lsn, 1)
    planned = [t for seed in range(100) for t in plan_targets(records, stretch, 4, seed)]
    assert {t.target.value for t in planned if t.target.kind == "name"} == {f"p{n}" for n in range(5)}


@pytest.mark.parametrize(
    "records",
    [[], [QuietPoint(LSN(0x1000000), 700)], ends([1]), [RestorePoint(LSN(0x1000010), "x"), *ends([1])]],
    ids=["nothing", "no commit", "one commit", "a restore point"],
)
def test_too_little_was_committed(records: list[Record]) -> None:
    """A target needs a commit that must be there and one that must not."""
    assert plan_targets(records, Stretch(LSN(1), LSN(0x1000000), 1), 4, 1) == []


def test_no_targets_are_wished_for() -> None:
    records = ends([1, 2, 3, 4])
    stretch = Stretch(LSN(1), records[-1].lsn, 2, (Fork(1, records[1].lsn),))
    assert plan_targets(records, stretch, 0, 1) == []
