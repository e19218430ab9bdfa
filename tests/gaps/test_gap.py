"""WAL gaps, found from names alone: along forks, in flight or lost, expired or missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.backups.catalog import Catalog
from pgproof.errors import WalGap
from pgproof.gaps.gap import Gap, GapReport, check_gaps, recovery_paths
from pgproof.gaps.table import rows
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, end_of_path, require, runs_between
from pgproof.wal.runs import Numbered, Numbers, Run, by_timeline, subtract
from tests.retention.archives import NOON, entry
from tests.wal.listings import SIZE, at, catalog, listing, name, source


def gaps(report: GapReport) -> list[str]:
    return [str(gap) for gap in report.gaps]


def windows(report: GapReport) -> list[tuple[str, int, str, str]]:
    return [(w.backup, w.timeline, str(w.start), str(w.end)) for w in report.windows]


A, B = entry("A", NOON - timedelta(hours=2), 3), entry("B", NOON - timedelta(hours=1), 7)


class TestOneTimeline:
    def test_complete(self) -> None:
        report = check_gaps(catalog(A, B), listing(range(2, 12)), None)
        assert report.ok
        assert (report.segments, str(report.oldest), str(report.newest)) == (10, name(3), name(11))
        assert windows(report) == [("A", 1, "0/301000", "0/C00000"), ("B", 1, "0/701000", "0/C00000")]
        assert [row[4] for row in rows(report)] == ["complete", "complete"]
        assert report.needed == (Run(WalSegment(1, 3, SIZE), WalSegment(1, 11, SIZE)),)

    def test_a_gap_breaks_the_windows_before_it_alone(self) -> None:
        report = check_gaps(catalog(A, B), listing({3, 4, 6, 7, 8, 9}), None)
        assert not report.ok
        assert gaps(report) == [name(5)]
        assert windows(report) == [("A", 1, "0/301000", "0/500000"), ("B", 1, "0/701000", "0/A00000")]
        assert [row[4] for row in rows(report)] == [f"broken by {name(5)}", "complete"]
        assert report.as_dict()["gaps"] == [{"first": name(5), "last": name(5), "segments": 1}]
        assert report.as_dict()["windows"][0]["broken_by"] == name(5)

    def test_several_gaps(self) -> None:
        report = check_gaps(catalog(A), listing({3, 6, 7, 9}), None)
        assert gaps(report) == [f"{name(4)} to {name(5)} (2 segments)", name(8)]

    def test_what_lies_before_the_first_backup_is_no_gap(self) -> None:
        assert check_gaps(catalog(B), listing({1, 2, 5, 7, 8}), None).ok

    def test_segments_of_the_backup_itself(self) -> None:
        long = entry("L", NOON, 3, last=5)
        assert gaps(check_gaps(catalog(long), listing({3, 4}), None)) == [name(5)]
        assert gaps(check_gaps(catalog(long), listing({4, 5, 6}), None)) == [name(3)]

    def test_all_wal_is_gone(self) -> None:
        report = check_gaps(catalog(A), listing(), None)
        assert gaps(report) == [name(3)]
        assert windows(report) == [("A", 1, "0/301000", "0/300000")]

    def test_no_backup_needs_nothing(self) -> None:
        report = check_gaps(catalog(), listing({1, 2, 9}), None)
        assert report.ok
        assert (report.windows, report.oldest, str(report.newest)) == ((), None, name(9))

    def test_nothing_at_all(self) -> None:
        report = check_gaps(catalog(), listing(), None)
        assert (report.ok, report.newest, report.lag, report.in_flight) == (True, None, None, 0)


class TestSource:
    """A running source tells a gap from a segment in flight."""

    def test_in_flight_is_no_gap(self) -> None:
        report = check_gaps(catalog(A), listing(range(3, 8)), source(9.25, archived=name(7)))
        assert report.ok
        assert (report.in_flight, report.lag) == (2, int(1.25 * SIZE))

    def test_acknowledged_and_missing_is_a_gap(self) -> None:
        report = check_gaps(catalog(A), listing(range(3, 8)), source(9.25, archived=name(8)))
        assert gaps(report) == [name(8)]
        assert report.windows[0].end == at(8)

    def test_several_are_stored_at_once_and_a_newer_one_was_faster(self) -> None:
        """The archiver hands over the oldest first: what it has not reported yet is on its way."""
        archiving = {"archive_mode": "on", "archive_command": "x"}
        found = listing({3, 4, 6, 7})
        facts = replace(source(8.5, archived=name(4)), settings=archiving)
        report = check_gaps(catalog(A), found, facts)
        assert report.ok
        assert windows(report) == [("A", 1, "0/301000", "0/500000")]
        assert (report.windows[0].broken_by, report.in_flight, report.lag) == (None, 2, int(3.5 * SIZE))
        passed = replace(source(8.5, archived=name(6)), settings=archiving)
        assert gaps(check_gaps(catalog(A), found, passed)) == [name(5)]
        assert gaps(check_gaps(catalog(A), found, source(8.5, archived=name(4)))) == [name(5)]

    def test_what_a_standby_archived_as_a_primary_says_nothing(self) -> None:
        facts = source(9, archived=name(8), in_recovery=True)
        assert check_gaps(catalog(A), listing(range(3, 8)), facts).ok
        always = replace(facts, settings={"archive_mode": "always", "archive_command": "x"})
        assert gaps(check_gaps(catalog(A), listing(range(3, 8)), always)) == [name(8)]
        stale = replace(facts, settings={"archive_mode": "on", "archive_command": "x"})
        assert gaps(check_gaps(catalog(A), listing({3, 4, 6}), stale)) == [name(5)]

    @pytest.mark.parametrize("archived", [f"{name(9)}.partial", "00000002.history", None, "gibberish"])
    def test_acknowledged_files_that_are_no_segment(self, archived: str | None) -> None:
        assert check_gaps(catalog(A), listing(range(3, 8)), source(9, archived=archived)).ok

    def test_acknowledged_backup_history(self) -> None:
        archived = f"{name(7)}.00000028.backup"
        assert gaps(check_gaps(catalog(A), listing(range(3, 7)), source(9, archived=archived))) == [name(7)]

    @pytest.mark.parametrize(
        ("behind", "lag", "in_flight"), [(0, 0, 0), (40, 0, 0), (41, 41, 1), (80, 80, 1)]
    )
    def test_idle_source(self, behind: int, lag: int, in_flight: int) -> None:
        """After a switch it stands behind the header of a page that is empty: 40 bytes that hold nothing."""
        report = check_gaps(catalog(A), listing(range(3, 8)), source(8 + behind / SIZE))
        assert (report.lag, report.in_flight) == (lag, in_flight)

    def test_nothing_archived_yet(self) -> None:
        report = check_gaps(catalog(), listing(), source(1.5))
        assert (report.ok, report.in_flight, report.lag) == (True, 1, None)

    def test_repository_ahead_of_a_source_that_was_set_back(self) -> None:
        assert check_gaps(catalog(A), listing(range(3, 9)), source(5)).lag == 0


class TestForks:
    """Timeline 2 left timeline 1 in the middle of segment 5, unless told."""

    def test_along_a_fork(self) -> None:
        report = check_gaps(catalog(A), listing(range(3, 5), range(5, 9), t2="1 5.5"), None)
        assert report.ok
        assert windows(report) == [("A", 2, "0/301000", "0/900000")]

    def test_the_segment_of_the_fork_counts_from_the_younger_timeline(self) -> None:
        report = check_gaps(catalog(A), listing(range(3, 6), range(6, 9), t2="1 5.5"), None)
        assert gaps(report) == [name(5, 2)]

    def test_gap_on_the_parent(self) -> None:
        report = check_gaps(catalog(A), listing({3}, range(5, 9), t2="1 5.5"), None)
        assert gaps(report) == [name(4, 1)]

    def test_fork_at_the_border_of_a_segment(self) -> None:
        assert check_gaps(catalog(A), listing(range(3, 5), range(5, 9), t2="1 5"), None).ok
        assert gaps(check_gaps(catalog(A), listing({3}, range(5, 9), t2="1 5"), None)) == [name(4)]

    def test_what_the_parent_wrote_after_the_fork_is_not_needed(self) -> None:
        """The old primary went on for a while: its WAL belongs to another future."""
        report = check_gaps(catalog(A), listing({3, 4, 5, 6, 9}, range(5, 8), t2="1 5.5"), None)
        assert report.ok
        assert windows(report) == [("A", 2, "0/301000", "0/800000")]

    def test_restored_to_an_earlier_point(self) -> None:
        """The end of the path is the end of timeline 2, though timeline 1 is much longer."""
        found = listing(range(3, 100), range(5, 8), t2="1 5.5")
        assert end_of_path(found, found.histories[2]) == at(8)
        assert check_gaps(catalog(A), found, None).ok

    def test_just_promoted(self) -> None:
        """The history is archived first; the fork's segment is in flight and no gap."""
        found = listing(range(3, 5), (), t2="1 5.5")
        report = check_gaps(catalog(A), found, source(5.6, timeline=2, archived="00000002.history"))
        assert report.ok
        assert windows(report) == [("A", 2, "0/301000", "0/500000")]
        assert (report.in_flight, report.lag) == (1, int(5.6 * SIZE) - 5 * SIZE)

    def test_just_promoted_with_the_whole_segment_of_the_old_primary(self) -> None:
        found = listing(range(3, 6), (), t2="1 5.5")
        assert check_gaps(catalog(A), found, source(5.6, timeline=2)).ok

    def test_lag_is_measured_along_the_source_own_path(self) -> None:
        found = listing(range(3, 100), {5}, t2="1 5.5")
        report = check_gaps(catalog(A), found, source(7.5, timeline=2))
        assert (report.lag, report.in_flight) == (int(1.5 * SIZE), 2)

    def test_timeline_without_its_history(self) -> None:
        found = listing(range(3, 8), range(5, 9))
        report = check_gaps(catalog(A), found, None)
        assert (report.without_history, report.ok) == ((2,), False)
        assert check_gaps(
            catalog(A), replace(found, numbers={2: found.numbers[2]}), None
        ).without_history == (2,)
        assert check_gaps(catalog(), listing((), (), range(5, 9)), None).without_history == ()

    def test_source_without_its_history(self) -> None:
        report = check_gaps(catalog(A), listing(range(3, 8)), source(9, timeline=2))
        assert (report.ok, report.in_flight, report.lag) == (True, 1, None)
        assert [window.timeline for window in report.windows] == [1]

    def test_backup_after_the_fork_on_the_timeline_that_was_left(self) -> None:
        """A copy was promoted and archived its history; the source lives on: both futures are looked after."""
        found = listing(set(range(3, 12)) - {9}, {5}, t2="1 5.5")
        report = check_gaps(catalog(A, B), found, source(12, archived=name(11)))
        assert gaps(report) == [name(9)]
        assert windows(report) == [
            ("A", 2, "0/301000", "0/600000"),
            ("A", 1, "0/301000", "0/900000"),
            ("B", 1, "0/701000", "0/900000"),
        ]

    def test_source_that_lives_on_where_another_forked_from_it(self) -> None:
        found = listing({3, 4, 5, 7}, {5}, t2="1 5.5")
        assert check_gaps(catalog(A), found, None).ok  # nobody says that timeline 1 is alive
        assert gaps(check_gaps(catalog(A), found, source(8))) == [name(6)]

    def test_two_timelines_from_one(self) -> None:
        found = listing(range(3, 9), {5, 6}, {7, 9}, t2="1 5.5", t3="1 7.5")
        report = check_gaps(catalog(A), found, None)
        assert gaps(report) == [name(8, 3)]
        assert windows(report) == [("A", 2, "0/301000", "0/700000"), ("A", 3, "0/301000", "0/800000")]

    def test_three_generations(self) -> None:
        found = listing({3, 4}, {5, 6}, {7, 8}, t2="1 5.5", t3="1 5.5,2 7.5")
        assert check_gaps(catalog(A), found, None).ok
        missing = listing({3, 4}, {5}, {7, 8}, t2="1 5.5", t3="1 5.5,2 7.5")
        assert gaps(check_gaps(catalog(A), missing, None)) == [name(6, 2)]

    def test_forks_that_do_not_ascend(self) -> None:
        """Along timeline 2 to before its own fork, and promoted: 3 follows 1 from there."""
        found = listing(range(3, 9), {6, 7}, {4, 5}, t2="1 6.5", t3="1 6.5,2 4.5")
        report = check_gaps(catalog(A), found, None)
        assert report.ok
        assert ("A", 3, "0/301000", "0/600000") in windows(report)
        assert end_of_path(found, found.histories[3]) == at(6)

    def test_paths(self) -> None:
        found = listing(range(3, 9), {5}, t2="1 5.5")
        assert [path.timeline for path in recovery_paths(catalog(A), found, None)] == [2]
        assert [path.timeline for path in recovery_paths(catalog(A, B), found, None)] == [2, 1]
        assert [path.timeline for path in recovery_paths(catalog(A), found, source(9))] == [2, 1]
        assert [p.timeline for p in recovery_paths(catalog(A), found, source(9, timeline=2))] == [2]


class TestExpired:
    """Retention removes what lies between an old backup and the recovery windows: that is no gap."""

    @staticmethod
    def before_7(missing: Numbered) -> Numbered:
        return {1: missing[1] & Numbers(range(7))}

    def test_expired_is_no_gap(self) -> None:
        report = check_gaps(catalog(A, B), listing({3, 7, 8}), None, self.before_7)
        assert report.ok
        assert windows(report) == [("A", 1, "0/301000", "0/400000"), ("B", 1, "0/701000", "0/900000")]
        assert [(w.broken_by, w.expired) for w in report.windows] == [(None, True), (None, False)]
        assert [row[4] for row in rows(report)] == ["older: WAL after it is expired", "complete"]

    def test_a_gap_behind_what_expired_is_one(self) -> None:
        report = check_gaps(catalog(A, B), listing({3, 7, 9}), None, self.before_7)
        assert gaps(report) == [name(8)]

    def test_only_what_is_missing_is_asked_for(self) -> None:
        asked: list[Numbered] = []
        check_gaps(catalog(A), listing({3, 5}), None, lambda missing: asked.append(missing) or {})
        assert asked == [{1: Numbers([4])}]
        check_gaps(catalog(A), listing({3, 4}), None, lambda missing: asked.append(missing) or {})
        assert len(asked) == 1


def test_gaps_in_words() -> None:
    one, two = WalSegment(1, 4, SIZE), WalSegment(1, 6, SIZE)
    assert str(Gap(one, one)) == name(4)
    assert str(Gap(one, two)) == f"{name(4)} to {name(6)} (3 segments)"


def test_required_segments_are_named() -> None:
    wanted = runs_between(TimelineHistory(1), WalSegment(1, 3, SIZE), at(7))
    with pytest.raises(WalGap) as caught:
        require(listing({3, 5}), wanted, "for the test")
    assert str(caught.value).startswith(
        f'WAL segment "{name(4)}" and 1 more is missing from the archive\n'
        "DETAIL: It holds LSN 0/400000 to 0/500000, needed for the test.\nHINT: "
    )
    assert caught.value.exit_code == 1


# ---- properties


@st.composite
def archives(draw: st.DrawFn) -> tuple[Catalog, WalListing, list[WalSegment]]:
    """A complete archive of up to three generations, with its backups and every segment that they need."""
    start = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    histories: dict[int, TimelineHistory] = {}
    forks: tuple[Fork, ...] = ()
    numbers: dict[int, Numbers] = {}
    position = start
    for timeline, length in enumerate(lengths, 1):
        numbers[timeline] = Numbers(range(position, position + length))
        position += length
        if timeline < len(lengths):
            inside = draw(st.booleans())  # else at the border
            forks = (*forks, Fork(timeline, at(position + (0.5 if inside else 0))))
            histories[timeline + 1] = TimelineHistory(timeline + 1, forks)
    places = [(timeline, number) for timeline in sorted(numbers) for number in sorted(numbers[timeline])]
    # not in a fork's segment: a backup on the younger timeline would have to begin behind the fork
    free = [
        (timeline, number) for timeline, number in places if timeline == 1 or number - 1 in numbers[timeline]
    ]
    chosen = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True))
    when = datetime(2026, 11, 1, tzinfo=UTC)
    entries = [
        entry(f"backup-{timeline}-{number}", when + timedelta(hours=number), number, timeline=timeline)
        for timeline, number in chosen
    ]
    oldest = min(number for _, number in chosen)
    needed = [WalSegment(timeline, number, SIZE) for timeline, number in places if number >= oldest]
    return catalog(*entries), WalListing(SIZE, numbers, histories), needed


def without(found: WalListing, segment: WalSegment) -> WalListing:
    numbers = subtract(found.numbers, by_timeline([Run(segment, segment)]))
    return WalListing(SIZE, numbers, found.histories)


@given(archives(), st.data())
def test_a_complete_archive_has_no_gap_and_each_lost_segment_is_one(
    made: tuple[Catalog, WalListing, list[WalSegment]], data: st.DataObject
) -> None:
    backups, found, needed = made
    assert check_gaps(backups, found, None).ok
    newest = max(needed, key=lambda segment: segment.number)
    # the newest may be in flight for all that names can tell: the source's acknowledgement tells more
    facts = source(newest.number + 1.5, timeline=newest.timeline, archived=newest.name)
    assert check_gaps(backups, found, facts).ok
    lost = data.draw(st.sampled_from(needed))
    report = check_gaps(backups, without(found, lost), facts)
    assert gaps(report) == [lost.name]
    for window in report.windows:
        assert (window.end == lost.start) == (window.broken_by == lost)
