"""Random lives of clusters, each expire of which is held against the model."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgproof.retention.decision import decide
from pgproof.retention.plan import plan_expire
from tests.retention.archives import SIZE, positions
from tests.retention.model import START, World, needless, owed

DAY = 86400
many = st.integers(0, 99)


class Lives(RuleBasedStateMachine):
    """A cluster is written to, backed up, promoted, cloned, brought back, drilled, damaged, and expired from."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World({})

    @initialize(
        daily=st.integers(0, 4),
        weekly=st.integers(0, 2),
        monthly=st.integers(0, 2),
        window=st.sampled_from([0, DAY // 2, DAY, 3 * DAY, 6 * DAY]),
        clock=st.sampled_from([0, 0, 0, 3, -3, None]),
    )
    def begin(self, daily: int, weekly: int, monthly: int, window: int, clock: int | None) -> None:
        limits = {"daily": daily, "weekly": weekly, "monthly": monthly, "wal_window": window}
        ahead = None if clock is None else timedelta(days=clock)
        self.world = World(limits, now=START, clock=ahead)
        self.world.write(2)
        self.world.back_up()

    @rule(halves=st.integers(1, 6), hours=st.sampled_from([0, 0, 6, 12, 24, 72]))
    def write(self, halves: int, hours: int) -> None:
        self.world.now += timedelta(hours=hours)
        self.world.write(halves)

    @rule(hours=st.sampled_from([0, 6, 24]))
    def full(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)
        self.world.back_up()

    @rule(choice=many)
    def incremental(self, choice: int) -> None:
        usual = [b for b in self.world.backups.values() if b.timeline == self.world.timeline]
        usual = [b for b in usual if not self.world.bad(b)]
        self.world.back_up(usual[choice % len(usual)].label if usual else None)

    @rule(choice=many, good=st.booleans())
    def drill(self, choice: int, good: bool) -> None:
        """The newest most of the time, else any; what failed may be proven later, and the other way round."""
        backups = list(self.world.backups.values())
        backup = backups[-1] if choice % 3 else backups[choice % len(backups)]
        backup.failed = not good
        backup.proven = backup.proven or good

    @rule(choice=many, held=st.booleans())
    def hold(self, choice: int, held: bool) -> None:
        backups = list(self.world.backups.values())
        backups[choice % len(backups)].held = held

    @rule()
    def fail_over(self) -> None:
        self.world.fail_over()

    @rule(choice=many)
    def lose_history(self, choice: int) -> None:
        """Of one timeline at a time: what two of them may come from is past finding out."""
        if self.world.forks and not self.world.untold:
            self.world.untold = {list(self.world.forks)[-1 - choice % min(3, len(self.world.forks))]}

    @rule()
    def bring_history(self) -> None:
        self.world.untold = set()

    @rule(days=st.integers(1, 9), good=st.booleans())
    def routine(self, days: int, good: bool) -> None:
        """What goes on every day: commits, a backup, a drill, an expire."""
        for _ in range(days):
            self.world.now += timedelta(hours=22)
            self.world.write(2)
            self.world.back_up()
            list(self.world.backups.values())[-1].proven = good
            self.expire(0)

    @rule(halves=st.integers(1, 5))
    def stray(self, halves: int) -> None:
        self.world.stray(halves)

    @rule(choice=many)
    def recover(self, choice: int) -> None:
        points = self.world.recoverable(set(self.world.backups), self.world.segments)
        if points:
            order = sorted(points, key=lambda point: (point.time, point.timeline, point.lsn))
            self.world.recover(order[-1 - choice % min(len(order), 12)])

    @precondition(lambda self: len(self.world.segments) > 6)
    @rule(choice=many)
    def lose(self, choice: int) -> None:
        own = {segment for backup in self.world.backups.values() for segment in backup.own}
        others = sorted(self.world.segments - own)
        if others:
            self.world.lose(others[choice % len(others)])

    @rule(jump=st.sampled_from([0, 0, 0, 240, -240]))
    def expire(self, jump: int) -> None:
        """The clock of the host that expires may be ten days wrong."""
        now = self.world.now + timedelta(hours=jump)
        plan = plan_expire(self.world.facts(now))
        owed(self.world, plan)
        needless(self.world, plan, now)
        self.world.carry_out(plan)
        left = self.world.facts(now)
        again = plan_expire(left)
        assert (again.remove_backups, again.remove_wal) == ((), ()), "a second run removes more"
        assert again.kept == plan.kept
        gone = positions(plan.remove_wal)
        timelines = left.timelines | {timeline for timeline, _ in gone}
        stays = decide(left.catalog, timelines, left.histories, left.policy, now, left.holdings).wal
        for timeline, number in gone:
            assert number not in stays.on(timeline, SIZE), "what expire has removed is taken for a gap"


def _many(histories: int, steps: int) -> settings:
    """Without the phase that explains a failure, which takes many times as long as the others."""
    return settings(
        max_examples=histories,
        stateful_step_count=steps,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def test_some_histories() -> None:
    run_state_machine_as_test(Lives, settings=_many(40, 16))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_histories() -> None:
    run_state_machine_as_test(Lives, settings=_many(3000, 40))
