"""Structure of tables and b-tree indexes, checked in the opened copy with PostgreSQL's extension amcheck.

What pg_amcheck does, with a deadline and a result for each relation: ``verify_heapam`` of every table, and
``bt_index_check`` of every b-tree with ``heapallindexed``, which finds the row that an index lost.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from pgproof.config import DrillConfig
from pgproof.postgres.connection import said_by
from pgproof.validation.check import CheckResult, not_possible, shortened
from pgproof.validation.fence import NotChecked

NAME = "amcheck"
_LOCK_TIMEOUT = "500ms"  # only a prepared transaction still holds locks in the copy
_MOST_OF_ONE = 5  # findings of one table
# SQLSTATE classes that tell of damage: internal error (and corrupted data or index), and operating system
_DAMAGE = ("XX", "58")
_COLLATION = """
SELECT coalesce(datcollversion, ''), coalesce(pg_database_collation_actual_version(oid), '')
FROM pg_database WHERE datname = current_database()
"""
_TABLES = """
SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't'
ORDER BY c.relpages DESC, c.oid
"""
# 950 and 951 are the collations C and POSIX, whose order no library decides
_INDEXES = """
SELECT c.oid, c.oid::regclass::text, a.amname, i.indisvalid AND i.indisready,
       EXISTS (SELECT FROM unnest(i.indcollation) AS used(oid) WHERE used.oid NOT IN (0, 950, 951))
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE c.relkind = 'i' AND c.relpersistence <> 't'
ORDER BY c.relpages DESC, c.oid
"""


_INDEX_CHECK = "SELECT {}.bt_index_check({}::regclass, heapallindexed => true)"
_PARENT_CHECK = "SELECT {}.bt_index_parent_check({}::regclass, heapallindexed => true, rootdescend => true)"


@dataclass(frozen=True)
class _Relation:
    title: str
    query: sql.Composed


@dataclass
class _Inspection:
    """One database, while it is checked."""

    drill: DrillConfig
    database: str
    deadline: float
    findings: list[str] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)
    checked: int = 0

    def leave_out(self, what: str, reason: str) -> None:
        self.not_checked.append(NotChecked(self.database, what, reason))


def check_relations(drill: DrillConfig, dsn: str, database: str) -> CheckResult:
    """Check every table and every b-tree of a database.

    Indexes of other kinds are named as not checked, and so are invalid ones, which are invalid in the source, too:
    no replay makes an index invalid.

    Args:
        drill: settings.
        dsn: of the database in the opened copy, for a superuser.
        database: its name.
    """
    started = time.monotonic()
    inspection = _Inspection(drill, database, started + drill.check_timeout)
    try:
        with contextlib.ExitStack() as stack:
            first = _connect(dsn, stack)
            if reason := _create_extension(first):
                return not_possible(NAME, database, reason, time.monotonic() - started)
            relations = _relations(first, inspection)
            idle = [first, *(_connect(dsn, stack) for _ in range(drill.workers - 1))]
            _check_all(inspection, relations, idle)
    except psycopg.Error as error:
        inspection.findings.append(f"the copy does not answer: {' '.join(str(error).split())}")
    return CheckResult(
        NAME,
        database,
        inspection.checked,
        time.monotonic() - started,
        shortened(sorted(inspection.findings)),
        tuple(inspection.not_checked),
    )


def _connect(dsn: str, stack: contextlib.ExitStack) -> psycopg.Connection:
    connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    # names are shown with their schema when no schema is searched
    for name, value in {"lock_timeout": _LOCK_TIMEOUT, "search_path": "pg_catalog"}.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    return connection


def _create_extension(connection: psycopg.Connection) -> str:
    """Make the extension in the copy; why it cannot be made, empty when it was.

    The source's event triggers are switched off first: they would run for what is made here.
    """
    version = connection.info.server_version // 10000
    known = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'amcheck'").fetchone()
    if known is None:
        return (
            "the extension amcheck is not installed on this machine; "
            f"apt-get install postgresql-{version}, or dnf install postgresql{version}-contrib"
        )
    try:
        for (name,) in connection.execute("SELECT evtname FROM pg_event_trigger").fetchall():
            connection.execute(sql.SQL("ALTER EVENT TRIGGER {} DISABLE").format(sql.Identifier(name)))
        connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA pg_catalog")
        connection.execute("ALTER EXTENSION amcheck UPDATE")
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        return f"the extension amcheck cannot be created in the copy: {_reason(error)}"
    return ""


def _relations(connection: psycopg.Connection, inspection: _Inspection) -> list[_Relation]:
    """What is checked: tables first, the largest first of each kind."""
    row: Any = connection.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
        "WHERE e.extname = 'amcheck'"
    ).fetchone()
    schema = sql.Identifier(row[0])
    heap = sql.SQL(
        "SELECT format('block %s, row %s: %s', blkno, offnum, msg) FROM {}.verify_heapam({}::regclass) LIMIT {}"
    )
    most = sql.Literal(_MOST_OF_ONE)
    tables = [
        _Relation(title, heap.format(schema, sql.Literal(oid), most))
        for oid, title in connection.execute(_TABLES)
    ]
    btree = sql.SQL(_PARENT_CHECK if inspection.drill.parent_check else _INDEX_CHECK)
    row = connection.execute(_COLLATION).fetchone()
    indexes = []
    for oid, title, kind, valid, collated in connection.execute(_INDEXES):
        if not valid:
            inspection.leave_out(title, "an index that is invalid, in the source as well")
        elif kind != "btree":
            inspection.leave_out(title, f"a {kind} index: amcheck checks b-trees")
        elif collated and row[0] != row[1]:
            reason = f"the source sorts by collation version {row[0]}, this machine by {row[1]}"
            inspection.leave_out(title, reason)
        else:
            indexes.append(_Relation(title, btree.format(schema, sql.Literal(oid))))
    return tables + indexes


def _check_all(inspection: _Inspection, relations: list[_Relation], idle: list[psycopg.Connection]) -> None:
    def one(relation: _Relation) -> None:
        connection = idle.pop()
        try:
            _check_one(inspection, connection, relation)
        finally:
            idle.append(connection)

    with ThreadPoolExecutor(len(idle), NAME) as pool:
        list(pool.map(one, relations))


def _check_one(inspection: _Inspection, connection: psycopg.Connection, relation: _Relation) -> None:
    left = inspection.deadline - time.monotonic()
    if left <= 0 or connection.closed:
        over = f"drill.check_timeout of {inspection.drill.check_timeout} s is over"
        return inspection.leave_out(relation.title, over if left <= 0 else "the copy had ended")
    try:
        connection.execute(
            "SELECT set_config('statement_timeout', %s, false)", (f"{int(left * 1000) + 1}ms",)
        )
        found = [str(row[0]) for row in connection.execute(relation.query) if row[0]]
    except psycopg.DatabaseError as error:
        if not connection.closed and not str(error.sqlstate or "").startswith(_DAMAGE):
            return inspection.leave_out(relation.title, _reason(error))
        found = [_reason(error)]
    inspection.checked += 1
    inspection.findings += [f"{relation.title}: {finding}" for finding in found]
    return None


def _reason(error: psycopg.Error) -> str:
    primary = said_by(error)
    detail = error.diag.message_detail
    return f"{primary}: {' '.join(detail.split())}" if detail else primary
