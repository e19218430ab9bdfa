"""The stretches of each window: what is reached, missing, damaged, out of reach, expired, not archived yet."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgproof.timelines.history import Fork, TimelineHistory
from tasks.windows import SHOWN, Clock, Row, View, rows_of
from tests.windows.views import BEGIN, END, at, broken, gap, lsn, segment, view, window

FORK = TimelineHistory(2, (Fork(1, lsn(30.5), "promoted"),))


def stretches(row: Row) -> list[tuple[str, float, float]]:
    """Kind, and begin and end in minutes."""
    return [
        (s.kind.value, (s.begin - BEGIN) / timedelta(minutes=1), (s.end - BEGIN) / timedelta(minutes=1))
        for s in row.stretches
    ]


def only(found: View) -> Row:
    (row,), left_out = rows_of(found)
    assert left_out == 0
    return row


def test_a_complete_window() -> None:
    row = only(view(window(10)))
    assert stretches(row) == [("reach", 10, 60)]
    assert row.text == "0/A00000 to 0/3C00000, complete"
    assert not row.broken


def test_a_gap_and_what_is_behind_it() -> None:
    row = only(view(broken(10, 30), gaps=(gap(30, 32),)))
    assert stretches(row) == [("reach", 10, 30), ("gap", 30, 33), ("beyond", 33, 33)]
    assert row.stretches[1].label == f"{segment(30)} (3 segments)"
    assert row.text == f"0/A00000 to 0/1E00000, then {segment(30)} (3 segments) missing"


def test_what_another_backup_reaches_behind_the_gap_is_out_of_reach_for_this_one() -> None:
    rows, _ = rows_of(view(broken(10, 30), window(40), gaps=(gap(30),)))
    assert stretches(rows[0]) == [("reach", 10, 30), ("gap", 30, 31), ("beyond", 31, 60)]
    assert stretches(rows[1]) == [("reach", 40, 60)]


def test_a_gap_before_a_backup_is_none_of_its_own() -> None:
    rows, _ = rows_of(view(broken(10, 30), window(30.5, from_time=at(31)), gaps=(gap(29), gap(30))))
    assert [s.kind for s in rows[0].stretches] == ["reach", "gap", "beyond", "gap", "beyond"]
    assert rows[0].text.endswith(f"then {segment(29)} missing; 1 more behind it")


def test_damage_that_breaks_no_window() -> None:
    row = only(view(window(10), damaged=((segment(50).name, "CRC differs"),)))
    assert stretches(row) == [("reach", 10, 50), ("damage", 50, 51), ("beyond", 51, 60)]
    assert row.text == f"0/A00000 to 0/3C00000, then {segment(50)} damaged"


def test_damage_that_breaks_a_window_is_called_so() -> None:
    row = only(view(broken(10, 50), damaged=((segment(50).name, "CRC differs"),)))
    assert [s.kind for s in row.stretches] == ["reach", "damage", "beyond"]


def test_damage_whose_name_cannot_be_read_bad() -> None:
    row = only(view(window(10), damaged=(("<script>", "what is this"), ("0" * 24 + ".partial", "x"))))
    assert stretches(row) == [("reach", 10, 60)]


def test_expired_windows_end_in_grey_up_to_the_next_backup() -> None:
    rows, _ = rows_of(view(window(5, 6, expired=True), window(10)))
    assert stretches(rows[0]) == [("reach", 5, 6), ("expired", 6, 10)]
    assert rows[0].text == "0/500000 to 0/600000; what follows is expired"
    assert rows[0].expired and not rows[0].broken


def test_what_is_on_the_source_alone() -> None:
    row = only(view(window(10, 57), end=segment(56), newest_commit=at(57), rpo_seconds=180.0, insert=lsn(63)))
    assert stretches(row) == [("reach", 10, 57), ("flight", 57, 60)]


def test_what_was_received_of_an_unfinished_segment() -> None:
    known = {"newest_commit": at(58), "rpo_seconds": 120.0, "received": lsn(57.9), "insert": lsn(60)}
    row = only(view(window(10, 57), end=segment(56), **known))
    assert stretches(row) == [("reach", 10, 57), ("received", 57, 58), ("flight", 58, 60)]


def test_nothing_is_at_risk_while_the_source_is_idle() -> None:
    row = only(view(window(10, 57), end=segment(56), newest_commit=at(57), rpo_seconds=0.0))
    assert stretches(row) == [("reach", 10, 57)]


def test_without_times_of_the_ends_they_are_interpolated() -> None:
    rows, _ = rows_of(view(broken(0, 30, to_time=None), window(40, to_time=None), gaps=(gap(30),)))
    assert stretches(rows[0]) == [("reach", 0, 30), ("gap", 30, 31), ("beyond", 31, 60)]


class TestForks:
    def test_both_futures_of_a_backup(self) -> None:
        found = view(window(5, 40), window(5, 60, 2), paths=(TimelineHistory(1), FORK), end=segment(59, 2))
        old, new = rows_of(found)[0]
        assert (old.timeline, old.forks) == (1, ())
        assert (new.timeline, new.forks) == (2, ((FORK.forks[0], at(30.5)),))

    def test_a_backup_after_the_fork_does_not_cross_it(self) -> None:
        found = view(window(45, timeline=2), paths=(FORK,), end=segment(59, 2))
        assert only(found).forks == ()

    def test_a_gap_before_the_fork_breaks_both(self) -> None:
        found = view(
            broken(5, 20),
            window(5, 20, 2, broken_by=segment(20)),
            gaps=(gap(20),),
            paths=(TimelineHistory(1), FORK),
            end=segment(59, 2),
        )
        assert all(row.broken for row in rows_of(found)[0])

    def test_a_gap_after_the_fork_breaks_its_own_timeline_alone(self) -> None:
        found = view(
            broken(5, 35),
            window(5, 60, 2),
            gaps=(gap(35),),
            paths=(TimelineHistory(1), FORK),
            end=segment(59, 2),
        )
        assert [row.broken for row in rows_of(found)[0]] == [True, False]

    def test_the_segment_of_the_fork_itself_is_wanted_from_the_new_timeline(self) -> None:
        found = view(window(5, 60, 2), gaps=(gap(30, timeline=1), gap(30, timeline=2)), paths=(FORK,))
        (row,), _ = rows_of(found)
        assert [s.label for s in row.stretches if s.kind == "gap"] == [str(segment(30, 2))]


def test_a_clock_that_was_set_back_does_not_turn_time_round() -> None:
    clock = Clock.of([(lsn(10), at(10)), (lsn(20), at(5)), (lsn(30), at(30)), (lsn(40), None)])
    assert [clock.at(lsn(n)) for n in (5, 10, 15, 20, 25, 30, 50)] == [
        at(minute).timestamp() for minute in (10, 10, 10, 10, 20, 30, 30)
    ]


def test_too_many_rows_expired_ones_go_first_and_broken_ones_last() -> None:
    windows = [window(n / 10, n / 10, expired=True, backup=f"e{n:03}") for n in range(30)]
    windows += [broken(4 + n / 10, 50, backup=f"b{n:03}") for n in range(10)]
    windows += [window(52 + n / 10, backup=f"w{n:03}") for n in range(40)]
    rows, left_out = rows_of(view(*windows, gaps=(gap(50),)))
    kept = [row.backup for row in rows]
    assert (len(rows), left_out) == (SHOWN, 80 - SHOWN)
    assert kept == [f"b{n:03}" for n in range(10)] + [f"w{n:03}" for n in range(2, 40)]


@pytest.mark.parametrize("end", [None, segment(END - 1)])
def test_no_backup(end: object) -> None:
    assert rows_of(view(end=end)) == ([], 0)
