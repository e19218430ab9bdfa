"""Indexes of other kinds than b-tree: is every row of the table found through them?

amcheck has no check for most of them, and for none but b-trees one that misses a row. So the index is asked: hash,
GiST, SP-GiST, GIN, BRIN and those of extensions, each for the rows of its table, by their own values.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import psycopg
from psycopg import sql

from pgproof.config import DrillConfig
from pgproof.postgres.connection import open_session, set_all
from pgproof.validation.checks.asking import Asking
from pgproof.validation.checks.check import CheckResult
from pgproof.validation.checks.inspection import (
    ENDED,
    LOCK_TIMEOUT,
    MOST_OF_ONE,
    UNTIL_LOGGED,
    Inspection,
    opened,
)
from pgproof.validation.checks.lookup import Index, list_indexes

NAME = "indexes"
_RECOVERY = 60.0  # seconds, of the server, after a backend was ended
_ROLE = sql.Identifier("pgproof lookup")
_EXISTS = "SELECT FROM pg_roles WHERE rolname = 'pgproof lookup'"
# In the copy: a role that may read every table, and nothing else
_RIGHTS = (
    "ALTER ROLE {role} NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION BYPASSRLS LOGIN CONNECTION LIMIT -1",
    "GRANT pg_read_all_data TO {role}",
    "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}",
)
# What the copy's connections are given, some of it for superusers only; a role's settings go before the database's
_GIVEN = "SELECT name FROM pg_settings WHERE source = 'client' AND name NOT IN ('role', 'client_encoding')"
# The search path stays that of the database: functions in expressions may need the one that the index was filled with
_SETTINGS = {
    "lock_timeout": LOCK_TIMEOUT,
    "default_transaction_read_only": "off",
    "default_table_access_method": "heap",
    "temp_tablespaces": "",
    "plan_cache_mode": "force_generic_plan",
    "enable_indexonlyscan": "off",
    "enable_tidscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "work_mem": "64MB",
    "row_security": "off",
    "idle_session_timeout": "0",
    "extra_float_digits": "1",  # less would take keys that differ for the same
}


@dataclass
class _Survey(Inspection):
    """One database, while its indexes are asked."""

    dsn: str = field(kw_only=True)
    waiting: int = 0  # indexes that are still to be asked
    stuck: list[int] = field(default_factory=list)  # backends that do not end
    lock: threading.Lock = field(default_factory=threading.Lock)

    def share(self) -> float:
        """Seconds for the next index."""
        with self.lock:
            rounds = -(-self.waiting // self.drill.workers)
            self.waiting -= 1
        return min(self.drill.index_timeout, self.left / max(1, rounds))


def check_indexes(drill: DrillConfig, dsn: str, database: str) -> CheckResult:
    """Ask every index of a database that is no b-tree for the rows of its table.

    Args:
        drill: settings.
        dsn: of the database in the opened copy, for a superuser.
        database: its name.
    """
    survey = _Survey(drill, database, dsn=dsn)
    with survey.answering():
        with opened(dsn) as admin:
            indexes = _to_ask(survey, list_indexes(admin))
            if indexes:
                _make_role(admin, database)
        tables = [list(group) for _, group in groupby(indexes, key=lambda index: index.table)]
        with ThreadPoolExecutor(drill.workers, NAME) as pool:
            list(pool.map(lambda table: _check_table(survey, table), tables))
        _end_stuck(survey)
    return survey.result(NAME)


def _to_ask(survey: _Survey, indexes: list[Index]) -> list[Index]:
    for index in indexes:
        if index.refusal:
            survey.leave_out(index.title, index.refusal)
    wanted = [index for index in indexes if not index.refusal]
    survey.waiting = len(wanted)
    return wanted


def _make_role(admin: psycopg.Connection, database: str) -> None:
    if admin.execute(_EXISTS).fetchone() is None:
        admin.execute(sql.SQL("CREATE ROLE {}").format(_ROLE))
    for right in _RIGHTS:
        admin.execute(sql.SQL(right).format(role=_ROLE, database=sql.Identifier(database)))
    for (name,) in admin.execute(_GIVEN).fetchall():
        admin.execute(sql.SQL("ALTER ROLE {} SET {} FROM CURRENT").format(_ROLE, sql.Identifier(name)))


def _check_table(survey: _Survey, indexes: list[Index]) -> None:
    """Ask the indexes of one table, one after the other: each alone can be seen meanwhile."""
    for index in indexes:
        seconds = survey.share()
        if seconds <= 0:
            survey.leave_out(index.title, survey.over)
            continue
        try:
            with opened(survey.dsn) as admin, _session(survey.dsn) as session:
                backend = session.info.backend_pid
                asking = Asking(admin, session, index, seconds)
                asking.run()
        except psycopg.Error as error:
            survey.leave_out(index.title, f"the copy could not be asked: {' '.join(str(error).split())}")
            continue
        _tell(survey, index, asking, backend)


def _end_stuck(survey: _Survey) -> None:
    """End backends that do not listen, so that they do not outlive the copy; the server recovers by itself."""
    end = time.monotonic() + _RECOVERY
    while survey.stuck and time.monotonic() < end:
        with contextlib.suppress(psycopg.OperationalError, OSError), opened(survey.dsn) as admin:
            query = "SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s)"
            survey.stuck = [pid for (pid,) in admin.execute(query, (survey.stuck,))]
            for pid in survey.stuck:
                os.kill(pid, signal.SIGQUIT)  # quickdie
        time.sleep(0.2)


@contextlib.contextmanager
def _session(dsn: str) -> Iterator[psycopg.Connection]:
    with open_session(dsn, user="pgproof lookup", options="", client_encoding="UTF8") as connection:
        connection.prepare_threshold = None  # what psycopg prepares would be gone with DEALLOCATE ALL
        set_all(connection, _SETTINGS)
        yield connection


def _tell(survey: _Survey, index: Index, asking: Asking, backend: int) -> None:
    findings, reasons = asking.answers.findings, asking.answers.not_asked
    if len(findings) > MOST_OF_ONE:
        findings = [*findings[:MOST_OF_ONE], f"and {len(findings) - MOST_OF_ONE} rows more"]
    with survey.lock:
        survey.checked += 1
        survey.findings += [f"{index.title}: {finding}" for finding in findings]
        survey.stuck += [backend] if asking.stuck else []
        for reason in reasons:
            survey.leave_out(index.title, reason)
    if any(finding.startswith(ENDED) for finding in findings):
        time.sleep(UNTIL_LOGGED)
