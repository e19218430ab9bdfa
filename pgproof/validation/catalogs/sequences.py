"""A sequence's state is what its next value depends on; it is no part of any transaction.

``nextval`` writes WAL for 32 values ahead (``SEQ_LOG_VALS`` in sequence.c), and before anybody can see a value. So
a recovered sequence stands between where it was before the cut, and 32 steps beyond where it was after the cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgproof.postgres.faults import said_by, shortage, tells_of_damage
from pgproof.validation.fences.fence import DAMAGED

LOGGED_AHEAD = 32  # SEQ_LOG_VALS
LOCKED = "locked by a transaction that had not ended"
UNREAD = "it could not be read: "  # how a fault begins that says nothing of the sequence
_AT_ONCE = 100  # read by one statement: each is locked for as long as that takes

_LIST = """
SELECT c.oid::text, format('%I.%I', n.nspname, c.relname), n.nspname::text, c.relname::text, c.relpersistence::text,
       concat_ws('/', c.relfilenode, s.seqmin, s.seqmax), s.seqincrement, s.seqcycle
  FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence <> 't' ORDER BY c.oid"""


@dataclass(frozen=True, slots=True)
class SequenceState:
    """One sequence at one moment.

    Args:
        key: its OID, as text.
        title: its name for people.
        logged: whether WAL is written for it; an unlogged one starts again after recovery.
        shape: file and limits; another one means that it was altered or restarted.
        increment: negative for a descending one.
        cycles: whether it starts again at its end.
        last: last_value; None when it could not be read.
        called: is_called, whether ``last`` was given out.
        fault: why it could not be read.
    """

    key: str
    title: str
    logged: bool
    shape: str
    increment: int
    cycles: bool
    last: int | None = None
    called: bool = False
    fault: str = ""

    @property
    def position(self) -> int:
        """The last value that was given out; one step before the first when none was."""
        return (self.last or 0) - (0 if self.called else self.increment)

    def steps_to(self, other: SequenceState) -> int:
        """How many steps another state is ahead of this one; negative when it is behind."""
        return (other.position - self.position) // self.increment

    def __str__(self) -> str:
        return f"{self.last}{'' if self.called else ' (not called)'}"


def read_sequences(connection: psycopg.Connection) -> list[SequenceState]:
    """The state of every sequence of a database that is not temporary.

    Args:
        connection: outside a transaction, so that no lock stays.
    """
    found: list[SequenceState] = []
    rows = connection.execute(_LIST).fetchall()
    for start in range(0, len(rows), _AT_ONCE):
        chunk = rows[start : start + _AT_ONCE]
        try:
            states = _states(connection, [(row[0], row[2], row[3]) for row in chunk if row[4] == "p"])
            faults: dict[str, str] = {}
        except psycopg.Error:  # one of them was dropped or is locked
            states, faults = _one_by_one(connection, chunk)
        for key, title, _, _, persistence, shape, increment, cycles in chunk:
            last, called = states.get(key, (None, False))
            found.append(
                SequenceState(
                    *(key, title, persistence == "p", shape, increment, cycles),
                    last,
                    called,
                    faults.get(key, ""),
                )
            )
    return found


def _states(
    connection: psycopg.Connection, names: Sequence[tuple[str, str, str]]
) -> dict[str, tuple[int, bool]]:
    if not names:
        return {}
    queries = [
        sql.SQL("SELECT {}::text, last_value, is_called FROM {}").format(key, sql.Identifier(schema, name))
        for key, schema, name in names
    ]
    rows = connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall()
    return {key: (last, called) for key, last, called in rows}


def _one_by_one(
    connection: psycopg.Connection, rows: Sequence[tuple[str, ...]]
) -> tuple[dict[str, tuple[int, bool]], dict[str, str]]:
    states: dict[str, tuple[int, bool]] = {}
    faults: dict[str, str] = {}
    connection.execute("SELECT set_config('lock_timeout', '100ms', false)")
    for row in rows:
        if row[4] != "p":  # no standby can read an unlogged one
            continue
        try:
            states |= _states(connection, [(row[0], row[2], row[3])])
        except psycopg.Error as error:
            if connection.closed:
                raise
            faults[row[0]] = _fault(error)
    with contextlib.suppress(psycopg.Error):
        connection.execute("SELECT set_config('lock_timeout', '10s', false)")
    return states, faults


def _fault(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return LOCKED
    if shortage(error) or isinstance(error, psycopg.errors.QueryCanceled):
        return f"{UNREAD}{shortage(error) or said_by(error)}"
    return f"{DAMAGED if tells_of_damage(error) else ''}{said_by(error)}"


def unfit(before: SequenceState, after: SequenceState | None) -> str:
    """Why the source's two states say nothing of the one at the cut; empty when they do.

    Args:
        before: read before the cut.
        after: read after it; None when the sequence was gone then.
    """
    if not before.logged:
        return "unlogged: it starts again after recovery"
    if before.cycles:
        return "it cycles: any of its values can follow any other"
    if after is None or before.shape != after.shape or before.increment != after.increment:
        return "it was altered, restarted or dropped while the source was fenced"
    if before.fault or after.fault:
        return before.fault or after.fault
    if before.steps_to(after) < 0:
        return "it was set back while the source was fenced"
    return ""


def difference(before: SequenceState, after: SequenceState, restored: SequenceState) -> str:
    """How a restored sequence is wrong; empty when it is right.

    Args:
        before, after: of the source, before and after the cut, and fit for it.
        restored: of the copy at the cut.
    """
    if restored.fault:
        return f"cannot be read in the restored cluster: {restored.fault}"
    steps, most = before.steps_to(restored), before.steps_to(after) + LOGGED_AHEAD
    if steps < 0:
        return "set back: it would give out values again"
    if steps > most:
        return f"further than the source can have been, by {steps - most}"
    return ""
