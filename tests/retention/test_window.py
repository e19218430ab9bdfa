"""Which WAL a plan removes: table cases; the properties are in test_properties.py."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgproof.backups.catalog import BackupEntry, Hold
from pgproof.repository.layout import Layout
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import plan_expire
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.wal.runs import Numbers
from tests.retention.archives import LAYOUT, NOON, SIZE, entry, facts, history_object, names, positions, wal

WEEK = 7 * 86400


def backup(label: str, days: float, segment: int, **values: object) -> BackupEntry:
    return entry(label, NOON - timedelta(days=days), segment, **values)  # type: ignore[arg-type]


def fork(timeline: int, *ancestors: tuple[int, int]) -> TimelineHistory:
    """A history whose ancestors were left in the middle of these segments."""
    return TimelineHistory(
        timeline, tuple(Fork(parent, LSN(segment * SIZE + SIZE // 2)) for parent, segment in ancestors)
    )


def test_wal_before_the_base_goes_except_what_kept_backups_need_themselves() -> None:
    entries = [
        backup("monthly", 40, 10, last=12),
        backup("expired", 20, 30),
        backup("base", 8, 50, proven=True),
        backup("newest", 1, 70, proven=True),
    ]
    plan = plan_expire(facts(entries, wal(1, range(5, 80)), monthly=2, wal_window=WEEK))
    assert plan.kept == ("monthly", "base", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in [*range(5, 10), *range(13, 50)]]
    assert plan.freed == 110 + 42 * 7


def test_the_oldest_backup_is_the_base_when_none_is_as_old_as_the_window() -> None:
    entries = [backup("first", 3, 10), backup("second", 2, 20), backup("third", 1, 30, proven=True)]
    plan = plan_expire(facts(entries, wal(1, range(5, 40)), wal_window=WEEK))
    assert plan.kept == ("first", "third")
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]


def test_a_base_that_failed_its_drill_gives_way_to_an_older_one() -> None:
    entries = [
        backup("good", 10, 10),
        backup("bad", 8, 20, failed="3 tables differ"),
        backup("newest", 1, 30, proven=True),
    ]
    plan = plan_expire(facts(entries, wal(1, range(5, 40)), wal_window=WEEK))
    assert plan.kept == ("good", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]


def test_wal_since_the_newest_proven_backup_stays_whatever_the_window_says() -> None:
    """Should those after it turn out bad, it is the way to every commit."""
    entries = [
        backup("proven", 9, 10, proven=True),
        backup("middle", 5, 20),
        backup("newest", 1, 30),
    ]
    plan = plan_expire(facts(entries, wal(1, range(5, 40)), daily=1, wal_window=86400))
    assert plan.kept == ("proven", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]


def test_a_proven_base_goes_before_a_newer_one() -> None:
    entries = [
        backup("proven", 9, 10, proven=True),
        backup("complete", 8, 20),
        backup("newest", 1, 30, proven=True),
    ]
    plan = plan_expire(facts(entries, wal(1, range(5, 40)), wal_window=WEEK))
    assert plan.kept == ("proven", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]


def rotten() -> list[BackupEntry]:
    """The base of a window of four days failed its verification; an older backup is held, its later WAL is gone."""
    return [
        backup("held", 20, 10, hold=Hold("held", "audit")),
        backup("rotten", 8, 30, failed="an object is damaged"),
        backup("first", 3, 40),
        backup("second", 2, 50),
        backup("newest", 1, 60, proven=True),
    ]


def test_a_base_counts_only_as_far_as_its_wal_is_unbroken() -> None:
    """Where expire made the hole, the older backup is no way round; the window begins at the oldest usable one."""
    objects = [*wal(1, [10]), *wal(1, range(30, 70))]
    removed = {1: Numbers(range(11, 30))}
    plan = plan_expire(facts(rotten(), objects, removed=removed, daily=1, wal_window=4 * 86400))
    assert plan.kept == ("held", "rotten", "first", "newest")
    assert plan.remove_wal == ()
    window = "base of the WAL window on timeline 1"
    assert [verdict.reasons for verdict in plan.verdicts if verdict.keep][1:3] == [(window,), (window,)]


def test_a_hole_that_expire_did_not_make_may_be_filled_again() -> None:
    """A repair may find it elsewhere, so the older base stays as well."""
    objects = [*wal(1, range(10, 20)), *wal(1, range(21, 70))]
    plan = plan_expire(facts(rotten(), objects, daily=1, wal_window=4 * 86400))
    assert plan.kept == ("held", "rotten", "first", "newest")
    assert plan.remove_wal == ()
    assert plan.verdicts[0].reasons == ("held: audit", "base of the WAL window on timeline 1")


def test_each_part_of_a_broken_window_has_its_base() -> None:
    entries = [
        backup("old", 9, 10, proven=True),
        backup("one", 6, 20, proven=True),
        backup("two", 4, 40, proven=True),
        backup("newest", 1, 60, proven=True),
    ]
    objects = [*wal(1, range(5, 30)), *wal(1, range(35, 70))]
    plan = plan_expire(facts(entries, objects, wal_window=WEEK))
    assert plan.kept == ("old", "two", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]


def test_when_only_a_broken_backup_reaches_back_the_oldest_usable_one_is_kept_too() -> None:
    entries = [
        backup("broken", 8, 10, parent="lost"),
        backup("usable", 5, 20),
        backup("other", 4, 25),
        backup("newest", 1, 30, proven=True),
    ]
    plan = plan_expire(facts(entries, wal(1, range(5, 40)), wal_window=WEEK))
    assert plan.kept == ("broken", "usable", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]


def test_without_backups_no_wal_goes() -> None:
    assert plan_expire(facts([], wal(1, range(5)))).remove_wal == ()


def test_wal_newer_than_the_newest_backup_stays_on_every_timeline() -> None:
    """Timeline 3 was promoted from nothing that we have; its WAL waits for its first backup."""
    entries = [backup("newest", 1, 20, timeline=2, proven=True)]
    objects = [*wal(1, range(15, 30)), *wal(2, range(15, 30)), *wal(3, range(1, 5))]
    plan = plan_expire(facts(entries, objects, histories={3: fork(3, (1, 0)), 2: fork(2, (1, 14))}))
    assert positions(plan.remove_wal) == [(t, n) for t in (1, 2) for n in range(15, 20)]


def test_each_leaf_timeline_has_a_base() -> None:
    """Timeline 2 was left by a point-in-time recovery from timeline 1; both futures stay."""
    entries = [
        backup("root", 30, 10),
        backup("two", 20, 25, timeline=2),
        backup("three", 10, 35, timeline=3, proven=True),
        backup("newest", 1, 50, timeline=3, proven=True),
    ]
    objects = [*wal(1, range(5, 20)), *wal(2, range(20, 31)), *wal(3, range(15, 55))]
    histories = {2: fork(2, (1, 20)), 3: fork(3, (1, 15))}
    plan = plan_expire(facts(entries, objects, histories=histories, wal_window=WEEK))
    assert plan.kept == ("two", "three", "newest")
    assert [verdict.reasons for verdict in plan.verdicts if verdict.keep] == [
        ("base of the WAL window on timeline 2",),
        ("base of the WAL window on timeline 3",),
        ("newest", "newest proven", "next base of the WAL window on timeline 3"),
    ]
    removed = [
        *[(1, n) for n in range(5, 20)],
        *[(2, n) for n in range(20, 25)],
        *[(3, n) for n in range(15, 35)],
    ]
    assert positions(plan.remove_wal) == removed


def test_the_stop_lsn_decides_whether_a_backup_lies_before_a_fork() -> None:
    """A backup that began before the fork and ended after it cannot reach timeline 2."""
    entries = [
        backup("before", 30, 10),
        backup("astride", 20, 19, last=21),
        backup("newest", 1, 40, timeline=2, proven=True),
    ]
    objects = [
        *wal(1, range(5, 23), stored=NOON - timedelta(days=19)),
        *wal(2, range(20, 45), stored=NOON - timedelta(days=1)),
    ]
    plan = plan_expire(facts(entries, objects, histories={2: fork(2, (1, 20))}, wal_window=WEEK))
    assert plan.kept == ("before", "newest")
    assert positions(plan.remove_wal) == [(1, n) for n in [*range(5, 10), 21, 22]]


def test_a_promoted_test_copy_does_not_end_the_window_of_the_server_that_lives_on() -> None:
    """Timeline 2 was archived by a promoted copy; production stays on timeline 1 and is no leaf any more."""
    entries = [
        backup("fork", 30, 5),
        backup("base", 8, 30, proven=True),
        backup("middle", 4, 40, proven=True),
        backup("newest", 1, 50, proven=True),
    ]
    objects = [*wal(1, range(1, 60)), *wal(2, range(8, 10))]
    plan = plan_expire(facts(entries, objects, histories={2: fork(2, (1, 8))}, wal_window=WEEK, daily=1))
    assert plan.kept == ("fork", "base", "middle", "newest")
    assert plan.verdicts[1].reasons == ("base of the WAL window on timeline 1",)
    only_fork_gone = plan_expire(facts(entries[1:], objects, histories={2: fork(2, (1, 8))}, wal_window=WEEK))
    assert (1, 35) not in positions(only_fork_gone.remove_wal)
    assert only_fork_gone.kept == ("base", "middle", "newest")


def test_partial_backup_and_history_files() -> None:
    entries = [backup("base", 8, 20, proven=True)]
    objects = [
        *wal(1, [10], ".partial"),
        *wal(1, [10], ".00000028.backup"),
        *wal(1, [10]),
        *wal(1, [20], ".partial"),
        *wal(1, [20], ".00000028.backup"),
        history_object(2),
        ObjectInfo(LAYOUT.wal_file("000000010000000000000009") + ".zst.age", 7),
    ]
    plan = plan_expire(facts(entries, objects, histories={2: fork(2, (1, 50))}))
    assert names(plan.remove_wal) == [
        "000000010000000000000009.zst.age",
        "00000001000000000000000A",
        "00000001000000000000000A.00000028.backup",
        "00000001000000000000000A.partial",
    ]


@pytest.mark.parametrize(
    "key",
    [
        LAYOUT.wal + "00000001/00000000/000000010000000000000001.lz4",
        LAYOUT.wal + "00000001/00000000/00000001000000000000000a.zst",
        LAYOUT.wal + "00000002/00000000/000000010000000000000001.zst",
        LAYOUT.wal + "notes.txt",
        Layout("shop", 99).wal + "00000001/00000000/000000010000000000000001.zst",
        Layout("other", LAYOUT.system_identifier).wal + "00000001/00000000/000000010000000000000001.zst",
    ],
)
def test_what_is_no_wal_file_of_this_archive_stays(key: str) -> None:
    entries = [backup("base", 8, 20, proven=True)]
    plan = plan_expire(facts(entries, [ObjectInfo(key, 1), *wal(1, [20])]))
    assert plan.remove_wal == ()
    assert plan.warnings == (
        f'objects that are no WAL files are kept below "{LAYOUT.wal}": 1, first "{key}"',
    )


def test_a_name_is_read_in_every_segment_size_of_the_records() -> None:
    """After pg_resetwal --wal-segsize the same name means another LSN; either meaning keeps it."""
    old = backup("old", 9, 0x10, proven=True, segment_size=SIZE)
    new = backup("new", 1, 0x8, proven=True, segment_size=4 * SIZE)
    plan = plan_expire(facts([old, new], wal(1, range(1, 0x30)), wal_window=WEEK))
    assert positions(plan.remove_wal) == [(1, n) for n in range(1, 4)]  # 4 of 4 MB holds LSN 10 of 1 MB


def test_a_leaf_without_its_history_keeps_its_wal_until_it_has_a_base_of_its_own() -> None:
    entries = [backup("one", 20, 10, proven=True), backup("two", 2, 30, timeline=2, proven=True)]
    objects = [*wal(1, range(5, 21)), *wal(2, range(20, 40))]
    plan = plan_expire(facts(entries, objects, wal_window=WEEK))
    assert positions(plan.remove_wal) == [(1, n) for n in range(5, 10)]
    assert plan.warnings == (
        "the history of timeline 2 is not in the archive; all WAL of the timeline is kept; "
        "pgproof wal push $PGDATA/pg_wal/00000002.history on the source brings it",
    )
    entries.append(backup("three", -6, 35, timeline=2))
    later = plan_expire(facts(entries, objects, wal_window=WEEK, now=NOON + timedelta(days=6)))
    assert positions(later.remove_wal) == [*[(1, n) for n in range(5, 10)], *[(2, n) for n in range(20, 30)]]
    assert later.warnings == ()


def test_a_cluster_that_was_first_protected_on_a_later_timeline_needs_no_history() -> None:
    entries = [backup("base", 8, 20, timeline=5, proven=True)]
    plan = plan_expire(facts(entries, wal(5, range(10, 30)), wal_window=WEEK))
    assert positions(plan.remove_wal) == [(5, n) for n in range(10, 20)]
    assert plan.warnings == ()
