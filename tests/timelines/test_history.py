"""Timeline histories: which WAL, and which backup, lies on the way to a timeline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import ObjectDamaged
from pgproof.timelines.history import Fork, TimelineHistory, history_of, leaves
from pgproof.timelines.lsn import LSN
from pgproof.visible import visible

THIRD = TimelineHistory(3, (Fork(1, LSN(1000)), Fork(2, LSN(2000))))
# As PostgreSQL 17.10 writes it: recovery along timeline 2 stopped before 2 forked from 1, and was promoted.
EARLY = "1\t0/5011838\tafter LSN 0/50117F8\n\n\n2\t0/3026B60\tafter LSN 0/3026B20\n"


# ---- the file


@pytest.mark.parametrize(
    ("timeline", "text", "forks"),
    [
        (1, "", []),
        (
            2,
            "1\t0/3000158\tno recovery target specified\n",
            [(1, "0/3000158", "no recovery target specified")],
        ),
        (2, "1\t0/3000158\n", [(1, "0/3000158", "")]),
        (2, "1 0/3000158 before 2026-11-23 10:00:00+00", [(1, "0/3000158", "before 2026-11-23 10:00:00+00")]),
        (
            2,
            "1\t0/03000158\tPostgreSQL 19 prints the zeros\n",
            [(1, "0/3000158", "PostgreSQL 19 prints the zeros")],
        ),
        (
            4,
            "# written by hand\n\n  1\t0/A\tone\n\n2\t1/B\ttwo\r\n   # more\n3\tC/D0000000\tthree",
            [(1, "0/A", "one"), (2, "1/B", "two"), (3, "C/D0000000", "three")],
        ),
        (7, "1\t0/A\tx\n5\t0/B\ty\n", [(1, "0/A", "x"), (5, "0/B", "y")]),
        (2, '1\t0/A\tat restore point "release #5"\n', [(1, "0/A", 'at restore point "release #5"')]),
        (
            2,
            '1\t0/A\tat restore point "a\x85b\u2028c\x0cd"\n',
            [(1, "0/A", 'at restore point "a\x85b\u2028c\x0cd"')],
        ),
        (3, EARLY, [(1, "0/5011838", "after LSN 0/50117F8"), (2, "0/3026B60", "after LSN 0/3026B20")]),
        (0xFFFFFFFF, "4294967294\tFFFFFFFF/FFFFFFFF\tx", [(4294967294, "FFFFFFFF/FFFFFFFF", "x")]),
    ],
)
def test_history(timeline: int, text: str, forks: list[tuple[int, str, str]]) -> None:
    history = TimelineHistory.parse(timeline, text)
    assert history.timeline == timeline
    assert history.forks == tuple(Fork(number, LSN.parse(lsn), reason) for number, lsn, reason in forks)
    assert history.path == (*(number for number, _, _ in forks), timeline)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nonsense", "nonsense"),
        ("1", "1"),
        ("1\tno-lsn\tx", "1\tno-lsn\tx"),
        ("1\t0/123456789\tx", "1\t0/123456789\tx"),
        ("0/3000158\t1", "0/3000158\t1"),
        ("-1\t0/A\tx", "-1\t0/A\tx"),
        ("x1\t0/A", "x1\t0/A"),
        ("1\t0/A\tx\n1\t0/B\ty", "1\t0/B\ty"),
        ("2\t0/A\tx\n1\t0/B\ty", "1\t0/B\ty"),
        ("1\t0/A\tx\n\x00\x00\x00", "\x00\x00\x00"),
        ("\u0661\t0/A\tx", "\u0661\t0/A\tx"),
        ("\ufffd\ufffd(\ufffd", "\ufffd\ufffd(\ufffd"),
    ],
    ids=repr,
)
def test_history_bad(text: str, line: str) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        TimelineHistory.parse(9, text)
    assert str(caught.value) == visible(
        f'history of timeline 9 cannot be read\nDETAIL: The line is "{line}".'
    )


@pytest.mark.parametrize("last", [3, 4, 100])
def test_a_timeline_is_not_its_own_ancestor_bad(last: int) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        TimelineHistory.parse(3, f"1\t0/A\tx\n{last}\t0/B\ty\n")
    assert str(caught.value) == (
        f"history of timeline 3 cannot be read\nDETAIL: Its last ancestor is timeline {last}."
    )


# ---- where a backup may lie


@pytest.mark.parametrize(
    ("timeline", "lsn", "contained"),
    [
        (1, 0, True),
        (1, 999, True),
        (1, 1000, True),  # exactly at the fork: nothing of the other future is in it
        (1, 1001, False),
        (1, 5000, False),
        (2, 999, False),
        (2, 1000, True),
        (2, 1500, True),
        (2, 2000, True),
        (2, 2001, False),
        (3, 1999, False),
        (3, 2000, True),
        (3, 1 << 40, True),
        (4, 500, False),
        (4, 1 << 40, False),
    ],
)
def test_contains(timeline: int, lsn: int, contained: bool) -> None:
    assert THIRD.contains(timeline, lsn) is contained


def test_the_first_timeline_contains_everything_of_its_own() -> None:
    first = TimelineHistory(1)
    assert first.contains(1, 0)
    assert first.contains(1, 1 << 40)
    assert not first.contains(2, 1 << 40)


@pytest.mark.parametrize(
    ("lsn", "timeline"),
    [(0, 1), (999, 1), (1000, 2), (1001, 2), (1999, 2), (2000, 3), (2001, 3), (1 << 40, 3)],
)
def test_timeline_at(lsn: int, timeline: int) -> None:
    assert THIRD.timeline_at(lsn) == timeline


def test_the_first_timeline_is_everywhere_its_own() -> None:
    assert TimelineHistory(1).timeline_at(0) == TimelineHistory(1).timeline_at(1 << 40) == 1


@pytest.mark.parametrize(
    ("lsn", "timeline"),
    [("0/3026B5F", 1), ("0/3026B60", 3), ("0/4000120", 3), ("0/5011837", 3), ("0/5011838", 3), ("1/0", 3)],
)
def test_a_fork_before_an_earlier_fork_leaves_that_one_out(lsn: str, timeline: int) -> None:
    """Seen on PostgreSQL 17.10: a backup of timeline 1 up to 0/4000120 is refused for timeline 3."""
    history = TimelineHistory.parse(3, EARLY)
    position = LSN.parse(lsn)
    assert history.timeline_at(position) == timeline
    assert history.contains(1, position) is (position <= LSN.parse("0/3026B60"))
    assert not history.contains(2, position)
    assert history.contains(3, position) is (position >= LSN.parse("0/3026B60"))


@st.composite
def histories(draw: st.DrawFn) -> TimelineHistory:
    path = sorted(draw(st.sets(st.integers(1, 50), min_size=1, max_size=6)))
    forks = tuple(Fork(number, LSN(draw(st.integers(0, 100)))) for number in path[:-1])
    return TimelineHistory(path[-1], forks)


def point_in_history(history: TimelineHistory, lsn: int) -> int:
    """``tliOfPointInHistory`` of timeline.c, line by line: newest first, begin <= ptr < end."""
    begins = [0, *(fork.lsn for fork in history.forks)]
    ends = [*(fork.lsn for fork in history.forks), 1 << 64]
    for timeline, begin, end in reversed(list(zip(history.path, begins, ends, strict=True))):
        if begin <= lsn < end:
            return timeline
    raise AssertionError("timeline.c: should not happen")


@given(histories(), st.integers(0, 110))
def test_timeline_at_is_what_postgresql_computes(history: TimelineHistory, lsn: int) -> None:
    assert history.timeline_at(lsn) == point_in_history(history, lsn)


@given(histories(), st.integers(0, 110), st.integers(1, 51))
def test_a_backup_is_contained_when_its_last_byte_is_on_the_path(
    history: TimelineHistory, stop: int, timeline: int
) -> None:
    """PostgreSQL asks ``tliOfPointInHistory(minRecoveryPoint - 1)``; a stop LSN is exclusive too."""
    if stop and point_in_history(history, stop - 1) == timeline:
        assert history.contains(timeline, stop)
    elif history.contains(timeline, stop):  # no byte of its own is needed: it stops where its timeline begins
        begins = dict(zip(history.path, [0, *(fork.lsn for fork in history.forks)], strict=True))
        assert stop == begins[timeline]


@given(histories())
def test_what_is_printed_is_read_again(history: TimelineHistory) -> None:
    text = "".join(f"{fork.timeline}\t{fork.lsn}\t{fork.reason}\n" for fork in history.forks)
    assert TimelineHistory.parse(history.timeline, text) == history


# ---- many timelines


def test_a_timeline_without_a_history_has_no_ancestors() -> None:
    assert history_of(1, {}) == TimelineHistory(1)
    assert history_of(3, {3: THIRD}) is THIRD
    assert history_of(2, {3: THIRD}) == TimelineHistory(2)


SECOND = TimelineHistory(2, (Fork(1, LSN(1000)),))
OTHER = TimelineHistory(4, (Fork(1, LSN(500)),))


@pytest.mark.parametrize(
    ("timelines", "known", "expected"),
    [
        (set(), {}, []),
        ({1}, {}, [1]),
        ({1, 2}, {2: SECOND}, [2]),
        ({1}, {2: SECOND}, [2]),  # promoted, and nothing archived yet
        ({1, 2, 3}, {2: SECOND, 3: THIRD}, [3]),
        ({1, 2, 3, 4}, {2: SECOND, 3: THIRD, 4: OTHER}, [3, 4]),
        ({1, 4}, {4: OTHER}, [4]),
        ({1, 2}, {}, [1, 2]),  # the history of 2 is not archived: nobody knows that it continues 1
    ],
)
def test_leaves(timelines: set[int], known: dict[int, TimelineHistory], expected: list[int]) -> None:
    assert [history.timeline for history in leaves(timelines, known)] == expected
