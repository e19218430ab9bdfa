"""Received parts: the beginning of a segment that is not archived whole counts for how far the archive reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.errors import TargetOutsideWindow, WalGap
from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.gap import GapReport, check_gaps
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.store import ObjectInfo
from pgproof.restore.locate import WalReader
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import (
    ReceivedPart,
    WalListing,
    end_of_path,
    end_of_segments,
    find_part,
    list_wal,
    listing_of,
    received_on,
    require,
)
from pgproof.wal.runs import Run
from tests.retention.archives import LAYOUT, NOON, entry
from tests.servers.postgres import Source, now, running_source
from tests.wal.listings import SIZE, at, catalog, listing, name, source

A = entry("A", NOON - timedelta(hours=2), 3)


def part(segment: int, reached: float, timeline: int = 1) -> ReceivedPart:
    whole = WalSegment(timeline, segment, SIZE)
    offset = int(reached * SIZE)
    return ReceivedPart(whole, LSN(whole.start + offset), LAYOUT.received_part(whole.name, offset) + ".zst")


def with_parts(found: WalListing, *parts: ReceivedPart) -> WalListing:
    return replace(found, received={one.segment.timeline: one for one in parts})


def ends(report: GapReport) -> list[tuple[int, str]]:
    return [(window.timeline, str(window.end)) for window in report.windows]


class TestPath:
    """Parts continue what is archived; behind a hole they count for nothing."""

    def test_behind_the_newest_segment(self) -> None:
        found = with_parts(listing(range(3, 8)), part(8, 0.25))
        assert end_of_path(found, TimelineHistory(1)) == at(8.25)
        assert end_of_segments(found, TimelineHistory(1)) == at(8)
        report = check_gaps(catalog(A), found, source(8.75, archived=name(7)))
        assert (report.ok, report.received) == (True, part(8, 0.25))
        assert ends(report) == [(1, "0/840000")]
        assert (report.in_flight, report.lag) == (1, SIZE // 2)
        assert report.as_dict()["received_to"] == "0/840000"

    def test_whole_and_archived_it_is_a_segment(self) -> None:
        found = with_parts(listing(range(3, 9)), part(8, 0.25))
        assert received_on(found, TimelineHistory(1)) is None
        assert ends(check_gaps(catalog(A), found, None)) == [(1, "0/900000")]

    def test_behind_a_hole(self) -> None:
        found = with_parts(listing(range(3, 7)), part(8, 0.25))
        report = check_gaps(catalog(A), found, None)
        assert (report.received, ends(report)) == (None, [(1, "0/700000")])

    def test_an_older_part_than_the_archive(self) -> None:
        found = with_parts(listing({3, 4, 6, 7}), part(5, 0.5))
        report = check_gaps(catalog(A), found, None)
        assert [str(gap) for gap in report.gaps] == [name(5)]

    def test_acknowledged_and_missing_is_a_gap_all_the_same(self) -> None:
        found = with_parts(listing(range(3, 8)), part(8, 0.25))
        report = check_gaps(catalog(A), found, source(9.5, archived=name(8)))
        assert [str(gap) for gap in report.gaps] == [name(8)]

    def test_nothing_archived_yet(self) -> None:
        found = with_parts(listing(), part(3, 0.25))
        report = check_gaps(catalog(), found, source(3.75))
        assert (report.in_flight, report.lag) == (1, SIZE // 2)

    def test_the_backup_stops_inside_the_part(self) -> None:
        found = with_parts(listing(), part(3, 0.25))
        report = check_gaps(catalog(A), found, None)
        assert (report.gaps, ends(report)) == ((), [(1, "0/340000")])
        late = entry("L", NOON, 3, stop_lsn=at(3.5))
        assert [str(gap) for gap in check_gaps(catalog(late), found, None).gaps] == [name(3)]

    def test_just_promoted(self) -> None:
        """Timeline 2 left 1 inside segment 5, of which both timelines have a part."""
        found = with_parts(listing(range(3, 5), (), t2="1 5.5"), part(5, 0.5), part(5, 0.75, 2))
        report = check_gaps(catalog(A), found, source(5.8, timeline=2))
        assert report.ok
        assert ends(report) == [(2, "0/5C0000")]

    def test_part_of_the_timeline_that_was_left_counts_from_the_younger_one_alone(self) -> None:
        found = with_parts(listing(range(3, 5), (), t2="1 5.5"), part(5, 0.5))
        assert ends(check_gaps(catalog(A), found, None)) == [(2, "0/500000")]

    def test_required_for_a_restore(self) -> None:
        found, there = listing({3, 4}), part(5, 0.5)
        wanted = [WalSegment(1, number, SIZE) for number in (3, 4, 5)]
        runs = [Run(wanted[0], wanted[-1])]
        assert require(found, runs, "for the test", there) == wanted
        with pytest.raises(WalGap):
            require(found, runs, "for the test")


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("received/00000001/000000010000000000000005.00040000.zst", "0/540000"),
        ("received/00000001/000000010000000000000005.00100000.zst.age", "0/600000"),
        ("received/00000001/000000010000000000000005.00040000", None),
        ("received/00000001/000000010000000000000005.00000000.zst", None),
        ("received/00000001/000000010000000000000005.00200000.zst", None),
        ("received/00000002/000000010000000000000005.00040000.zst", None),
        ("received/00000001/0000000100000000FFFFFFFF.00040000.zst", None),
        ("received/00000001/000000010000000000000005.zst", None),
    ],
)
def test_names(key: str, end: str | None) -> None:
    found = ReceivedPart.parse(LAYOUT, f"{LAYOUT.root}/{key}", SIZE)
    assert (str(found.end) if found else None) == end


def test_of_several_parts_the_one_that_reaches_furthest_counts() -> None:
    """A crash between writing the new and removing the old leaves both."""
    keys = [
        LAYOUT.received_part(name(number), offset) + ".zst" for number, offset in ((5, 9), (6, 1), (6, 8))
    ]
    found = listing_of(LAYOUT, [ObjectInfo(key, 1) for key in keys], SIZE, lambda key: TimelineHistory(1))
    assert found.received == {1: ReceivedPart(WalSegment(1, 6, SIZE), LSN(at(6) + 8), keys[2])}


# ---- a real source whose current segment was received


@pytest.fixture(scope="module")
def shop() -> Iterator[Source]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        source.archive_now()
        source.sql("INSERT INTO t VALUES (1)")
        yield source


def receive(source: Source) -> tuple[WalSegment, LSN]:
    """Store what the server has flushed of its current segment, as wal receive does."""
    ((text, file),) = source.sql(
        "SELECT pg_current_wal_flush_lsn()::text, pg_walfile_name(pg_current_wal_lsn())"
    )
    segment, end = WalSegment.parse(file, SIZE), LSN.parse(text)
    offset = end - segment.start
    content = (source.data / "pg_wal" / file).read_bytes()[:offset].ljust(SIZE, b"\0")
    archive = source.archive
    archive.write(archive.layout.received_part(file, offset), [content])
    return segment, end


def plan(source: Source, target: RecoveryTarget) -> RestorePlan:
    return plan_restore(
        RestoreRequest(Path(f"{source.root}/restored"), target),
        read_catalog(source.archive),
        lambda size: list_wal(source.archive, size),
        lambda major: WalReader(source.archive, find_bin_directory(major)),
    )


def check(source: Source) -> WalCheck:
    return check_wal(source.cluster, source.archive, now=now())


def test_a_received_part_closes_the_gap_to_the_source(shop: Source) -> None:
    before = check(shop)
    committed = now()
    ((xid,),) = shop.sql("INSERT INTO t VALUES (2) RETURNING pg_current_xact_id()::text")
    ((lsn,),) = shop.sql("SELECT pg_current_wal_flush_lsn()::text")
    segment, end = receive(shop)
    found = check(shop)
    assert found.ok
    assert before.newest_commit is not None and found.newest_commit is not None
    assert before.newest_commit < committed <= found.newest_commit
    assert found.report.received is not None
    assert (found.report.received.segment, found.report.received.end) == (segment, end)
    assert [window.end for window in found.report.windows] == [end]
    assert found.report.windows[0].to_time == found.newest_commit
    part = find_part(shop.archive, segment)
    assert part == found.report.received

    latest = plan(shop, RecoveryTarget())
    assert (latest.reach, latest.segments[-1]) == (end, segment)
    inside = plan(shop, RecoveryTarget("lsn", lsn))
    assert inside.segments[-1] == segment
    in_time = plan(shop, RecoveryTarget.build(time=committed.isoformat()))
    assert in_time.segments[-1] == segment
    by_xid = plan(shop, RecoveryTarget("xid", xid))
    assert by_xid.segments[-1] == segment
    with pytest.raises(TargetOutsideWindow):
        plan(shop, RecoveryTarget("lsn", str(segment.end)))


def test_a_part_that_ends_within_a_record_is_read_up_to_there(shop: Source) -> None:
    shop.sql("INSERT INTO t VALUES (3)")
    segment, end = receive(shop)
    archive = shop.archive
    stored = find_part(archive, segment)
    assert stored is not None
    content = b"".join(archive.open(stored.key))
    reader = WalReader(archive, shop.bin)
    for cut in (end - 3, end - 33, end - 47):
        for info in archive.store.list(archive.layout.received):
            archive.store.delete(info.key)
        offset = cut - segment.start
        archive.write(
            archive.layout.received_part(segment.name, offset), [content[:offset].ljust(SIZE, b"\0")]
        )
        commits = reader.commits(segment)
        assert commits and all(commit.lsn < cut for commit in commits)
