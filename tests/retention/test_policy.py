"""Which backups a policy keeps, and what it says of each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgproof.backups.catalog import BackupEntry, Hold
from pgproof.retention.plan import ExpirePlan, plan_expire
from tests.retention.archives import NOON, entry, facts, wal


def day(number: int, hour: int = 12) -> datetime:
    """A time in November 2026; the 23rd is the Monday on which the tests plan."""
    return datetime(2026, 11, 1, hour, tzinfo=UTC) + timedelta(days=number - 1)


def daily(first: int, last: int, **values: bool) -> list[BackupEntry]:
    """One full backup a day, labelled by its day, at a segment of ten times its day."""
    return [entry(f"{n:02d}", day(n), 1000 + 10 * n, **values) for n in range(first, last + 1)]  # type: ignore[arg-type]


def reasons(plan: ExpirePlan, label: str) -> tuple[str, ...]:
    return next(verdict.reasons for verdict in plan.verdicts if verdict.label == label)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, "23"),
        ({"daily": 3}, "21 22 23"),
        ({"weekly": 2}, "22 23"),  # the 22nd is the Sunday that ends week 47
        ({"weekly": 3}, "15 22 23"),
        ({"monthly": 2}, "-1 23"),  # -1 is 30 October
        ({"daily": 2, "weekly": 2, "monthly": 2}, "-1 22 23"),
        ({"wal_window": 2 * 86400}, "21 22 23"),
        ({"wal_window": 2 * 86400 + 1}, "20 21 23"),
        ({"wal_window": 900 * 86400}, "-9 23"),  # none is that old: the oldest
        ({"daily": 900}, " ".join(str(n) for n in [*range(-9, 0), *range(1, 24)])),
    ],
)
def test_slots(limits: dict[str, int], kept: str) -> None:
    october = [entry(f"-{n}", day(-n), 500 - 10 * n) for n in range(1, 10)]
    november = [entry(str(n), day(n), 1000 + 10 * n, proven=True) for n in range(1, 24)]
    plan = plan_expire(facts([*october, *november], **limits))
    assert plan.kept == tuple(kept.split())


def test_slots_count_days_that_have_backups_not_days_of_the_calendar() -> None:
    plan = plan_expire(facts([*daily(1, 3), *daily(20, 23, proven=True)], daily=6))
    assert plan.kept == ("02", "03", "20", "21", "22", "23")
    assert reasons(plan, "02") == ("backup of 2026-11-02 (daily 6 of 6)",)


def test_the_newest_of_a_day_in_utc_takes_its_slot() -> None:
    tokyo = datetime.fromisoformat("2026-11-22T08:30:00+09:00")  # the 21st in UTC
    entries = [
        entry("morning", day(21, 1), 10),
        entry("tokyo", tokyo, 20),
        entry("now", NOON, 30, proven=True),
    ]
    plan = plan_expire(facts(entries, daily=2))
    assert plan.kept == ("tokyo", "now")
    assert reasons(plan, "tokyo") == ("backup of 2026-11-21 (daily 2 of 2)",)


@pytest.mark.parametrize("limits", [{"daily": 2}, {"weekly": 2}, {"monthly": 2}], ids=str)
def test_a_failed_backup_takes_no_slot(limits: dict[str, int]) -> None:
    """The good one of the same period has it; and a period in which all failed has none."""
    entries = [
        entry("good", day(20, 2), 10),
        entry("failed", day(20, 14), 20, failed="2 tables differ"),
        entry("failed too", day(21), 30, failed="2 tables differ"),
        entry("proven", datetime(2026, 12, 8, tzinfo=UTC), 40, proven=True),
    ]
    plan = plan_expire(facts(entries, now=datetime(2026, 12, 9, tzinfo=UTC), **limits))
    assert plan.kept == ("good", "proven")


def test_within_a_period_a_proven_backup_goes_before_a_newer_one() -> None:
    entries = [
        entry("proven", day(20, 2), 10, proven=True),
        entry("complete", day(20, 14), 20),
        entry("last", day(23), 30, proven=True),
    ]
    plan = plan_expire(facts(entries, daily=2))
    assert plan.kept == ("proven", "last")
    assert reasons(plan, "proven") == ("backup of 2026-11-20 (daily 2 of 2)",)


def test_a_broken_chain_takes_a_slot_only_where_there_is_no_other() -> None:
    entries = [
        entry("whole", day(20, 2), 10),
        entry("broken", day(20, 14), 20, parent="lost"),
        entry("alone", day(21), 30, parent="lost"),
        entry("last", day(23), 40, proven=True),
    ]
    assert plan_expire(facts(entries, daily=3)).kept == ("whole", "alone", "last")


def test_chains_that_failed_do_not_count_while_nothing_is_proven() -> None:
    entries = [
        *daily(1, 3),
        entry("04", day(4), 1040, failed="2 tables differ"),
        entry("05", day(5), 1050, failed="2 tables differ"),
    ]
    assert plan_expire(facts(entries, wal(1, range(1000, 1060)))).kept[-3:] == ("02", "03", "05")


def test_iso_weeks_cross_the_year() -> None:
    entries = [
        entry("thursday", datetime(2026, 12, 31, tzinfo=UTC), 10),
        entry("friday", datetime(2027, 1, 1, tzinfo=UTC), 20),
        entry("monday", datetime(2027, 1, 4, tzinfo=UTC), 30, proven=True),
    ]
    plan = plan_expire(facts(entries, weekly=2, now=datetime(2027, 1, 5, tzinfo=UTC)))
    assert plan.kept == ("friday", "monday")
    assert reasons(plan, "friday") == ("backup of 2026-W53 (weekly 2 of 2)",)


def test_the_newest_and_the_newest_proven_are_kept_without_any_slot() -> None:
    plan = plan_expire(facts([*daily(1, 3, proven=True), *daily(4, 6)]))
    assert plan.kept == ("03", "06")
    assert plan.proven == "03"
    assert reasons(plan, "03") == ("newest proven", "base of the WAL window on timeline 1")
    assert reasons(plan, "06") == ("newest",)
    assert reasons(plan, "02") == ("no daily, weekly or monthly slot left; newer proven backup is 03",)
    assert reasons(plan, "04") == ("no daily, weekly or monthly slot left; proven backup 03 is kept",)


def test_a_backup_that_failed_a_later_drill_is_not_proven() -> None:
    entries = [
        *daily(1, 2, proven=True),
        entry("03", day(3), 1030, proven=True, failed="2 tables differ"),
        entry("04", day(4), 1040),
    ]
    plan = plan_expire(facts(entries))
    assert plan.proven == "02"
    assert plan.kept == ("02", "04")
    assert reasons(plan, "03") == (
        "no daily, weekly or monthly slot left; proven backup 02 is kept",
        "failed its last drill: 2 tables differ",
    )


def test_without_a_proven_backup_the_newest_two_chains_are_kept_and_it_says_so() -> None:
    entries = [
        *daily(1, 3),
        entry("full-4", day(4), 1040),
        entry("incr-5", day(5), 1050, parent="full-4"),
        entry("full-6", day(6), 1060),
        entry("incr-7", day(7), 1070, parent="full-6"),
        entry("incr-8", day(8), 1080, parent="incr-7"),
    ]
    plan = plan_expire(facts(entries))
    assert plan.kept == ("full-4", "incr-5", "full-6", "incr-7", "incr-8")
    assert plan.warnings == (
        "no backup is proven; the newest 2 chains are kept whatever the policy says; "
        "pgproof drill NAME proves a backup",
    )
    assert reasons(plan, "incr-5") == ("no backup is proven: in one of the newest 2 chains",)
    assert reasons(plan, "02") == ("no daily, weekly or monthly slot left; no backup is proven",)


@pytest.mark.parametrize(
    ("until", "keep"), [(None, True), (NOON + timedelta(seconds=1), True), (NOON, False)]
)
def test_holds(until: datetime | None, keep: bool) -> None:
    held = entry("01", day(1), 1010, hold=Hold("01", "audit", until))
    plan = plan_expire(facts([held, *daily(2, 3, proven=True)]))
    assert plan.verdicts[0].keep is keep
    expected = {
        None: ("held: audit",),
        NOON + timedelta(seconds=1): ("held: audit until 2026-11-23T12:00:01+00:00",),
        NOON: (
            "no daily, weekly or monthly slot left; newer proven backup is 03",
            "its hold ended 2026-11-23T12:00:00+00:00",
        ),
    }
    assert reasons(plan, "01") == expected[until]


def test_a_kept_incremental_keeps_its_parents() -> None:
    entries = [
        entry("full", day(1), 10),
        entry("a", day(2), 20, parent="full"),
        entry("b", day(3), 30, parent="a"),
        entry("other", day(4), 40, parent="a"),
        entry("last", day(5), 50, proven=True),
    ]
    plan = plan_expire(facts(entries, daily=3))
    assert plan.kept == ("full", "a", "b", "other", "last")
    assert reasons(plan, "full") == ("parent of a",)
    assert reasons(plan, "a") == ("parent of other and 1 more",)
    assert plan.remove_backups == ()


def test_children_are_removed_before_their_parents_even_when_their_clock_was_wrong() -> None:
    entries = [
        entry("child", day(1), 20, parent="parent"),
        entry("parent", day(2), 10),
        entry("grandchild", day(3), 30, parent="child"),
        entry("last", day(5), 50, proven=True),
    ]
    assert plan_expire(facts(entries)).remove_backups == ("grandchild", "child", "parent")


def test_a_broken_chain_is_kept_and_warned_of() -> None:
    entries = [
        *daily(1, 2, proven=True),
        entry("03", day(3), 1030, parent="lost", proven=True),
        entry("04", day(4), 1040),
    ]
    plan = plan_expire(facts(entries))
    assert plan.kept == ("02", "03", "04")
    assert plan.proven == "02"
    assert reasons(plan, "02") == (
        "newest proven with a whole chain",
        "base of the WAL window on timeline 1",
    )
    assert plan.warnings == ('backup "03" cannot be restored: it builds on "lost", which is missing',)


def test_a_circle_of_parents_does_not_hang() -> None:
    entries = [
        entry("a", day(1), 10, parent="b"),
        entry("b", day(2), 20, parent="a"),
        entry("self", day(3), 30, parent="self"),
        entry("last", day(4), 40, proven=True),
    ]
    assert plan_expire(facts(entries)).kept == ("last",)
    assert plan_expire(facts(entries, daily=9)).kept == ("a", "b", "self", "last")


def test_a_backup_from_the_future_takes_its_slot() -> None:
    plan = plan_expire(facts([*daily(22, 23, proven=True), entry("later", day(25), 2000)], daily=2))
    assert plan.kept == ("23", "later")


def test_without_backups_only_torn_data_goes() -> None:
    plan = plan_expire(facts([], torn=("20261123T110000Z",), daily=7))
    assert plan.verdicts == () and plan.remove_wal == ()
    assert plan.torn == ("20261123T110000Z",)
    assert plan.warnings == ("there is no backup; all WAL is kept",)


def test_torn_data_of_a_held_backup_or_of_a_parent_is_kept() -> None:
    entries = [entry("child", day(1), 10, parent="lost"), entry("last", day(2), 20, proven=True)]
    found = facts(entries, torn=("held", "interrupted", "lost"), held=frozenset({"held"}), daily=2)
    plan = plan_expire(found)
    assert plan.torn == ("interrupted",)
    assert plan.warnings[1:] == (
        'backup "held" has lost its backup record; a hold names it, so its data is kept',
        'backup "lost" has lost its backup record; a kept backup builds on it, so its data is kept',
    )
