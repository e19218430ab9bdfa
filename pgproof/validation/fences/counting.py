"""Counting: every table of a fenced database, fingerprinted by several connections that share its snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg import sql

from pgproof.config import DrillConfig
from pgproof.postgres.connection import undone
from pgproof.postgres.faults import said_by, tells_of_damage, too_long
from pgproof.validation.checks.check import EVERY_DATABASE
from pgproof.validation.checks.crash import CrashWatch
from pgproof.validation.fences.fence import DAMAGED, LARGE_OBJECTS, NotChecked, TableContent
from pgproof.validation.fences.fingerprint import (
    Table,
    current_definition,
    fingerprint,
    fingerprint_large_objects,
    list_tables,
    table_size,
)
from pgproof.validation.fences.holding import Holding

Connect = Callable[[], contextlib.AbstractContextManager[psycopg.Connection]]
# A server's session keeps what it knows of every relation that it has seen, 16 kB of each, until it ends
TABLES_OF_A_SESSION = 2000
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Counter:
    """Counts one database.

    Args:
        drill: settings.
        database: its name.
        holder: the connection whose open transaction is the fence.
        connect: opens another connection to the database, with pinned settings and outside a transaction.
        holding: for how long the fence may stay open.
        turn: with which table to begin, as any number: another one each time, lest a limit leave out the same.
    """

    def __init__(
        self,
        drill: DrillConfig,
        database: str,
        holder: psycopg.Connection,
        connect: Connect,
        holding: Holding,
        turn: int = 0,
    ) -> None:
        self._drill, self._database, self._holder, self._connect = drill, database, holder, connect
        self._holding, self._turn = holding, turn
        self._watch = CrashWatch(database, holder)
        self.not_checked: list[NotChecked] = []
        self.names: set[str] = set()  # of all its tables, as settings name them
        self.listed = 0  # tables, and its large objects as one

    def count(self) -> list[TableContent]:
        """What every table held at the fence; ``not_checked`` gains what could not be counted, and why.

        A snapshot protects rows, not the catalog: a table that was truncated, altered or renamed after the
        fence reads as something that never was. So its definition is compared with that of the fence while
        the lock of reading it is still held.

        Raises:
            psycopg.Error: a connection broke.
            ServerNotReady: reading a table ended the whole server.
        """
        row: Any = self._holder.execute("SELECT pg_export_snapshot()").fetchone()
        listed = list_tables(self._holder)
        self.names = {f"{self._database}.{table.title}" for table in listed}
        tables = self._in_turn([table for table in listed if self._checkable(table)])
        workers = min(self._drill.workers, max(1, len(tables)))
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(workers, "fingerprint") as pool:
            idle = [(self._share(row[0], stack), TABLES_OF_A_SESSION) for _ in range(workers)]
            catalog = stack.enter_context(self._connect())

            def one(table: Table) -> TableContent | None:
                connection, left = idle.pop()
                if not left:
                    connection.close()
                    connection, left = self._share(row[0], stack), TABLES_OF_A_SESSION
                try:
                    return self._count_table(connection, catalog, table)
                finally:
                    idle.append((connection, left - 1))

            try:
                contents = [content for content in pool.map(one, tables) if content is not None]
            except psycopg.OperationalError as error:
                self._watch.refuse_crash(error)
                raise
        if (objects := self._count_large_objects()) is not None:
            contents.append(objects)
        left_out = any(item.what == LARGE_OBJECTS for item in self.not_checked)
        self.listed = len(listed) + (objects is not None or left_out)
        return sorted(contents, key=lambda content: (not content.schema, content.schema, content.name))

    def _in_turn(self, tables: list[Table]) -> list[Table]:
        start = self._turn % max(1, len(tables))
        return tables[start:] + tables[:start]

    def _share(self, exported: str, stack: contextlib.ExitStack) -> psycopg.Connection:
        connection = stack.enter_context(self._connect())
        self._watch.listen(connection)
        connection.execute(_BEGIN)
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(exported))
        return connection

    def _checkable(self, table: Table) -> bool:
        reason = None
        if f"{self._database}.{table.title}" in self._drill.exclude_tables:
            reason = "excluded by drill.exclude_tables"
        elif table.persistence == "u":
            reason = self._lost(table)
        elif table.kind == "f":
            reason = "foreign table: its rows are elsewhere"
        if reason:
            self._leave_out(table.title, reason)
        return reason is None

    def _lost(self, table: Table) -> str:
        """That an unlogged table is lost, with its size where no lock is in the way."""
        reason = "unlogged: it comes back empty after recovery"
        try:
            with undone(self._holder):
                return f"{reason}, without its {table_size(self._holder, table):,} bytes"
        except psycopg.Error:
            if self._holder.closed:
                raise
            return reason

    def _count_table(
        self, connection: psycopg.Connection, catalog: psycopg.Connection, table: Table
    ) -> TableContent | None:
        if self._holding.over:
            self._leave_out(table.title, self._holding.reason)
            return None
        try:
            content = self._read_table(connection, catalog, table)
        except psycopg.Error as error:
            if connection.closed or catalog.closed:
                self._watch.lost(table.title, connection)
                raise
            self._leave_out(table.title, self._reason(error))
            return None
        if content is None:
            self._leave_out(table.title, "it was altered or rewritten while it was counted")
        elif content.sample is not None:
            self._leave_out(table.title, f"sampled: {content.sample:g} % of its blocks were compared")
        return content

    def _read_table(
        self, connection: psycopg.Connection, catalog: psycopg.Connection, table: Table, pieces: bool = False
    ) -> TableContent | None:
        """What a table holds; None when it was altered meanwhile. A row too long for a text is read in pieces."""
        try:
            with undone(connection):
                self._limit(connection)
                sample = self._sample(connection, table)
                found = fingerprint(connection, table, sample, pieces=pieces)
                if current_definition(catalog, table) != table.definition:
                    return None
                return TableContent(table.schema, table.name, table.columns, found, sample, pieces)
        except psycopg.Error as error:
            if connection.closed or catalog.closed or pieces or not too_long(error):
                raise
        return self._read_table(connection, catalog, table, pieces=True)

    def _limit(self, connection: psycopg.Connection) -> None:
        """A statement ends when the fence must; to be undone afterwards."""
        timeout = self._holding.statement_timeout(self._drill.statement_timeout)
        connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{timeout}ms",))

    def _sample(self, connection: psycopg.Connection, table: Table) -> float | None:
        own = self._drill.sample_tables.get(f"{self._database}.{table.title}")
        if own is not None:
            return own if own < 100 else None
        above = self._drill.sample_above
        large = above > 0 and table.kind == "r" and table_size(connection, table) > above
        return self._drill.sample_percent if large else None

    def _count_large_objects(self) -> TableContent | None:
        if self._holding.over:
            self._leave_out(LARGE_OBJECTS, self._holding.reason)
            return None
        try:
            with undone(self._holder):
                self._limit(self._holder)
                found = fingerprint_large_objects(self._holder)
        except psycopg.Error as error:
            if self._holder.closed:
                raise
            reason = self._reason(error)
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                reason += "; GRANT SET ON PARAMETER lo_compat_privileges lets the role read them"
            self._leave_out(LARGE_OBJECTS, reason)
            return None
        return TableContent("", LARGE_OBJECTS, (), found) if found.rows else None

    def _reason(self, error: psycopg.Error) -> str:
        if self._holding.over and isinstance(error, psycopg.errors.QueryCanceled):
            return self._holding.reason
        return f"{DAMAGED if tells_of_damage(error) else ''}{reason_of(error, self._drill)}"

    def _leave_out(self, what: str, reason: str) -> None:
        self.not_checked.append(NotChecked(self._database, what, reason))


def unknown_names(drill: DrillConfig, names: Collection[str], closed: Collection[str]) -> list[NotChecked]:
    """Tables that settings name and no database has: a typo must not go unseen, and a dropped table fails no proof.

    Args:
        drill: settings.
        names: of all tables of the databases that could be looked at.
        closed: the other databases.
    """
    found = []
    for setting, tables in (("exclude", drill.exclude_tables), ("sample", drill.sample_tables)):
        for name in tables:
            if name not in names and not any(name.startswith(f"{database}.") for database in closed):
                what = f'"{name}" of drill.{setting}_tables'
                reason = "no such table: mend the name, or take it out where the table was dropped"
                found.append(NotChecked(EVERY_DATABASE, what, reason))
    return found


def reason_of(error: psycopg.Error, drill: DrillConfig) -> str:
    """Why something could not be read, on one line."""
    reason = said_by(error)
    if isinstance(error, psycopg.errors.ProgramLimitExceeded):
        reason = f"a row or value is too long to be read: {reason}"
    if isinstance(error, psycopg.errors.QueryCanceled):
        reason += f"; drill.statement_timeout is {drill.statement_timeout} s"
    return reason
