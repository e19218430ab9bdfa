"""Random lives of clusters, each expire of which is held against the model."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgproof.retention.plan import plan_expire
from tests.retention.model import START, World, owed

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
    )
    def begin(self, daily: int, weekly: int, monthly: int, window: int) -> None:
        limits = {"daily": daily, "weekly": weekly, "monthly": monthly, "wal_window": window}
        self.world = World(limits, now=START)
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
        self.world.carry_out(plan)
        again = plan_expire(self.world.facts(now))
        assert (again.remove_backups, again.remove_wal) == ((), ()), "a second run removes more"


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]
BOUNDED = settings(max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=CHECKS)
MANY = settings(max_examples=4000, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS)


def test_some_histories() -> None:
    run_state_machine_as_test(Lives, settings=BOUNDED)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_histories() -> None:
    run_state_machine_as_test(Lives, settings=MANY)
