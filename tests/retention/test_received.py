"""What expire removes besides backups and WAL: received parts of no more use, and damaged objects once they are old."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pgproof.repository.lease import hold_lease
from pgproof.repository.posix import PosixStore
from pgproof.repository.store import ObjectInfo
from pgproof.retention.expire import expire, gather_facts
from pgproof.retention.plan import plan_expire
from pgproof.retention.table import rows
from tests.retention.archives import (
    LAYOUT,
    NOON,
    archive_on,
    entry,
    facts,
    part,
    policy,
    store_facts,
    wal,
)

OLD = entry("old", NOON - timedelta(days=9), 3)
NEW = entry("new", NOON - timedelta(days=1), 20)


def aside(name: str, days: float) -> ObjectInfo:
    return ObjectInfo(f"{LAYOUT.damaged}{name}", 11, (NOON - timedelta(days=days)).timestamp())


def test_a_part_goes_when_its_segment_is_archived_whole() -> None:
    found = facts([NEW], wal(1, range(20, 23)), received=(part(1, 22), part(1, 22, 8192), part(1, 23)))
    plan = plan_expire(found)
    assert plan.remove_received == (part(1, 22), part(1, 22, 8192))
    assert plan.freed == 10
    assert not plan.is_empty


def test_a_part_goes_when_no_window_needs_it() -> None:
    """It is the last that was ever received of a timeline that nobody can recover to any more."""
    found = facts([OLD, NEW], wal(1, range(20, 23)), received=(part(1, 7), part(1, 23)), daily=1)
    assert plan_expire(found).remove_received == (part(1, 7),)
    wider = facts([OLD, NEW], wal(1, range(3, 7)), received=(part(1, 7),), daily=1, wal_window=8 * 86400)
    assert plan_expire(wider).remove_received == ()


def test_without_a_backup_every_part_stays() -> None:
    assert plan_expire(facts([], wal(1, [7]), received=(part(1, 7),))).remove_received == ()


def test_objects_with_other_names_stay() -> None:
    other = ObjectInfo(f"{LAYOUT.received}00000001/README", 1)
    misplaced = ObjectInfo(part(1, 7).key.replace("/00000001/", "/00000002/"), 1)
    found = facts([NEW], wal(1, range(7, 23)), received=(other, misplaced))
    assert plan_expire(found).remove_received == ()


def test_damaged_objects_are_kept_for_thirty_days() -> None:
    young, old = aside("20261025T120000Z-a.zst", 29.9), aside("20261024T110000Z-b.zst", 30.1)
    unknown = ObjectInfo(f"{LAYOUT.damaged}c.zst", 11)
    plan = plan_expire(facts([NEW], wal(1, [20]), damaged=(young, old, unknown)))
    assert plan.remove_damaged == (old,)
    assert plan_expire(facts([], damaged=(young, old))).remove_damaged == (old,)


def test_rows() -> None:
    found = facts(
        [NEW],
        wal(1, range(20, 23)),
        received=(part(1, 21), part(1, 22)),
        damaged=(aside("20261001T000000Z-000000010000000000000014.zst", 53),),
    )
    assert rows(plan_expire(found))[1:3] == [
        (
            "received parts",
            "2 files",
            "remove",
            "10 B",
            "000000010000000000000015.00001000 to 000000010000000000000016.00001000: "
            "archived whole, or nothing kept needs them",
        ),
        (
            "damaged objects",
            "1 file",
            "remove",
            "11 B",
            "20261001T000000Z-000000010000000000000014: kept aside by a repair more than 30 days ago",
        ),
    ]


def test_carried_out(tmp_path: Path) -> None:
    archive = archive_on(PosixStore(tmp_path))
    store_facts(archive, facts([NEW], wal(1, range(20, 23))))
    for info in (part(1, 22), part(1, 23)):
        archive.store.put(info.key, b"part")
    archive.store.put(aside("20261101T000000Z-x.zst", 0).key, b"bad")
    later = NOON + timedelta(days=400)  # by the clock of the test the objects have just been stored
    with hold_lease(archive.store, archive.layout.lease, "a test") as lease:
        result = expire(archive, plan_expire(gather_facts(archive, policy(), later)), lease)
    assert result.wal_objects == 2
    left = {info.key for info in archive.store.list(LAYOUT.root)}
    assert part(1, 23).key in left
    assert not left & {part(1, 22).key, aside("20261101T000000Z-x.zst", 0).key}
