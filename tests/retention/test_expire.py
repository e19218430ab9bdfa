"""Carrying a plan out: the order of removals, crashes between them, and plans that are out of date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pgproof.backups.catalog import BackupEntry, Hold
from pgproof.errors import LeaseHeld, PermanentError, StoreUnavailable, WrongSystem
from pgproof.repository.layout import Layout
from pgproof.repository.lease import hold_lease
from pgproof.repository.objects import ObjectStore
from pgproof.repository.posix import PosixStore
from pgproof.repository.repository import Archive
from pgproof.repository.store import ObjectInfo, Store
from pgproof.retention.expire import ExpireResult, expire, gather_facts
from pgproof.retention.hold import add_hold
from pgproof.retention.plan import ExpireFacts, ExpirePlan, plan_expire
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from tests.retention import archives
from tests.retention.archives import LAYOUT, NOON, SIZE, Watched, archive_on, content_of, entry, policy, wal

LIMITS = policy(daily=2, wal_window=3 * 86400)  # back from the newest backup, which is a day old


def days_ago(days: float) -> datetime:
    return NOON - timedelta(days=days)


def eventful() -> ExpireFacts:
    """Two chains, a failover, WAL to remove on both timelines, and torn data."""
    entries = [
        entry("01-full", days_ago(20), 5, last=6),
        entry("02-incr", days_ago(19), 8, parent="01-full"),
        entry("03-incr", days_ago(18), 9, parent="02-incr", proven=True),
        entry("04-held", days_ago(17), 10, hold=Hold("04-held", "audit")),
        entry("05-full", days_ago(10), 15, timeline=2, last=16, proven=True),
        entry("06-full", days_ago(5), 20, timeline=2, proven=True),
        entry("07-incr", days_ago(4), 22, timeline=2, parent="06-full", proven=True),
        entry("08-full", days_ago(2), 25, timeline=2, proven=True),
        entry("09-incr", days_ago(1), 27, timeline=2, parent="08-full"),
    ]
    objects = [*wal(1, range(4, 12)), *wal(1, [12], ".partial"), *wal(2, range(12, 30))]
    torn = (
        ObjectInfo(LAYOUT.backup("00-torn") + "base-000.tar.zst", 50),
        ObjectInfo(LAYOUT.backup("00-torn") + "base-001.tar.zst", 60),
    )
    histories = {2: TimelineHistory(2, (Fork(1, LSN(12 * SIZE + 5)),))}
    return archives.facts(entries, objects, histories=histories, torn=("00-torn",), torn_data=torn)


def plan_of(archive: Archive) -> ExpirePlan:
    return plan_expire(gather_facts(archive, LIMITS, NOON))


def run(archive: Archive, plan: ExpirePlan | None = None, watched: Watched | None = None) -> ExpireResult:
    """Expire under a real lease; the removals, and nothing else, go through the watched store."""
    with hold_lease(archive.store, archive.layout.lease, "expire") as lease:
        return expire(archive_on(watched) if watched else archive, plan or plan_of(archive), lease)


def watch(archive: Archive, before_delete: Callable[[int, str], None]) -> Watched:
    return Watched(archive.store, before_delete)


def crash_at(number: int) -> Callable[[int, str], None]:
    def crash(count: int, key: str) -> None:
        if count > number:
            raise StoreUnavailable(f'could not access "{key}"')

    return crash


@pytest.fixture
def archive(store: Store) -> Archive:
    made = archive_on(store)
    archives.store_facts(made, eventful())
    return made


def test_facts_gathered_from_an_archive(archive: Archive) -> None:
    expected, found = eventful(), gather_facts(archive, LIMITS, NOON)
    assert [e.label for e in found.catalog.entries] == [e.label for e in expected.catalog.entries]
    assert [e.state for e in found.catalog.entries] == [e.state for e in expected.catalog.entries]
    assert found.catalog.torn == ("00-torn",)
    assert sorted(found.torn) == sorted(expected.torn)
    assert sorted(i.key for i in found.wal) == sorted(
        [*(i.key for i in expected.wal), LAYOUT.wal_file("00000002.history") + ".zst"]
    )
    assert found.histories[2].forks[0].lsn == expected.histories[2].forks[0].lsn


def test_expire_removes_what_the_plan_says_and_nothing_else(archive: Archive) -> None:
    plan, before = plan_of(archive), content_of(archive.store)
    result = run(archive, plan)
    assert plan.remove_backups == ("03-incr", "02-incr", "01-full", "05-full")
    assert result == ExpireResult(plan.remove_backups, ("00-torn",), len(plan.remove_wal), plan.freed)
    gone = set(before) - set(content_of(archive.store))
    expected = {info.key for info in plan.remove_wal}
    for label in (*plan.remove_backups, "00-torn"):
        expected |= {key for key in before if key.startswith(LAYOUT.backup(label))}
    assert gone == expected
    assert archives.assert_backups_whole(archive) == ["04-held", "06-full", "07-incr", "08-full", "09-incr"]
    assert plan_of(archive).is_empty


def test_invariant_5_records_go_before_their_data_children_before_parents_then_wal_then_torn(
    archive: Archive,
) -> None:
    removed: list[str] = []
    run(archive, watched=watch(archive, lambda _, key: removed.append(key.removeprefix(LAYOUT.root + "/"))))
    labels = ("03-incr", "02-incr", "01-full", "05-full")
    expected = []
    for label in labels:
        expected += [
            f"backups/{label}/{name}" for name in ("backup.json", "backup_manifest.zst", "base-000.tar.zst")
        ]
    count = len(expected)
    assert [key for key in removed if key.endswith("backup.json")] == [
        f"backups/{n}/backup.json" for n in labels
    ]
    assert [removed[n].endswith("backup.json") for n in range(count)] == [True, False, False] * 4
    assert sorted(removed[:count]) == sorted(expected)
    assert all(key.startswith("wal/") for key in removed[count:-2])
    assert sorted(removed[-2:]) == ["backups/00-torn/base-000.tar.zst", "backups/00-torn/base-001.tar.zst"]


@pytest.mark.parametrize("kind", ["posix", "memory"])
def test_invariant_5_a_crash_after_any_removal_leaves_whole_backups(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    total, after = 1, 0
    while after < total:
        store: Store = ObjectStore(MemoryStore(), "memory://crash")
        if kind == "posix":
            store = PosixStore(tmp_path_factory.mktemp("crash"))
        archive = archive_on(store)
        archives.store_facts(archive, eventful())
        whole_plan = plan_of(archive)
        total = 4 * 3 + len(whole_plan.remove_wal) + 2
        with pytest.raises(StoreUnavailable):
            run(archive, whole_plan, watch(archive, crash_at(after)))
        listed = archives.assert_backups_whole(archive)
        assert set(whole_plan.kept) <= set(listed)
        if after % 2 == 0:  # the same plan again, or a new one: both finish the work
            run(archive, whole_plan)
        else:
            run(archive)
        assert tuple(archives.assert_backups_whole(archive)) == whole_plan.kept
        assert plan_of(archive).is_empty
        after += 1 if kind == "memory" else 3


def test_a_second_run_of_the_same_plan_finds_nothing_to_do(archive: Archive) -> None:
    plan = plan_of(archive)
    run(archive, plan)
    before = content_of(archive.store)
    assert run(archive, plan).backups == plan.remove_backups
    assert content_of(archive.store) == before


def test_invariant_6_nothing_of_another_system_identifier_or_cluster_is_touched(archive: Archive) -> None:
    others = [Layout("shop", 7), Layout("shop", int(f"{LAYOUT.system_identifier}0")), Layout("shop2", 7)]
    for layout in others:
        for info in archive.store.list(LAYOUT.root + "/"):
            archive.store.put(layout.root + info.key.removeprefix(LAYOUT.root), b"foreign")
    before = {layout.root: content_of(archive.store, layout.root + "/") for layout in others}
    run(archive)
    for layout in others:
        assert content_of(archive.store, layout.root + "/") == before[layout.root] != {}


def test_invariant_6_a_plan_for_another_archive_is_refused(archive: Archive) -> None:
    plan = replace(plan_of(archive), root="shop/7")
    with pytest.raises(WrongSystem) as caught:
        run(archive, plan)
    assert str(caught.value) == (
        'the expire plan belongs to "shop/7"\nDETAIL: The archive is "shop/7446001122334455667".'
    )


@pytest.mark.parametrize("label", ["", ".", "..", "../holds", "a/b", "/"])
def test_a_label_that_is_no_directory_of_a_backup_is_refused(archive: Archive, label: str) -> None:
    before = content_of(archive.store)
    for field in ("remove_backups", "torn"):
        plan = plan_of(archive)
        if field == "torn":
            plan = replace(plan, torn_backups=(replace(plan.torn_backups[0], label=label),))
        else:
            plan = replace(plan, remove_backups=(label,))
        with pytest.raises(PermanentError, match="cannot expire"):
            run(archive, plan)
    foreign = replace(plan_of(archive), remove_wal=(ObjectInfo("shop/7/wal/00000001/x", 1),))
    with pytest.raises(PermanentError, match='cannot expire "shop/7/wal/00000001/x"'):
        run(archive, foreign)
    assert content_of(archive.store) == before


def out_of_date(detail: str) -> str:
    return (
        "cannot expire by a plan that is out of date\n"
        f"DETAIL: {detail} Nothing more was removed.\n"
        "HINT: pgproof expire NAME --dry-run shows a new plan"
    )


def test_the_newest_proven_backup_disappears_between_two_removals(archive: Archive) -> None:
    """Its record goes while the first backup is being removed: the second one must stay."""
    record = LAYOUT.backup_record("08-full")

    def meddle(count: int, _: str) -> None:
        if count == 2:
            archive.store.delete(record)

    with pytest.raises(PermanentError) as caught:
        run(archive, watched=watch(archive, meddle))
    assert str(caught.value) == out_of_date(
        'Backup "08-full", the newest proven one, has no backup record any more.'
    )
    listed = [e.label for e in gather_facts(archive, LIMITS, NOON).catalog.entries]
    assert listed == ["01-full", "02-incr", "04-held", "05-full", "06-full", "07-incr", "09-incr"]
    assert len(list(archive.store.list(LAYOUT.wal))) == len(eventful().wal) + 1


def lose_newest_proven(archive: Archive) -> None:
    archive.store.delete(LAYOUT.backup_record("08-full"))


def lose_kept(archive: Archive) -> None:
    archive.store.delete(LAYOUT.backup_record("04-held"))


def fail_drill(archive: Archive) -> None:
    archives.store_proof(archive, "08-full", NOON, "not equal")


def take_incremental_on_expiring(archive: Archive) -> None:
    archives.store_backup(archive, entry("10-incr", NOON, 29, timeline=2, parent="05-full"))


def hold_expiring(archive: Archive) -> None:
    add_hold(archive, "01-full", "tax office", now=NOON)


def complete_torn(archive: Archive) -> None:
    archives.store_backup(archive, entry("00-torn", NOON, 29, timeline=2))


@pytest.mark.parametrize(
    ("meddle", "detail"),
    [
        (lose_newest_proven, 'Backup "08-full" was to be kept and has no backup record any more.'),
        (lose_kept, 'Backup "04-held" was to be kept and has no backup record any more.'),
        (fail_drill, 'Backup "08-full" was proven and has failed a drill since.'),
        (take_incremental_on_expiring, 'Backup "10-incr" was not there when the plan was made.'),
        (complete_torn, 'Backup "00-torn" was not there when the plan was made.'),
        (hold_expiring, 'Backup "01-full" is held since: tax office.'),
    ],
)
def test_a_plan_that_is_out_of_date_is_not_carried_out(
    archive: Archive, meddle: Callable[[Archive], None], detail: str
) -> None:
    plan = plan_of(archive)
    meddle(archive)
    before = content_of(archive.store)
    with pytest.raises(PermanentError) as caught:
        run(archive, plan)
    assert str(caught.value) == out_of_date(detail)
    assert content_of(archive.store) == before


def test_a_hold_that_is_placed_between_two_removals_is_respected(archive: Archive) -> None:
    def meddle(count: int, _: str) -> None:
        if count == 1:
            add_hold(archive, "01-full", "tax office", now=NOON)

    with pytest.raises(PermanentError) as caught:
        run(archive, watched=watch(archive, meddle))
    assert str(caught.value) == out_of_date('Backup "01-full" is held since: tax office.')
    listed = archives.assert_backups_whole(archive)
    assert listed == ["01-full", "04-held", "05-full", "06-full", "07-incr", "08-full", "09-incr"]
    assert len(list(archive.store.list(LAYOUT.wal))) == len(eventful().wal) + 1


def test_a_torn_backup_that_gets_its_record_meanwhile_is_left(archive: Archive) -> None:
    """A backup that outlived its lease and commits while WAL is removed."""
    late = entry("00-torn", NOON, 29, timeline=2)

    def meddle(_: int, key: str) -> None:
        if "/wal/" in key and LAYOUT.backup_record("00-torn") not in content_of(archive.store):
            archives.store_backup(archive, late)

    with pytest.raises(PermanentError) as caught:
        run(archive, watched=watch(archive, meddle))
    assert str(caught.value) == out_of_date('Torn backup "00-torn" has a backup record by now.')
    assert "00-torn" in archives.assert_backups_whole(archive)


def test_a_lost_lease_stops_before_the_next_backup(archive: Archive) -> None:
    def meddle(count: int, _: str) -> None:
        if count == 3:
            archive.store.put(LAYOUT.lease, b'{"token": "another"}')

    with pytest.raises(LeaseHeld, match="was lost"):
        run(archive, watched=watch(archive, meddle))
    assert "02-incr" in archives.assert_backups_whole(archive)
    assert len(list(archive.store.list(LAYOUT.wal))) == len(eventful().wal) + 1


def test_without_a_proven_backup_the_newest_one_is_relied_upon(store: Store) -> None:
    archive = archive_on(store)
    entries: list[BackupEntry] = [entry(f"0{n}", days_ago(60 - 10 * n), 10 * n) for n in range(1, 6)]
    archives.store_facts(archive, archives.facts(entries, wal(1, range(5, 60))))
    plan = plan_of(archive)
    assert plan.proven is None and plan.remove_backups == ("01", "02", "03")

    def meddle(count: int, _: str) -> None:
        if count == 1:
            archive.store.delete(LAYOUT.backup_record("05"))

    with pytest.raises(PermanentError) as caught:
        run(archive, plan, watch(archive, meddle))
    assert str(caught.value) == out_of_date('Backup "05", the newest one, has no backup record any more.')


def test_a_copied_backup_directory_keeps_what_it_may_need(archive: Archive) -> None:
    for info in list(archive.store.list(LAYOUT.backup("06-full"))):
        copy = info.key.replace("06-full", "06-full-copy")
        archive.store.put(copy, b"".join(archive.store.get(info.key)))
    plan = plan_of(archive)
    assert plan.unreadable == ("06-full-copy",)
    assert 'backup record "06-full-copy" names another backup' in plan.warnings[0]
    assert (plan.remove_wal, plan.remove_received) == ((), ())
    assert [label for label in plan.remove_backups if label < "06-full-copy"] == []
    run(archive, plan)
    assert content_of(archive.store, LAYOUT.backup("06-full-copy"))


def test_what_cannot_be_read_makes_no_other_backup_unnecessary(archive: Archive) -> None:
    """The newest proven backup may have failed in a verification that nobody can read."""
    before = plan_of(archive)
    assert before.proven is not None and before.remove_backups
    archive.store.put(LAYOUT.verification(before.proven), b"[")
    plan = plan_of(archive)
    assert before.proven in plan.kept
    assert plan.proven != before.proven
    assert LAYOUT.verification(before.proven) in plan.warnings[0]


def test_a_hold_on_a_backup_with_a_lost_record_keeps_its_data(archive: Archive) -> None:
    archive.store.delete(LAYOUT.backup_record("04-held"))
    before = content_of(archive.store, LAYOUT.backup("04-held"))
    plan = plan_of(archive)
    assert plan.torn == ("00-torn",)
    run(archive, plan)
    assert content_of(archive.store, LAYOUT.backup("04-held")) == before != {}


def test_a_posix_store_keeps_no_empty_directories_of_what_was_removed(tmp_path: Path) -> None:
    archive = archive_on(PosixStore(tmp_path))
    archives.store_facts(archive, eventful())
    foreign = tmp_path / LAYOUT.wal / "00000003" / "00000000"
    foreign.mkdir(parents=True)  # a push is about to write here
    archives.store_facts(archive, archives.facts([], wal(1, [3])))
    run(archive)
    backups = sorted(path.name for path in (tmp_path / LAYOUT.backups).iterdir())
    assert backups == ["04-held", "06-full", "07-incr", "08-full", "09-incr"]
    assert foreign.is_dir()


def test_many_objects_are_removed_in_batches_with_the_lease_checked_between(store: Store) -> None:
    archive = archive_on(store)
    entries = [
        entry("old", days_ago(30), 10, proven=True),
        entry("new", days_ago(20), 300, proven=True),
        entry("newest", days_ago(1), 305, proven=True),
    ]
    archives.store_facts(archive, archives.facts(entries, wal(1, range(1, 310))))

    def meddle(count: int, _: str) -> None:
        if count == 100:
            archive.store.delete(LAYOUT.lease)

    with pytest.raises(LeaseHeld):
        run(archive, watched=watch(archive, meddle))
    left = len(list(archive.store.list(LAYOUT.wal)))
    assert 309 - 3 - 2 * 64 <= left <= 309 - 64
    assert run(archive).wal_objects == left - 10 and plan_of(archive).is_empty
