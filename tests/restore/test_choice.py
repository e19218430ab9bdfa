"""Which future a restore follows, from facts alone: the table of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest

from pgproof.backups.catalog import BackupEntry
from pgproof.errors import ObjectDamaged, SeveralFutures
from pgproof.restore.futures import Choice, choose_future
from pgproof.restore.plan import plan_restore
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing
from pgproof.wal.records import CommitRecord
from tests.restore.test_plan import TO, Reader, RestoreRequest, plan, room_enough
from tests.retention.archives import NOON, entry
from tests.wal.listings import at, catalog, listing

A = entry("A", NOON, 3)
B = entry("B", NOON + timedelta(hours=6), 9)  # on timeline 1, behind the fork
C = entry("C", NOON + timedelta(hours=3), 6, timeline=2)
# timeline 2 left timeline 1 at 5.25 and was archived for three segments; timeline 1 went on
CLONED = listing(range(3, 13), range(5, 8), t2="1 5.25")
LEFT = listing(range(3, 5), range(5, 8), t2="1 5.25")


def choose(
    found: WalListing,
    *entries: BackupEntry,
    source: int | None = None,
    later: Mapping[int, int] | None = None,
) -> Choice:
    return choose_future(entries, found, lambda major: Reader(later=later), lambda: source)


def test_a_failover_is_followed_and_nothing_is_read() -> None:
    def nobody(major: int) -> Reader:
        raise AssertionError

    made = choose_future((A,), LEFT, nobody)
    assert (made.history.timeline, made.warnings, made.conflict) == (2, (), None)


def test_a_stray_clone_is_not_followed() -> None:
    for entries in ((A,), (A, B)):
        made = choose(CLONED, *entries)
        assert (made.history.timeline, made.conflict) == (1, None)
        assert made.warnings == (
            "timeline 2 is not followed from LSN 0/540000 on: its newest commit is of "
            "2026-11-23 16:00:00+0000; --target-timeline 2 follows it",
        )


def test_a_clone_that_archived_its_history_alone() -> None:
    made = choose(listing(range(3, 13), (), t2="1 5.25"), A)
    assert (made.history.timeline, made.conflict) == (1, None)
    assert made.warnings[0].startswith("timeline 2 is not followed from LSN 0/540000 on: ")
    assert choose(listing(range(3, 13), (), t2="1 5.25"), A, B).warnings == ()  # it is long past


def test_the_segment_of_the_fork_may_be_archived_of_the_old_timeline_alone() -> None:
    """Its commit at 5.5 lies before the fork at 5.75: what both have is restored from the one that has it."""
    found = listing(range(3, 6), (), t2="1 5.75")
    assert choose(found, A).history.timeline == 1
    assert choose(found, A, source=2).history.timeline == 2
    assert choose(found, A, source=2).conflict is None


def test_a_source_that_has_archived_nothing_since_a_clone_was_promoted() -> None:
    found = listing(range(3, 5), {5}, t2="1 5.25")
    assert choose(found, A).history.timeline == 2  # by names alone it is a failover
    made = choose(found, A, source=1)
    assert made.conflict is not None
    assert "--target-timeline 2 or --target-timeline 1" in made.conflict.hint


def test_after_a_restore_to_an_earlier_point_a_backup_of_the_past_is_no_sign() -> None:
    made = choose(CLONED, A, B, later={2: 24})
    assert (made.history.timeline, made.conflict) == (2, None)
    assert ": its newest commit is of 2026-11-23 21:00:00+0000, its newest backup is B" in made.warnings[0]


def conflict(made: Choice) -> SeveralFutures:
    assert made.conflict is not None
    return made.conflict


def test_two_that_wrote_at_a_time_and_the_newest_backup_is_of_the_other_one() -> None:
    late = entry("late", NOON + timedelta(hours=10), 6, timeline=2)
    error = conflict(choose(CLONED, A, late))
    assert str(error).splitlines()[0] == "it is not clear which timeline the restore is to follow"
    assert error.detail.startswith(
        "The newest commit is on timeline 1, the newest backup on timeline 2. On timeline 2: "
    )
    error = conflict(choose(CLONED, A, C, later={2: 3}))
    assert error.detail.startswith("The newest backup, C, is not on timeline 1, which has newer commits. ")
    assert "--target-timeline 1 or --target-timeline 2" in error.hint


@pytest.mark.parametrize(("source", "refused"), [(1, False), (2, True), (3, True), (None, False)])
def test_the_source_has_a_say(source: int | None, refused: bool) -> None:
    assert (choose(CLONED, A, B, source=source).conflict is not None) == refused


def test_commits_that_cannot_be_read() -> None:
    class Broken(Reader):
        def commits(self, segment: WalSegment) -> list[CommitRecord]:
            raise ObjectDamaged("it is damaged")

    made = choose_future((A, B), CLONED, lambda major: Broken())
    assert "The commits of timeline 2 cannot be read: it is damaged" in conflict(made).detail


def test_up_to_the_fork_they_agree() -> None:
    """A target before the fork is the same on both, and is not refused."""

    def made(target: RecoveryTarget, **options: object) -> object:
        request = RestoreRequest(TO, target, **options)  # type: ignore[arg-type]
        return plan_restore(
            request, catalog(A, B), lambda size: CLONED, lambda major: Reader(), room_enough, source=lambda: 2
        ).history.timeline

    assert made(RecoveryTarget("lsn", str(at(5)))) == 1
    for target in ("lsn", str(at(7))), ("end", ""), ("immediate", "immediate"), ("lsn", str(at(40))):
        with pytest.raises(SeveralFutures):
            made(RecoveryTarget(*target))
    assert made(RecoveryTarget(timeline=2)) == 2
    assert made(RecoveryTarget(), label="B") == 1  # it lies on one of them alone


def test_the_warning_is_part_of_the_plan() -> None:
    assert plan(catalog(A, B), CLONED).warnings[0].startswith("timeline 2 is not followed from LSN ")


def test_a_standby_does_not_take_the_higher_number() -> None:
    made = plan(catalog(A, B), CLONED, standby=True)
    assert made.target_timeline == "1"
    assert made.warnings[-1].startswith("the standby follows timeline 1 and no failover, because ")
    assert plan(catalog(A), LEFT, standby=True).target_timeline == "latest"
