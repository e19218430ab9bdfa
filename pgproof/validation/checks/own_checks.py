"""The user's own SQL checks, run read-only on the copy while it is held at the cut of their database."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import psycopg

from pgproof.config import SqlCheckConfig
from pgproof.postgres.connection import open_session, set_all
from pgproof.postgres.faults import said_by, shortage
from pgproof.validation.checks.check import CheckResult, not_possible

_SHOWN = 3
# SQLSTATE classes of SQL that cannot run at all, whatever the rows are: it is wrong, names what is not there, or may
# not do what it does
_CANNOT = ("0A", "25", "26", "34", "3D", "3F", "42")


def run_check(check: SqlCheckConfig, dsn: str) -> CheckResult:
    """Run one check.

    One that fails with an error over its rows, such as RAISE, is a finding: what it wants to see is not so. One that
    cannot run, takes too long, or waits for a lock that a transaction held at the cut, says nothing.

    Args:
        check: of the configuration.
        dsn: of its database in the copy.
    """
    started = time.monotonic()
    try:
        finding = _run(check, dsn)
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        reason = f"{error.diag.message_primary}; its statement_timeout is {check.statement_timeout} s"
        return not_possible(check.name, check.database, reason, time.monotonic() - started)
    except psycopg.Error as error:
        lacking, said = shortage(error), said_by(error)
        if lacking or (error.sqlstate or "").startswith(_CANNOT):
            reason = f"it could not run: {lacking or said}"
            return not_possible(check.name, check.database, reason, time.monotonic() - started)
        finding = f"it could not run: {said}"
    seconds = time.monotonic() - started
    return CheckResult(check.name, check.database, 1, seconds, (finding,) if finding else ())


def not_restored(check: SqlCheckConfig) -> CheckResult:
    """The result of a check of a database that had no fence, such as one that does not exist or is closed."""
    return not_possible(check.name, check.database, "its database was not fenced")


def _run(check: SqlCheckConfig, dsn: str) -> str:
    with open_session(dsn) as connection:
        timeout = f"{check.statement_timeout}s"
        set_all(connection, {"statement_timeout": timeout, "lock_timeout": timeout})
        connection.execute("BEGIN READ ONLY")
        cursor = connection.execute(check.sql.encode())
        if cursor.description is None:
            return "its SQL returns no rows at all; it is a SELECT"
        return judge(check.expect, cursor.fetchmany(_SHOWN), cursor.rowcount)


def judge(expect: str | int | float | bool, rows: list[tuple[Any, ...]], count: int) -> str:
    """What is wrong with the rows of a check; empty when they are as expected.

    Args:
        expect: ``rows``, ``no rows``, or the one value.
        rows: the first few.
        count: of all rows.
    """
    shown = "; ".join(", ".join(str(value) for value in row) for row in rows)
    if expect == "rows":
        return "" if count else "it expects rows, and there are none"
    if expect == "no rows":
        return "" if not count else f"it expects no rows, and there are {count}, such as: {shown[:300]}"
    if count != 1 or len(rows[0]) != 1:
        columns = len(rows[0]) if rows else 0
        return f"it expects one value, and gets {count} rows of {columns} columns"
    return "" if _same(expect, rows[0][0]) else f"it expects {expect}, and gets {shown[:300]}"


def _same(expect: str | int | float | bool, found: Any) -> bool:
    if isinstance(expect, str):
        return str(found) == expect
    if isinstance(expect, bool) or isinstance(found, bool):
        return expect is found
    if isinstance(found, Decimal):
        return found == Decimal(str(expect))
    return bool(found == expect)
