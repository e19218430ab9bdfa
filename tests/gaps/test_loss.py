"""Losses: which windows end too early, and whether any is left for what is written now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgproof.gaps.gap import Gap, GapReport, RecoveryWindow
from pgproof.gaps.loss import damaged_segments, losses, newest_is_lost, sentences
from pgproof.timelines.history import Fork, TimelineHistory
from tests.windows.views import broken, gap, lsn, segment, window

FORK = TimelineHistory(2, (Fork(1, lsn(30.5), "promoted"),))


def report(*windows: RecoveryWindow, gaps: tuple[Gap, ...] = (), timeline: int = 1) -> GapReport:
    paths = (TimelineHistory(1), FORK)
    return GapReport(60, 0, segment(0), segment(59, timeline), gaps, windows, paths=paths)


def lost(found: GapReport) -> list[tuple[str, str, bool]]:
    return [(loss.window.backup, loss.segment.name, loss.damaged) for loss in losses(found)]


A, B, C = "20261123T120500Z-full", "20261123T122000Z-full", "20261123T125500Z-full"


def test_nothing_is_lost() -> None:
    found = report(window(5), window(20))
    assert (losses(found), newest_is_lost(found)) == ([], False)


def test_the_windows_before_a_gap_are_lost_and_a_later_one_goes_on() -> None:
    found = report(broken(5, 30), broken(20, 30), window(55), gaps=(gap(30),))
    assert lost(found) == [(A, segment(30).name, False), (B, segment(30).name, False)]
    assert not newest_is_lost(found)
    assert sentences(losses(found)) == [
        f"The recovery windows of {A}, {B} on timeline 1 end at {segment(30)}, which is missing."
    ]


def test_no_window_reaches_what_is_written_now() -> None:
    assert newest_is_lost(report(broken(5, 30), broken(20, 30), gaps=(gap(30),)))


def test_damage_stops_a_recovery_like_a_gap() -> None:
    found = replace(report(window(5), broken(20, 30), gaps=(gap(30),)), damaged=((segment(25).name, "CRC"),))
    assert lost(found) == [(A, segment(25).name, True), (B, segment(25).name, True)]
    assert newest_is_lost(found)
    assert sentences(losses(found)[:1]) == [
        f"The recovery window of {A} on timeline 1 ends at {segment(25)}, which is damaged."
    ]


def test_a_sentence_names_five_and_counts_the_others() -> None:
    many = report(*(broken(n, 30, backup=f"b{n}") for n in range(8)), gaps=(gap(30),))
    (sentence,) = sentences(losses(many))
    assert sentence.startswith("The recovery windows of b0, b1, b2, b3, b4 and 3 more on timeline 1 end at ")


def test_damage_before_a_backup_is_none_of_its_own() -> None:
    found = replace(report(window(5), window(55)), damaged=((segment(25).name, "CRC"),))
    assert lost(found) == [(A, segment(25).name, True)]
    assert not newest_is_lost(found)


def test_an_expired_window_reaches_nothing_new_and_is_no_loss() -> None:
    found = report(window(5, 6, expired=True), broken(20, 30), gaps=(gap(30),))
    assert lost(found) == [(B, segment(30).name, False)]
    assert newest_is_lost(found)


def test_a_timeline_that_no_backup_leads_to() -> None:
    found = report(window(5, 40), timeline=3)  # its history file is missing, say
    assert losses(found) == []
    assert newest_is_lost(found)


def test_the_other_future_of_a_fork_does_not_count() -> None:
    found = report(broken(5, 40), window(5, timeline=2), gaps=(gap(40),), timeline=2)
    assert lost(found) == [(A, segment(40).name, False)]
    assert not newest_is_lost(found)
    old_is_whole = report(window(5, 40), broken(5, 45, 2), gaps=(gap(45, timeline=2),), timeline=2)
    assert newest_is_lost(old_is_whole)


@pytest.mark.parametrize("found", [report(), replace(report(window(5)), newest=None)])
def test_without_a_backup_or_without_wal_nothing_was_there_to_lose(found: GapReport) -> None:
    assert not newest_is_lost(found)


def test_names_that_are_no_segments_bad() -> None:
    found = replace(report(window(5)), damaged=(("nonsense", "x"), (segment(9).name, "y")))
    assert damaged_segments(found) == [segment(9)]
