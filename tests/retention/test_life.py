"""Which futures live, and what goes of one that ended: table cases; random histories are in test_model.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from pgproof.backups.catalog import BackupEntry
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import ExpirePlan, plan_expire
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.wal.runs import Numbers
from tests.retention.archives import LAYOUT, NOON, SIZE, entry, facts, history_object, part, positions, wal

WEEK = 7 * 86400
CLONED = {2: TimelineHistory(2, (Fork(1, LSN(8 * SIZE + SIZE // 2)),))}


def ago(days: float) -> datetime:
    return NOON - timedelta(days=days)


def backup(label: str, days: float, segment: int, **values: object) -> BackupEntry:
    return entry(label, ago(days), segment, **{"proven": True, **values})  # type: ignore[arg-type]


def production() -> list[BackupEntry]:
    """The clone was made of the first one's time."""
    return [backup("fork", 30, 5), backup("base", 8, 30), backup("next", 4, 40), backup("newest", 1, 50)]


def written(cloned: float | None, *, store: float = 0.0) -> list[ObjectInfo]:
    """Two segments a day of production, and a clone's, last archived so many days ago; None is unknown.

    ``store`` are the days by which the store's clock is behind.
    """
    objects = [info for n in range(1, 55) for info in wal(1, [n], stored=ago((52 - n) / 2.5 + 0.3 + store))]
    seen = None if cloned is None else ago(cloned + store)
    return [*objects, history_object(2, seen), *wal(2, range(8, 11), stored=seen)]


def expired(
    objects: list[ObjectInfo], entries: list[BackupEntry] | None = None, **values: object
) -> ExpirePlan:
    options = {"histories": CLONED, "wal_window": WEEK, **values}
    return plan_expire(facts(entries or production(), objects, **options))  # type: ignore[arg-type]


def of_clone(plan: ExpirePlan) -> list[int]:
    return [number for timeline, number in positions(plan.remove_wal) if timeline == 2]


def test_a_future_that_ended_before_the_window_needs_nothing() -> None:
    plan = expired(written(20))
    assert plan.kept == ("base", "next", "newest")
    assert [verdict.reasons for verdict in plan.verdicts if verdict.keep] == [
        ("base of the WAL window on timeline 1",),
        ("next base of the WAL window on timeline 1",),
        ("newest", "newest proven"),
    ]
    assert positions(plan.remove_wal) == [*[(1, n) for n in range(1, 30)], (2, 8), (2, 9), (2, 10)]


def test_one_that_lived_inside_the_window_keeps_its_base_and_its_past_up_to_the_fork() -> None:
    plan = expired(written(5))
    assert plan.kept == ("fork", "base", "next", "newest")
    assert plan.verdicts[0].reasons == ("base of the WAL window on timeline 2",)
    assert positions(plan.remove_wal) == [(1, n) for n in [*range(1, 5), *range(9, 30)]]


def test_what_is_newer_than_the_newest_backup_is_nothing_on_a_future_that_ended() -> None:
    """Brought back to an earlier point, a cluster has lower LSNs than what it left behind."""
    back = {2: TimelineHistory(2, (Fork(1, LSN(20 * SIZE)),))}
    entries = [backup("old", 12, 15), backup("base", 8, 21, timeline=2), backup("newest", 1, 30, timeline=2)]
    objects = [*wal(1, range(10, 90), stored=ago(11)), history_object(2, ago(10))]
    objects += wal(2, range(20, 40), stored=ago(0.5))
    plan = expired(objects, entries, histories=back)
    assert plan.kept == ("base", "newest")
    assert positions(plan.remove_wal) == [*[(1, n) for n in range(10, 90)], (2, 20)]


@pytest.mark.parametrize(
    "objects",
    [
        written(None),
        [*written(20), *wal(2, [11], stored=ago(6))],
        [*written(20)[:-3], history_object(2, ago(6))],
        written(5, store=4),
    ],
    ids=["a store that tells no times", "its newest segment", "its history", "a store whose clock is behind"],
)
def test_it_lives(objects: list[ObjectInfo]) -> None:
    plan = expired(objects)
    assert "fork" in plan.kept
    assert of_clone(plan) == []


def test_a_received_part_is_a_sign_of_life() -> None:
    received = part(2, 11)
    living = ObjectInfo(received.key, received.size, ago(6).timestamp())
    plan = expired(written(20), received=(living,))
    assert ("fork" in plan.kept, plan.remove_received) == (True, ())
    plan = expired(written(20), received=(ObjectInfo(received.key, received.size, ago(20).timestamp()),))
    assert ("fork" in plan.kept, len(plan.remove_received)) == (False, 1)


def test_an_older_segment_that_a_repair_brought_later_is_no_sign() -> None:
    objects = [
        info for info in written(20) if info.key != LAYOUT.wal_file("000000020000000000000009") + ".zst"
    ]
    plan = expired([*objects, *wal(2, [9], stored=ago(1))])
    assert of_clone(plan) == [8, 9, 10]


def test_the_newest_backup_is_a_sign() -> None:
    """Nothing was archived for longer than the window; what there is came from there all the same."""
    entries = [*production()[:1], backup("clone", 20, 9, timeline=2)]
    plan = expired([*wal(1, range(5, 9), stored=ago(25)), *wal(2, range(8, 11), stored=ago(19))], entries)
    assert plan.kept == ("fork", "clone")
    assert plan.remove_wal == ()


def test_the_own_window_of_a_server_that_lives_on_where_a_clone_left_it() -> None:
    for cloned in (5.0, 20.0, None):
        plan = expired(written(cloned), daily=1)
        assert plan.verdicts[1].reasons == ("base of the WAL window on timeline 1",)
        assert not {n for t, n in positions(plan.remove_wal) if t == 1} & set(range(30, 60))


def test_a_window_reaches_back_to_the_newest_proof_and_so_does_life() -> None:
    """Every commit since the newest proven backup can be recovered to, on each future on which it lies."""
    entries = [e if e.label == "fork" else replace(e, proven_at=None) for e in production()]
    assert of_clone(expired(written(20), entries)) == []
    assert of_clone(expired(written(31), entries)) == [8, 9, 10]


def test_an_ancestor_is_needed_up_to_the_fork_only() -> None:
    """Timeline 1 wrote on for a while after 2 had left it, and ended."""
    entries = [backup("base", 8, 5), backup("newest", 1, 50, timeline=2)]
    objects = [*wal(1, range(1, 30), stored=ago(7.9)), history_object(2, ago(7.95))]
    objects += wal(2, range(8, 55), stored=ago(0.5))
    plan = expired(objects, entries)
    assert positions(plan.remove_wal) == [(1, n) for n in range(1, 5)]  # inside the window
    later = expired(objects, [*entries, backup("later", 0, 53, timeline=2)])
    assert positions(later.remove_wal) == [(1, n) for n in [*range(1, 5), *range(9, 30)]]


def test_a_timeline_that_began_behind_its_own_end_is_passed_over() -> None:
    """Timeline 3 left 2 before 2 had left 1, in one segment: 3 goes on from 1, and 2 is no part of its past."""
    forks = (Fork(1, LSN(8 * SIZE + 900)), Fork(2, LSN(8 * SIZE + 300)))
    histories = {2: TimelineHistory(2, forks[:1]), 3: TimelineHistory(3, forks)}
    entries = [backup("base", 20, 5), backup("newest", 1, 30, timeline=3)]
    objects = [*wal(1, range(5, 9), stored=ago(19)), *wal(2, range(8, 12), stored=ago(19))]
    objects += [history_object(2, ago(19)), history_object(3, ago(19)), *wal(3, range(8, 35), stored=ago(1))]
    plan = expired(objects, entries, histories=histories)
    assert positions(plan.remove_wal) == [(2, n) for n in range(8, 12)]


def unknown(days: float) -> list[ObjectInfo]:
    """Timeline 2 without its history, archived so many days ago, and where it may have left timeline 1."""
    return [*wal(1, range(1, 60), stored=ago(0.5)), *wal(2, range(8, 20), stored=ago(days))]


def test_a_timeline_without_its_history_keeps_what_it_may_continue() -> None:
    plan = expired(unknown(2), histories={})
    assert plan.kept == ("fork", "base", "next", "newest")
    assert plan.verdicts[0].reasons == ("base of the WAL window on timeline 2",)
    assert positions(plan.remove_wal) == [(1, n) for n in [*range(1, 5), *range(8, 30)]]
    assert plan.warnings[0].startswith("the history of timeline 2 is not in the archive; ")


def test_one_that_ended_long_ago_does_not() -> None:
    plan = expired(unknown(20), histories={})
    assert (plan.kept, plan.warnings) == (("base", "next", "newest"), ())
    assert of_clone(plan) == list(range(8, 20))


def test_nor_does_one_with_a_base_of_its_own() -> None:
    entries = [*production(), backup("own", 9, 15, timeline=2)]
    plan = expired(unknown(2), sorted(entries, key=lambda e: e.record.stopped_at), histories={})
    assert (plan.kept, plan.warnings) == (("own", "base", "next", "newest"), ())


def test_what_expire_took_of_it_counts_for_where_it_began() -> None:
    """Its first segment is gone, so that a backup seems to lie before it: it does not."""
    entries = [backup("late", 9, 10), backup("own", 2, 15, timeline=2), backup("newest", 1, 50)]
    objects = [*wal(1, range(10, 60), stored=ago(0.5)), *wal(2, range(15, 20), stored=ago(2))]
    plan = expired(objects, entries, histories={}, removed={2: Numbers(range(8, 15))})
    assert plan.warnings == ()


def test_its_history_need_not_be_there_when_a_younger_one_names_it() -> None:
    histories = {3: TimelineHistory(3, (*CLONED[2].forks, Fork(2, LSN(20 * SIZE))))}
    objects = [*unknown(2), history_object(3, ago(2)), *wal(3, range(20, 25), stored=ago(2))]
    plan = expired(objects, histories=histories)
    assert plan.warnings == ()
    assert plan.verdicts[0].reasons == ("base of the WAL window on timeline 3",)
    assert of_clone(plan) == []
