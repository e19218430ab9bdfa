"""Asking one index of the opened copy for every row of its table, and a fresh index where it does not answer.

The other indexes of the table are hidden meanwhile (``pg_index.indisvalid``), and EXPLAIN must show that the index is
used. What an index is accused of, a fresh one with the same definition is asked for, too: only where that one answers
is it damage. So no peculiarity of an operator, a value or an expression can accuse an index.

Expressions of indexes are functions of the source's users: they run in a session of a role that may only read, never
as superuser. A fresh index is built by PostgreSQL as the table's owner (``index_build``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from pgproof.postgres.connection import set_all
from pgproof.postgres.faults import said_by
from pgproof.validation.checks import lookup
from pgproof.validation.checks.inspection import ENDED, tells_of_damage
from pgproof.validation.checks.lookup import Index

MOST_ROWS = 5_000_000  # of a table, that are read; of a larger one, a sample of its blocks
LONG = 60.0  # seconds after which a lookup may be without an end, where it was expected to take far less
_GRACE = 30.0  # seconds that a session has, to end what it was told to
_PATIENCE = 50  # times the time that the last lookups took
_BATCH, _MOST_KEYS = 1.0, 200_000  # seconds that some lookups should take, and keys at once
_CRASH = "57P02"  # told to those whose server was ended by another session (quickdie)
_TWICE, _KEPT = "twice", "kept"
_SCANS = {"Index Scan", "Bitmap Heap Scan"}
_UNREADABLE = "it cannot be read"
_WRONG = {
    "missing": "is not found by its own value",
    "wrong": "is found by a value that it has not",
    "twice": "is in it twice",
    "otherwise": "is in it with another value",
}
_DOUBTFUL = (_WRONG["missing"], _WRONG["wrong"])


class NotAsked(Exception):
    """An index, or what is left of it, cannot be asked, through no fault of its own."""


@dataclass
class Answers:
    """What one index answered.

    Args:
        findings: what is wrong with it.
        not_asked: what could not be asked, and why.
    """

    findings: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Lookups:
    """Some lookups: of a pattern, the numbers from first to last; or the index from end to end."""

    pattern: str
    first: int = 0
    last: int = 0


class Asking:
    """One index, while it is asked.

    Args:
        admin: a superuser's connection that searches no schema but pg_catalog.
        session: of a role that may read.
        index: to ask.
        seconds: that it may take.

    ``stuck`` says afterwards whether the session was given up and its backend goes on without an end, as one does that
    follows a chain of pages with a lock in its hands (``_hash_readpage``).
    """

    def __init__(
        self, admin: psycopg.Connection, session: psycopg.Connection, index: Index, seconds: float
    ) -> None:
        self._admin, self._session, self._index = admin, session, index
        self._deadline, self._seconds = time.monotonic() + seconds, seconds
        self._valid = self._valid_indexes()
        self._fresh, self._name = 0, f"pgproof fresh {index.oid}"
        self._shown = ""
        self._reading = 0.0
        self._whole = True
        self._told_of_crash = False
        self.stuck = False
        self.answers = Answers()
        session.add_notice_handler(self._note)

    def run(self) -> None:
        """Ask for everything; what is found is in ``answers``."""
        try:
            patterns = self._take()
            self._show_only(self._index.oid, self._index.name)
            for pattern, keys in patterns.items():
                self._ask_all(pattern, keys)
            for whole in self._wholes():
                if not self.answers.findings and not self._judge(_Lookups(whole), self._reading):
                    raise NotAsked(self._over("it was not read from end to end"))
        except NotAsked as reason:
            self.answers.not_asked.append(str(reason))
        except psycopg.DatabaseError as error:
            if not self._session.closed:
                self.answers.not_asked.append(f"it could not be asked: {said_by(error)}")
            elif self.stuck:
                self.answers.findings.append("a lookup does not end, nor can it be stopped")
            elif self._told_of_crash:
                self.answers.not_asked.append("the copy had ended")
            else:
                self.answers.findings.append(f"{ENDED}: {said_by(error)}")
        finally:
            with contextlib.suppress(psycopg.Error):
                self._restore()

    # ---- what is asked

    def _take(self) -> Mapping[str, int]:
        """Read the table; how many different keys each pattern has."""
        started = time.monotonic()
        per_cent = min(100.0, 100.0 * MOST_ROWS / max(self._index.rows, 1.0))
        self._whole = per_cent == 100
        if not self._whole:
            self.answers.not_asked.append(
                f"rows of {100 - per_cent:.3g} % of its table's blocks: more than {MOST_ROWS:,} are not read"
            )
        self._set(lookup.READ)
        try:
            self._execute(lookup.take(self._index, per_cent), self._left())
        except psycopg.errors.QueryCanceled as error:
            raise NotAsked(self._over("its table was not read")) from error
        self._reading = time.monotonic() - started
        rows = self._execute(lookup.taken(), self._left())
        self._execute(lookup.take_index(), max(self._left(), LONG))
        if strange := sum(count for pattern, _, count in rows if "x" in pattern):
            self.answers.not_asked.append(f"{strange:,} rows, whose values do not find themselves")
        for number, key in enumerate(self._index.keys, 1):
            if key.operator is None:
                self.answers.not_asked.append(
                    f"column {number}: no operator of its class finds a value by itself"
                )
        return {pattern: keys for pattern, keys, _ in rows if set(pattern) & set("kn")}

    def _wholes(self) -> list[str]:
        """How the index can be read from end to end."""
        if not self._index.listed:
            return []
        return (
            [_TWICE, _KEPT]
            if self._index.returns and self._whole and self._index.keys[0].operator
            else [_TWICE]
        )

    def _ask_all(self, pattern: str, keys: int) -> None:
        """Ask for each key of a pattern, few at first; the first wrong answers are enough."""
        first, size, expected = 1, 1, self._reading
        while first <= keys and not self.answers.findings:
            last = min(first + size - 1, keys)
            if self._left() <= 0:
                raise NotAsked(self._over(f"{first - 1:,} of {keys:,} different keys were asked for"))
            started = time.monotonic()
            if not self._judge(_Lookups(pattern, first, last), expected):
                raise NotAsked(self._over(f"{first - 1:,} of {keys:,} different keys were asked for"))
            each = max(time.monotonic() - started, 0.001) / (last - first + 1)
            first = last + 1
            size = max(1, min(4 * size, int(_BATCH / each), _MOST_KEYS))
            expected = each * size

    def _judge(self, lookups: _Lookups, expected: float) -> bool:
        """Ask, and where the answer is wrong, ask a fresh index; whether there was an answer."""
        allowed = max(LONG, _PATIENCE * expected)
        answer = self._answer(lookups, min(allowed, self._left()))
        if answer is None and self._left() <= 0:
            return False
        if answer is None:
            self._judge_endless(lookups, allowed)
        elif answer and (wrong := answer - self._fresh_answer(lookups, self._left())):
            if any(text.endswith(_DOUBTFUL) for text in wrong):
                self._refuse_doubt()
            self.answers.findings += sorted(wrong)
        return True

    def _refuse_doubt(self) -> None:
        """Accuse no index of rows that it does not find, or finds wrongly, where that may not be damage.

        A function in another language than C, or a text search configuration, may answer otherwise here than on the
        source, whatever it is declared to be. Comparisons with NaN are false in ``rtree_internal_consistent`` and in
        btree_gist, so that a whole page is not found any more; which one depends on the order that rows came in.
        """
        if self._index.doubts:
            raise NotAsked(
                f"its answers are wrong, or {self._index.doubts} answers otherwise here than on the source"
            )
        self._set(lookup.READ)
        ((has_nan,),) = self._execute(lookup.has_nan(self._index), max(self._left(), LONG))
        if has_nan:
            raise NotAsked("its answers depend on the order that rows came in: a key has NaN")

    def _judge_endless(self, lookups: _Lookups, allowed: float) -> None:
        """A page that points back to itself keeps a lookup without an end; so does nothing else, twice."""
        self._fresh_answer(lookups, allowed / 10)
        if self._answer(lookups, min(allowed, self._left())) is None:
            if self._left() <= 0:
                raise NotAsked(self._over("a lookup had not ended"))
            self.answers.findings.append(
                f"a lookup does not end: not in {allowed:.0f} s, and in a fresh index in {allowed / 10:.0f} s"
            )

    def _fresh_answer(self, lookups: _Lookups, seconds: float) -> frozenset[str]:
        """What a fresh index with the same definition is accused of."""
        try:
            fresh = self._fresh or self._build(max(self._left(), LONG))
            self._show_only(fresh, self._name)
            answer = self._answer(lookups, max(seconds, LONG / 10))
            self._show_only(self._index.oid, self._index.name)
        except psycopg.DatabaseError as error:
            if self._session.closed:
                raise
            raise NotAsked(
                f"its answer is wrong, and no fresh index can be asked: {said_by(error)}"
            ) from error
        if answer is None:
            raise NotAsked("a lookup had not ended, and had not in a fresh index")
        if any(text.startswith(_UNREADABLE) for text in answer):
            raise NotAsked("it cannot be read, and neither can a fresh index")
        return answer

    # ---- how it is asked

    def _answer(self, lookups: _Lookups, seconds: float) -> frozenset[str] | None:
        """What is wrong with an answer; nothing where all is right, and None where it did not end in time."""
        try:
            if lookups.pattern == _TWICE:
                self._set(lookup.LIST)
                query = lookup.listed_twice(self._index)
            elif lookups.pattern == _KEPT:
                self._set(lookup.KEPT)
                query = lookup.kept_otherwise(self._index)
            else:
                query = self._prepare(lookups)
            self._require_plan(query, {"Index Only Scan"} if lookups.pattern == _KEPT else _SCANS)
            rows = self._execute(query, seconds)
        except psycopg.errors.QueryCanceled:
            return None
        except psycopg.DatabaseError as error:
            if self._session.closed or not tells_of_damage(error):
                raise
            return frozenset({f"{_UNREADABLE}: {said_by(error)}"})
        return frozenset(f"row {at} {_WRONG[what]}" for at, what in rows)

    def _prepare(self, lookups: _Lookups) -> sql.Composed:
        self._set(lookup.ASK)
        self._execute(sql.SQL("DEALLOCATE ALL"), LONG)  # a plan would outlive its index
        asking = sql.SQL("PREPARE ask(bigint, bigint) AS ") + lookup.ask(self._index, lookups.pattern)
        self._execute(asking, LONG)
        return sql.SQL("EXECUTE ask({}, {})").format(lookups.first, lookups.last)

    def _require_plan(self, query: sql.Composed, wanted: set[str]) -> None:
        """Refuse a plan that does not read the table through the index, and through nothing else."""
        plan = self._execute(sql.SQL("EXPLAIN (FORMAT JSON, COSTS OFF) ") + query, LONG)[0][0]
        nodes = list(_nodes(plan[0]["Plan"]))
        used = {node["Index Name"] for node in nodes if "Index Name" in node} - {"pgproof numbers"}
        scans = {node["Node Type"] for node in nodes if node.get("Relation Name") == self._index.relation}
        if used != {self._shown} or not scans <= wanted:
            raise NotAsked("PostgreSQL does not use it to find its rows")

    def _execute(self, query: sql.SQL | sql.Composed, seconds: float) -> list[Any]:
        """Run a query, and end the connection where the server does not end it in time."""
        with self._watched(seconds):
            self._set({"statement_timeout": f"{int(max(seconds, 0.001) * 1000) + 1}ms"})
            cursor = self._session.execute(query)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(max(seconds, 0) + _GRACE, self._cut)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        """Give up a session that does not answer, nor end."""
        self.stuck = True
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self._session.fileno())) as end,
        ):
            end.shutdown(socket.SHUT_RDWR)

    def _set(self, settings: Mapping[str, str]) -> None:
        with self._watched(LONG):
            set_all(self._session, settings)

    # ---- which index answers

    def _valid_indexes(self) -> list[int]:
        query = "SELECT indexrelid::bigint FROM pg_index WHERE indrelid = %s AND indisvalid"
        return [oid for (oid,) in self._admin.execute(query, (self._index.table,))]

    def _show_only(self, oid: int, name: str) -> None:
        """Let PostgreSQL know of one index of the table only.

        ``indcheckxmin`` asks for a snapshot later than the index: no session of the copy has another.
        """
        self._admin.execute(
            "UPDATE pg_index SET indisvalid = indexrelid = %s, indcheckxmin = false WHERE indexrelid = ANY (%s)",
            (oid, [*self._valid, *([self._fresh] if self._fresh else [])]),
        )
        self._shown = name

    def _build(self, seconds: float) -> int:
        """Make a fresh index with the same definition; its oid."""
        schema, name = sql.Identifier(self._index.schema), sql.Identifier(self._name)
        definition = sql.SQL(self._index.definition)
        timeout = f"{int(seconds * 1000) + 1}ms"
        self._admin.execute("SELECT set_config('statement_timeout', %s, false)", (timeout,))
        self._admin.execute(sql.SQL("CREATE INDEX {}").format(name) + definition)
        self._admin.execute("SELECT set_config('statement_timeout', '0', false)")
        path = sql.SQL("{}.{}").format(schema, name).as_string()
        row: Any = self._admin.execute("SELECT %s::regclass::oid::bigint", (path,)).fetchone()
        self._fresh = row[0]
        return self._fresh

    def _restore(self) -> None:
        """Leave the copy's indexes as they were."""
        self._admin.execute(
            "UPDATE pg_index SET indisvalid = true WHERE indexrelid = ANY (%s)", (self._valid,)
        )
        if self._fresh:
            schema, name = sql.Identifier(self._index.schema), sql.Identifier(self._name)
            self._admin.execute(sql.SQL("DROP INDEX {}.{}").format(schema, name))

    # ---- how it ended

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _over(self, done: str) -> str:
        return f"{done} when its {self._seconds:.0f} s were over"

    def _note(self, said: psycopg.errors.Diagnostic) -> None:
        self._told_of_crash |= said.sqlstate == _CRASH


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)
