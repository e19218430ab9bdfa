"""Runs of segments: set algebra on intervals, and a gap check with them that agrees with one by enumeration."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.backups.catalog import Catalog
from pgproof.config import RetentionConfig
from pgproof.gaps.check import expired_of
from pgproof.gaps.gap import check_gaps
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import ExpireFacts, plan_expire
from pgproof.retention.window import Holdings
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, listing_of, runs_between, segments_between
from pgproof.wal.runs import Numbers, Run, by_timeline, intersect, runs_of, subtract
from tests.retention.archives import LAYOUT, NOON, entry, policy
from tests.wal import oracle
from tests.wal.listings import source

MB = 1 << 20
numbers = st.sets(st.integers(0, 40))
quick = settings(max_examples=200)


# ---- numbers


@given(numbers, numbers)
def test_numbers_are_a_set(these: set[int], those: set[int]) -> None:
    one, two = Numbers(these), Numbers(those)
    assert (set(one), len(one), bool(one)) == (these, len(these), bool(these))
    assert list(one - two) == sorted(these - those)
    assert list(one & two) == sorted(these & those)
    assert one | two == Numbers(these | those)
    assert {number for number in range(42) if number in one} == these
    assert not these or (one.first, one.last) == (min(these), max(these))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_intervals_in_any_order_that_overlap_or_are_empty(intervals: list[tuple[int, int]]) -> None:
    expected = {number for first, last in intervals for number in range(first, last + 1)}
    assert Numbers.of(intervals) == Numbers(expected)


def test_neighbours_are_one_run() -> None:
    assert list(Numbers([5, 3, 4, 4, 9]).intervals) == [(3, 5), (9, 9)]
    assert list(Numbers.of([(7, 9), (3, 6)]).intervals) == [(3, 9)]
    assert repr(Numbers([3, 4])) == "Numbers.of([(3, 4)])"
    assert Numbers([3]) != {3}


def test_runs_by_timeline_and_back() -> None:
    runs = [Run(WalSegment(2, 1, MB), WalSegment(2, 3, MB)), Run(WalSegment(1, 7, MB), WalSegment(1, 7, MB))]
    numbered = by_timeline([*runs, runs[0]])
    assert list(runs_of(numbered, MB)) == [runs[1], runs[0]]
    assert subtract(numbered, {2: Numbers([2])}) == {1: Numbers([7]), 2: Numbers([1, 3])}
    assert intersect(numbered, {2: Numbers([2]), 3: Numbers([1])}) == {2: Numbers([2])}
    assert [segment.number for segment in runs[0]] == [1, 2, 3]
    assert (runs[0].start, runs[0].end, runs[0].count) == (LSN(MB), LSN(4 * MB), 3)
    assert str(runs[0]) == "000000020000000000000001 to 000000020000000000000003 (3 segments)"


# ---- the listing


def objects(segments: set[WalSegment], suffix: str = ".zst") -> list[ObjectInfo]:
    return [ObjectInfo(LAYOUT.wal_file(segment.name) + suffix, 7) for segment in segments]


@pytest.mark.parametrize("size", [MB, 16 * MB, 64 * MB, 1 << 30])
@given(st.sets(st.tuples(st.integers(1, 3), st.integers(0, 9000))), st.randoms())
def test_a_listing_in_any_order(size: int, places: set[tuple[int, int]], random: Random) -> None:
    segments = {WalSegment(timeline, number, size) for timeline, number in places}
    shuffled = [*objects(segments), *objects(segments, ".zst.age")]
    random.shuffle(shuffled)
    found = listing_of(LAYOUT, shuffled, size, lambda key: TimelineHistory(9))
    assert found.count() == len(segments)
    assert found.stored_size == 14 * len(segments)
    assert {WalSegment(t, n, size) for t, there in found.numbers.items() for n in there} == segments


@pytest.mark.parametrize(
    "key",
    [
        "wal/00000001/00000000/000000010000000000000003",
        "wal/00000001/00000000/000000010000000000000003.gz",
        "wal/00000001/00000000/000000010000000000000003.partial.zst",
        "wal/00000001/00000000/000000010000000000000003.00000028.backup.zst",
        "wal/00000001/00000001/000000010000000000000003.zst",
        "wal/00000002/00000000/000000010000000000000003.zst",
        "wal/00000001/00000000/sub/000000010000000000000003.zst",
        "wal/00000001/00000000/00000001000000000000000a.zst",
        "wal/000000010000000000000003.zst",
        "wal/README",
        "received/00000001/README",
    ],
)
def test_what_is_no_segment(key: str) -> None:
    """Wherever a fetch would not find it, or under a name that no segment has."""
    found = listing_of(LAYOUT, [ObjectInfo(f"{LAYOUT.root}/{key}", 7)], MB, lambda key: TimelineHistory(9))
    counted = key.endswith("3")  # a name without a codec's suffix is one that is found, if not by fetch
    assert (found.count(), found.histories, found.received) == (0, {}, {}), counted


# ---- runs between


@st.composite
def histories(draw: st.DrawFn, size: int) -> TimelineHistory:
    """A history of up to four ancestors whose forks need not ascend."""
    forks = draw(st.lists(st.tuples(st.integers(2, 24), st.sampled_from([0, 1, 0.5])), max_size=4))
    made = tuple(
        Fork(timeline, LSN(int(number * size + part * (size // 2 if part == 0.5 else part))))
        for timeline, (number, part) in enumerate(forks, 1)
    )
    return TimelineHistory(len(made) + 1, made)


@pytest.mark.parametrize("size", [MB, 16 * MB, 1 << 30])
@given(st.data(), st.integers(1, 12), st.integers(0, 60))
def test_runs_are_the_segments_one_by_one(size: int, data: st.DataObject, first: int, halves: int) -> None:
    history = data.draw(histories(size))
    start = WalSegment(data.draw(st.integers(1, history.timeline)), first, size)
    last = halves * size // 2
    runs = runs_between(history, start, last)
    expected = list(oracle.segments_between(history, start, last))
    assert [segment for run in runs for segment in run] == expected
    assert list(segments_between(history, start, last)) == expected
    assert all(one.timeline != two.timeline for one, two in pairwise(runs))


# ---- the whole check


@st.composite
def archives(draw: st.DrawFn) -> oracle.Archive:
    """Any archive: forks in any order, holes, stretches that are gone, backups anywhere, retention."""
    size = draw(st.sampled_from([MB, 16 * MB, 1 << 30]))
    known: dict[int, TimelineHistory] = {}
    for timeline in range(2, draw(st.integers(1, 4)) + 1):
        parent = draw(st.integers(1, timeline - 1))
        before = known[parent].forks if parent in known else ()
        where = LSN(draw(st.integers(4, 48)) * size // 2)
        known[timeline] = TimelineHistory(timeline, (*before, Fork(parent, where)))
    if known and draw(st.booleans()):
        known.pop(draw(st.sampled_from(sorted(known))))
    places = draw(st.sets(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=6))
    timelines = st.integers(1, max([1, *known]))
    stretches = draw(st.lists(st.tuples(timelines, st.integers(1, 24), st.integers(0, 16)), max_size=5))
    segments = {WalSegment(t, first + n, size) for t, first, length in stretches for n in range(length)}
    segments -= {WalSegment(timeline, number, size) for timeline, number in places}
    backups = draw(
        st.lists(st.tuples(timelines, st.integers(1, 24), st.integers(0, 2)), min_size=0, max_size=5)
    )
    entries = [
        entry(
            f"b{n}",
            NOON + timedelta(hours=first),
            first,
            timeline=timeline,
            last=first + length,
            segment_size=size,
            proven=draw(st.booleans()),
        )
        for n, (timeline, first, length) in enumerate(backups)
    ]
    catalog = Catalog(tuple(sorted(entries, key=lambda e: (e.record.stopped_at, e.label))))
    listing = WalListing(size, by_timeline(Run(s, s) for s in segments), known)
    return oracle.Archive(catalog, segments, listing)


limits: st.SearchStrategy[RetentionConfig] = st.builds(
    policy, daily=st.integers(0, 2), wal_window=st.integers(0, 20).map(lambda hours: 3600 * hours)
)


@quick
@given(archives(), limits, st.integers(0, 40), st.booleans())
def test_the_check_with_runs_agrees_with_the_enumerating_one(
    archive: oracle.Archive, bounds: RetentionConfig, hours: int, retained: bool
) -> None:
    now = NOON + timedelta(hours=hours)
    if retained:
        archive.policy, archive.now = bounds, now
    report = check_gaps(
        archive.catalog,
        archive.listing,
        None,
        lambda missing: (
            expired_of(bounds, archive.catalog, Holdings(archive.listing), missing, now) if retained else {}
        ),
    )
    assert oracle.answer_of(report) == oracle.check(archive, None)
    _gaps_are_apart(report.gaps)


def _gaps_are_apart(gaps: tuple[Run, ...]) -> None:
    for one, two in pairwise(gaps):
        assert (one.timeline, one.last.number + 1) < (two.timeline, two.first.number)


@quick
@given(archives(), st.integers(1, 30), st.integers(0, 4))
def test_it_agrees_on_what_a_source_acknowledged(archive: oracle.Archive, number: int, more: int) -> None:
    size = archive.listing.segment_size
    timeline = max([1, *archive.listing.histories])
    archived = WalSegment(timeline, number, size)
    facts = replace(
        source(0, timeline=timeline, archived=archived.name),
        segment_size=size,
        insert_lsn=LSN(archived.end + more * size),
    )
    report = check_gaps(archive.catalog, archive.listing, facts)
    assert oracle.answer_of(report) == oracle.check(archive, facts)


@quick
@given(archives(), limits, st.integers(0, 40))
def test_what_expire_removes_is_what_the_check_takes_for_expired(
    archive: oracle.Archive, bounds: RetentionConfig, hours: int
) -> None:
    """Expire looks at objects, the check at runs: carried out, an expire leaves no gap that was not there."""
    if not archive.catalog.entries:
        return
    now: datetime = NOON + timedelta(hours=hours)
    plan = plan_expire(
        ExpireFacts(
            archive.catalog,
            tuple(objects(archive.segments)),
            archive.listing.histories,
            bounds,
            now,
            LAYOUT,
        )
    )
    archive.policy, archive.now = bounds, now
    removed = {info.key.rsplit("/", 1)[-1][:24] for info in plan.remove_wal}
    gone = {segment.name for segment in oracle.expired(archive, archive.segments)}
    assert removed == gone
