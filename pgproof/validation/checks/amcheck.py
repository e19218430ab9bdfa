"""Structure of tables and indexes, checked in the opened copy with PostgreSQL's extensions amcheck and pg_visibility.

What pg_amcheck does, with a deadline and a result for each relation: ``verify_heapam`` of every table, and
``bt_index_parent_check`` of every b-tree with ``heapallindexed``, which finds the row that an index lost. Of eight
bits flipped in upper levels of b-trees, ``bt_index_check`` found three, and this one all. amcheck believes the
visibility map; ``pg_check_visible`` and ``pg_check_frozen`` ask whether it is right.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgproof.config import DrillConfig
from pgproof.postgres.connection import set_all
from pgproof.postgres.faults import said_by, shortage
from pgproof.postgres.versions import GIN_CHECK
from pgproof.validation.catalogs.settings import settings_of_roles
from pgproof.validation.checks.check import CheckResult, not_possible
from pgproof.validation.checks.elsewhere import DOUBTS, FOREIGN_ORDER, ORDER_DOUBTS
from pgproof.validation.checks.inspection import (
    ENDED,
    MOST_OF_ONE,
    UNTIL_LOGGED,
    Inspection,
    opened,
    tells_of_damage,
)

NAME = "amcheck"
VISIBILITY = "pg_visibility"
_TABLES = """
SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't'
ORDER BY c.relpages DESC, c.oid
"""
_INDEXES = f"""
SELECT c.oid, c.oid::regclass::text, a.amname, i.indisvalid AND i.indisready,
       {FOREIGN_ORDER}, {DOUBTS}, {ORDER_DOUBTS}
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE c.relkind = 'i' AND c.relpersistence <> 't'
ORDER BY c.relpages DESC, c.oid
"""


_TABLE_CHECK = """
SELECT format('block %s, row %s: %s', blkno, offnum, msg) FROM {}.verify_heapam({}::regclass) LIMIT {}
"""
_MAP_CHECK = """
SELECT format('row %s: the visibility map says that everybody sees it, and that is not so', t_ctid)
  FROM {schema}.pg_check_visible({table}::regclass) AS t_ctid
 UNION ALL
SELECT format('row %s: the visibility map says that it is frozen, and it is not', t_ctid)
  FROM {schema}.pg_check_frozen({table}::regclass) AS t_ctid
 LIMIT {most}
"""
_GIN_CHECK = "SELECT {}.gin_index_check({}::regclass)"
_INDEX_CHECK = "SELECT {}.bt_index_check({}::regclass, heapallindexed => {})"
_PARENT_CHECK = "SELECT {}.bt_index_parent_check({}::regclass, heapallindexed => {}, rootdescend => {})"
_LACKS = "lacks matching index tuple"  # of heapallindexed, which asks the functions of an index again


@dataclass(frozen=True)
class _Relation:
    """What is checked.

    Args:
        title: as shown.
        query: that checks it.
        weaker: for where the lock that the query takes cannot be had.
        alone: the query without a look at the table's rows.
        doubts: functions that decide what it has of a row, and may answer otherwise here.
        order_doubts: the same of its order.
    """

    title: str
    query: sql.Composed
    weaker: _Relation | None = None
    alone: _Relation | None = None
    doubts: str = ""
    order_doubts: str = ""

    def doubt(self, found: str) -> str:
        """Why a finding may be none; empty when it is one."""
        doubts = ", ".join(filter(None, (self.doubts if _LACKS in found else "", self.order_doubts)))
        return f"{found}, or {doubts} answers otherwise here than on the source" if doubts else ""


def check_relations(drill: DrillConfig, dsn: str, database: str) -> CheckResult:
    """Check every table with its visibility map, every b-tree, and from PostgreSQL 18 on every GIN index of a database.

    Indexes of other kinds are named as not checked, and so are invalid ones, which are invalid in the source, too:
    no replay makes an index invalid.

    Args:
        drill: settings.
        dsn: of the database in the opened copy, for a superuser.
        database: its name.
    """
    inspection = Inspection(drill, database)
    with inspection.answering(), contextlib.ExitStack() as stack:
        first = stack.enter_context(opened(dsn))
        if reason := _create_extension(first, NAME):
            return not_possible(NAME, database, reason, time.monotonic() - inspection.started)
        relations = _relations(first, inspection)
        if reason := _create_extension(first, VISIBILITY):
            inspection.leave_out("visibility maps", reason)
        else:
            relations += _maps(first)
        idle = [first, *(stack.enter_context(opened(dsn)) for _ in range(drill.workers - 1))]
        _check_all(inspection, relations, idle)
    return inspection.result(NAME)


def _create_extension(connection: psycopg.Connection, extension: str) -> str:
    """Make an extension in the copy; why it cannot be made, empty when it was.

    The source's event triggers are switched off first: they would run for what is made here.
    """
    version = connection.info.server_version // 10000
    known = connection.execute("SELECT FROM pg_available_extensions WHERE name = %s", (extension,)).fetchone()
    if known is None:
        return (
            f"the extension {extension} is not installed on this machine; "
            f"apt-get install postgresql-{version}, or dnf install postgresql{version}-contrib"
        )
    try:
        for (name,) in connection.execute("SELECT evtname FROM pg_event_trigger").fetchall():
            connection.execute(sql.SQL("ALTER EVENT TRIGGER {} DISABLE").format(sql.Identifier(name)))
        name = sql.Identifier(extension)
        connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA pg_catalog").format(name))
        connection.execute(sql.SQL("ALTER EXTENSION {} UPDATE").format(name))
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        return f"the extension {extension} cannot be created in the copy: {_reason(error)}"
    return ""


def _relations(connection: psycopg.Connection, inspection: Inspection) -> list[_Relation]:
    """What is checked: tables first, the largest first of each kind."""
    schema, most = _schema_of(connection, NAME), sql.Literal(MOST_OF_ONE)
    heap = sql.SQL(_TABLE_CHECK)
    tables = [
        _Relation(title, heap.format(schema, sql.Literal(oid), most))
        for oid, title in connection.execute(_TABLES)
    ]
    indexes = []
    gin = sql.SQL(_GIN_CHECK) if connection.info.server_version // 10000 >= GIN_CHECK else None
    for oid, title, kind, valid, foreign, *doubts in connection.execute(_INDEXES.encode()):
        if valid and kind == "gin" and gin is not None:
            indexes.append(_Relation(title, gin.format(schema, sql.Literal(oid))))
        elif kind != "btree" and "indexes" in inspection.drill.checks:
            continue  # that check says of it whatever there is to say
        elif not valid:
            inspection.leave_out(title, "an index that is invalid, in the source as well")
        elif kind != "btree":
            checked = "b-trees" if gin is None else "b-trees and GIN indexes"
            inspection.leave_out(title, f"a {kind} index: amcheck checks {checked}")
        elif foreign:
            inspection.leave_out(title, foreign)
        else:
            indexes.append(_btree(schema, title, oid, inspection.drill.parent_check, *doubts))
    return tables + indexes


def _btree(
    schema: sql.Identifier, title: str, oid: int, descend: bool, doubts: str, order_doubts: str
) -> _Relation:
    """How a b-tree is checked: with all of its table's rows, and without them where its functions are in doubt."""

    def weaker(heap: bool) -> sql.Composed:
        return sql.SQL(_INDEX_CHECK).format(schema, sql.Literal(oid), heap)

    def strong(heap: bool) -> sql.Composed:
        return sql.SQL(_PARENT_CHECK).format(schema, sql.Literal(oid), heap, descend)

    def relation(check: Callable[[bool], sql.Composed], less: _Relation | None) -> _Relation:
        alone = _Relation(title, check(False), order_doubts=order_doubts)
        return _Relation(title, check(True), less, alone, doubts, order_doubts)

    return relation(strong, relation(weaker, None))


def _schema_of(connection: psycopg.Connection, extension: str) -> sql.Identifier:
    """Where an extension is: the source may have it in another schema."""
    row: Any = connection.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = %s",
        (extension,),
    ).fetchone()
    return sql.Identifier(row[0])


def _maps(connection: psycopg.Connection) -> list[_Relation]:
    """The visibility map of every table; only pages that it calls all-visible or all-frozen are read."""
    schema, most = _schema_of(connection, VISIBILITY), sql.Literal(MOST_OF_ONE)
    return [
        _Relation(title, sql.SQL(_MAP_CHECK).format(schema=schema, table=sql.Literal(oid), most=most))
        for oid, title in connection.execute(_TABLES)
    ]


def _check_all(inspection: Inspection, relations: list[_Relation], idle: list[psycopg.Connection]) -> None:
    def one(relation: _Relation) -> None:
        connection = idle.pop()
        try:
            _check_one(inspection, connection, relation)
        finally:
            idle.append(connection)

    with ThreadPoolExecutor(len(idle), NAME) as pool:
        list(pool.map(one, relations))


def _check_one(inspection: Inspection, connection: psycopg.Connection, relation: _Relation) -> None:
    """Check one relation; one that a prepared transaction has written is checked with less of a lock."""
    left = inspection.left
    if left <= 0 or connection.closed:
        return inspection.leave_out(relation.title, inspection.over if left <= 0 else "the copy had ended")
    try:
        connection.execute(
            "SELECT set_config('statement_timeout', %s, false)", (f"{int(left * 1000) + 1}ms",)
        )
        found = [str(row[0]) for row in connection.execute(relation.query) if row[0]]
    except psycopg.DatabaseError as error:
        if relation.weaker is not None and isinstance(error, psycopg.errors.LockNotAvailable):
            inspection.leave_out(f"{relation.title}, its upper levels", _reason(error))
            return _check_one(inspection, connection, relation.weaker)
        if not connection.closed and not tells_of_damage(error):
            return inspection.leave_out(relation.title, shortage(error) or _reason(error))
        found = [f"{ENDED}: {_reason(error)}" if connection.closed else _reason(error)]
        if connection.closed:
            time.sleep(UNTIL_LOGGED)
        elif (doubt := relation.doubt(found[0])) and _fits_a_role(connection, relation):
            found = []
        elif doubt:
            inspection.leave_out(relation.title, doubt)
            return _check_one(inspection, connection, relation.alone) if relation.alone else None
    inspection.checked += 1
    inspection.findings += [f"{relation.title}: {finding}" for finding in found]
    return None


def _fits_a_role(connection: psycopg.Connection, relation: _Relation) -> bool:
    """Whether a b-tree is sound under the settings of a role, which may have filled it."""
    for settings in settings_of_roles(connection):
        try:
            set_all(connection, settings)
            connection.execute(relation.query)
            return True
        except psycopg.DatabaseError:
            if connection.closed:
                raise
        finally:
            for name in () if connection.closed else settings:
                connection.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))
    return False


def _reason(error: psycopg.Error) -> str:
    primary = said_by(error)
    detail = error.diag.message_detail
    return f"{primary}: {' '.join(detail.split())}" if detail else primary
