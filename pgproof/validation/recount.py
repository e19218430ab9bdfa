"""A recount is what the restored copy holds, at the cut, of the tables that the fence counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from pgproof.config import DrillConfig
from pgproof.errors import NotProven, RecoveryFailed
from pgproof.postgres.connection import open_session
from pgproof.postgres.faults import shortage
from pgproof.validation.comparison import TableComparison, compare_database
from pgproof.validation.fences.counting import reason_of
from pgproof.validation.fences.fence import (
    LARGE_OBJECTS,
    WHOLE_DATABASE,
    DatabaseFence,
    NotChecked,
    TableContent,
)
from pgproof.validation.fences.fingerprint import (
    Fingerprint,
    Table,
    fingerprint,
    fingerprint_large_objects,
    list_tables,
    pin_settings,
)

_LOCK_TIMEOUT = "500ms"  # nothing is replayed any more, so a lock of the replay is never released
_LOCKED = "locked in the copy by a transaction that had not ended at the cut, such as an ALTER TABLE"
_MOST_XIDS = 1_000_000
_UNREAD = Fingerprint(0, "")


@dataclass
class Recount:
    """One restored database beside its fence.

    Args:
        rows: the comparison.
        not_checked: tables that could not be read, through no fault of the backup.
    """

    rows: list[TableComparison] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)


def recount(
    drill: DrillConfig,
    source: DatabaseFence,
    dsn: str,
    left_out: set[str],
    progress: Callable[[int], None] = lambda rows: None,
) -> Recount:
    """Read a restored database and compare it with its fence.

    Args:
        drill: settings.
        source: what the fence holds.
        dsn: of the database in the copy, with a role that reads everything.
        left_out: what the fence names as not checked.
        progress: told the source's rows of each table that was read.

    Raises:
        NotProven: a transaction is committed in the copy that the fence did not see, or its catalog is locked or takes
            too long to read.
        RecoveryFailed: the copy does not answer.
    """
    try:
        return _Recounter(drill, source, dsn, left_out, progress).run()
    except psycopg.Error as error:
        if f'database "{source.database}" does not exist' in str(error):
            return Recount(compare_database(source, []))
        locked = isinstance(error, psycopg.errors.LockNotAvailable)
        passing = locked or (error.sqlstate or "").startswith(("53", "57014"))
        if not passing and (reason := shortage(error)):
            return Recount([], [NotChecked(source.database, WHOLE_DATABASE, f"in the copy: {reason}")])
        if passing:
            raise NotProven(
                f'database "{source.database}" could not be read at its cut',
                f"Its catalog is {_LOCKED}." if locked else f"The copy says: {reason_of(error, drill)}.",
                "run the drill again",
            ) from error
        raise RecoveryFailed(
            f'restored database "{source.database}" cannot be read', " ".join(str(error).split())
        ) from error


class _Recounter:
    """The steps of a recount, with what they gather."""

    def __init__(
        self,
        drill: DrillConfig,
        source: DatabaseFence,
        dsn: str,
        left_out: set[str],
        progress: Callable[[int], None],
    ) -> None:
        self._drill, self._source, self._dsn, self._left_out = drill, source, dsn, left_out
        self._progress = progress
        self._counted = {content.title: content for content in source.tables}
        self._faults: dict[str, str] = {}
        self._skipped: dict[str, str] = {}

    def run(self) -> Recount:
        with contextlib.ExitStack() as stack:
            first = self._connect(stack)
            check_unseen(first, self._source)
            tables = list_tables(first)
            wanted = [table for table in tables if table.title in self._counted]
            idle = [first, *(self._connect(stack) for _ in range(min(self._drill.workers, len(wanted)) - 1))]

            def one(table: Table) -> TableContent:
                connection = idle.pop()
                try:
                    return self._read(connection, table)
                finally:
                    idle.append(connection)
                    self._progress(self._counted[table.title].fingerprint.rows)

            with ThreadPoolExecutor(len(idle), "fingerprint") as pool:
                contents = list(pool.map(one, wanted))
            contents += self._surplus(first, tables)
            contents += self._large_objects(first)
        source = replace(
            self._source, tables=tuple(c for c in self._source.tables if c.title not in self._skipped)
        )
        rows = compare_database(
            source, [content for content in contents if content.title not in self._skipped], self._faults
        )
        skipped = [NotChecked(source.database, what, why) for what, why in sorted(self._skipped.items())]
        return Recount(rows, skipped)

    def _connect(self, stack: contextlib.ExitStack) -> psycopg.Connection:
        connection = stack.enter_context(open_session(self._dsn))
        pin_settings(connection, self._drill.statement_timeout)
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        return connection

    def _read(self, connection: psycopg.Connection, table: Table) -> TableContent:
        counted = self._counted[table.title]
        try:
            found = fingerprint(connection, table, counted.sample, pieces=counted.pieces)
        except psycopg.Error as error:
            found = self._unread(connection, table.title, error)
        return TableContent(table.schema, table.name, table.columns, found, counted.sample, counted.pieces)

    def _unread(self, connection: psycopg.Connection, title: str, error: psycopg.Error) -> Fingerprint:
        """A table that cannot be read is a difference, unless it is only locked, takes too long, or lacks a library."""
        if connection.closed:
            raise error
        lacking = shortage(error)
        if isinstance(error, psycopg.errors.LockNotAvailable):
            self._skipped[title] = _LOCKED
        elif lacking or isinstance(error, psycopg.errors.QueryCanceled):
            self._skipped[title] = f"in the copy: {lacking or reason_of(error, self._drill)}"
        else:
            self._faults[title] = reason_of(error, self._drill)
        return _UNREAD

    def _surplus(self, connection: psycopg.Connection, tables: list[Table]) -> list[TableContent]:
        """Tables that only the copy has are differences, unless they were left out at the fence.

        A foreign table is never read: it would reach out. An unlogged one cannot be.
        """
        found = []
        for table in tables:
            if table.title in self._counted or table.title in self._left_out:
                continue
            rows = _UNREAD
            if table.kind != "f" and table.persistence != "u":
                with contextlib.suppress(psycopg.DatabaseError):
                    rows = fingerprint(connection, table)
            found.append(TableContent(table.schema, table.name, table.columns, rows))
        return found

    def _large_objects(self, connection: psycopg.Connection) -> list[TableContent]:
        if LARGE_OBJECTS in self._left_out:
            return []
        try:
            found = fingerprint_large_objects(connection)
        except psycopg.Error as error:
            found = self._unread(connection, LARGE_OBJECTS, error)
        wanted = found.rows or LARGE_OBJECTS in self._counted or LARGE_OBJECTS in self._faults
        return [TableContent("", LARGE_OBJECTS, (), found)] if wanted else []


def check_unseen(connection: psycopg.Connection, source: DatabaseFence) -> None:
    """No transaction that the fence did not see may be committed in the copy.

    Those are the ones that were running at the fence, and all from its xmax on: each may have waited long between
    its commit record and its visibility.

    Raises:
        NotProven: one is; the fence's cut is not exact then.
    """
    query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    row: Any = connection.execute(query).fetchone()
    known, xmax = int(row[0]), source.snapshot.xmax  # pg_xact_status knows nothing of later ones
    xids = [*sorted(source.snapshot.xip), *range(xmax, min(known, xmax + _MOST_XIDS))]
    unseen = connection.execute(
        "SELECT xid FROM unnest(%s::text[]) xid WHERE pg_xact_status(xid::xid8) = 'committed' LIMIT 1",
        ([str(xid) for xid in xids if xid < known],),
    ).fetchone()
    if unseen is not None:
        raise NotProven(
            f"transaction {unseen[0]} is committed in the copy and was not seen at the fence",
            "It waited between its commit record and its visibility, such as for a synchronous standby; or the "
            "copy was recovered beyond the cut.",
            "run the drill again",
        )
