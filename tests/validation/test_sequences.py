"""Where a restored sequence may stand: the rule, and real servers that draw, alter and crash meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgproof.validation.catalogs.sequences import LOGGED_AHEAD, SequenceState, difference, unfit
from tests.servers.postgres import installed, running_source
from tests.validation.drilling import drill, meanwhile
from tests.validation.writers import repeated


def at(last: int | None, called: bool = True, **changes: Any) -> SequenceState:
    state = SequenceState("1", "public.s", True, "1/1/9", 1, False, last, called)
    return replace(state, **changes)


# before, after, restored: a fault, or none
RULE = [
    (at(1, False), at(1, False), at(1, False), ""),
    (at(1, False), at(1, False), at(33), "further than the source can have been, by 1"),
    (at(1), at(1), at(33), ""),  # what the first nextval writes
    (at(1), at(1), at(1, False), "set back: it would give out values again"),
    (at(100), at(100), at(99), "set back: it would give out values again"),
    (at(100), at(100), at(132), ""),
    (at(100), at(100), at(133), "further than the source can have been, by 1"),
    (at(100), at(150), at(182), ""),
    (at(-3, increment=-3), at(-3, increment=-3), at(-99, increment=-3), ""),
    (
        at(-3, increment=-3),
        at(-3, increment=-3),
        at(0, increment=-3),
        "set back: it would give out values again",
    ),
    (at(5), at(5), at(None, fault="broken"), "cannot be read in the restored cluster: broken"),
]


@pytest.mark.parametrize(("before", "after", "restored", "fault"), RULE, ids=range(len(RULE)))
def test_where_a_restored_sequence_may_stand(
    before: SequenceState, after: SequenceState, restored: SequenceState, fault: str
) -> None:
    assert unfit(before, after) == ""
    assert difference(before, after, restored) == fault


def test_a_sequence_after_a_crash_of_the_source_stands_where_wal_says() -> None:
    """The first nextval after each checkpoint writes WAL again; a crash skips what was logged ahead."""
    with running_source(17) as made:
        made.sql("CREATE SEQUENCE s; CREATE TABLE t (a int); SELECT nextval('s') FROM generate_series(1, 40)")
        made.backup()
        made.sql("SELECT nextval('s'); CHECKPOINT; SELECT nextval('s')")
        made.server.stop("immediate")
        made.server.start()
        made.server.wait_ready()
        assert made.sql("SELECT last_value FROM s")[0][0] == 42 + LOGGED_AHEAD
        found = drill(made, checked=False)
        assert found.proof.proven
        assert found.not_checked == {}


def test_sequences_that_are_altered_while_fenced_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_source(17) as made:
        made.sql("CREATE SEQUENCE back; CREATE SEQUENCE again; CREATE SEQUENCE gone; CREATE TABLE t (a int)")
        made.sql("CREATE UNLOGGED TABLE u (a serial); SELECT setval('back', 500)")
        made.backup()

        def change() -> None:
            made.sql("SELECT setval('back', 3); ALTER SEQUENCE again RESTART; DROP SEQUENCE gone")

        meanwhile(monkeypatch, change)
        found = drill(made, checked=False)
        altered = "it was altered, restarted or dropped while the source was fenced"
        assert found.not_checked == {
            "position of sequence public.back": "it was set back while the source was fenced",
            "position of sequence public.again": altered,
            "position of sequence public.gone": altered,
            "position of sequence public.u_a_seq": "unlogged: it starts again after recovery",
            "u": "unlogged: it comes back empty after recovery, without its 0 bytes",
        }
        assert found.proof.proven


@pytest.mark.parametrize("major", [15, 17, 18], ids=lambda major: f"pg{major}")
def test_sequences_that_never_stop_are_equal(major: int) -> None:
    """Ascending, descending and cycling ones with caches: the copy stands within what was logged ahead."""
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major) as made:
        made.sql(
            "CREATE SEQUENCE up CACHE 5; CREATE SEQUENCE down INCREMENT -2; CREATE SEQUENCE wheel MAXVALUE 500 "
            "CYCLE; CREATE TABLE t (a int)"
        )
        made.backup()
        drawn = ["SELECT nextval('up'), nextval('down'), nextval('wheel')", "INSERT INTO t VALUES (1)"]
        with repeated(made, [drawn] * 2, pause=0):
            found = drill(made, checked=False)
        assert [str(d) for kind in found.comparison.objects for d in kind.differences] == []
        cycles = "it cycles: any of its values can follow any other"
        assert found.not_checked == {"position of sequence public.wheel": cycles}
        assert found.proof.proven
