"""Standing is what a running restored cluster says of itself, compared with what the plan of its restore said."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pgproof.restore.isolation import SEARCH_PATH, isolation, session_options
from pgproof.restore.prepared import PreparedTransaction, find_prepared
from pgproof.restore.record import FOLLOWING, OPEN, PAUSED, RestoreRecord
from pgproof.timelines.lsn import LSN

RECOVERING = "recovering"
_TARGETS = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
)
_QUESTIONS = """
SELECT current_setting('data_directory'), (SELECT system_identifier FROM pg_control_system()),
       pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE '' END,
       pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp(), current_setting('server_version'),
       (SELECT count(*) FROM unnest(%s::text[], %s::text[]) s (name, value)
         WHERE current_setting(name) IS DISTINCT FROM value)
"""
_CHANGED = """
SELECT name, current_setting(name) FROM unnest(%s::text[], %s::text[]) s (name, value)
 WHERE current_setting(name) <> value ORDER BY 1
"""
# archive_mode says it of the first two
_SHOWN_OTHERWISE = {"archive_command", "archive_library", "huge_pages", "log_destination", "cluster_name"}
# what any role may set, against what ALTER ROLE may have set
_ANY_ROLE = (
    f"-c search_path={SEARCH_PATH} -c default_transaction_isolation=read\\ committed -c statement_timeout=0"
)
_SUPERUSER = "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid <> 10, oid LIMIT 1"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a server stands.

    Args:
        data: its data directory.
        system_identifier: of its cluster.
        state: recovering, paused, following or open.
        replayed: up to which LSN this server replayed WAL; None when it began as an open one.
        last_time: of the last end of a transaction that it replayed.
        version: of PostgreSQL.
        target_changed: its recovery target is another than the one that was planned.
        prepared: transactions that somebody has to end.
        acts: settings of an isolated cluster that somebody has changed, each with its value.
    """

    data: Path
    system_identifier: int
    state: str
    replayed: LSN | None
    last_time: datetime | None
    version: str
    target_changed: bool = False
    prepared: tuple[PreparedTransaction, ...] = ()
    acts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        states = {OPEN: "open for writing", PAUSED: "paused at its target, read-only"}
        words = [states.get(self.state, f"{self.state}, read-only")]
        if self.replayed is not None:
            words.append(f"WAL replayed up to LSN {self.replayed}")
        if self.last_time is not None:
            words.append(f"last transaction of {self.last_time.astimezone(UTC):%F %T.%f%z}")
        return ", ".join(words)


def ask(connection: psycopg.Connection[Any], record: RestoreRecord) -> Standing:
    """Ask a server where it stands.

    Args:
        connection: as a superuser.
        record: of the restore.
    """
    written = {name: record.settings[name] for name in _TARGETS if name in record.settings}
    row: Any = connection.execute(_QUESTIONS, (list(written), list(written.values()))).fetchone()
    data, identifier, recovers, pause, replayed, time, version, changed = row
    state = RECOVERING if recovers else OPEN
    if recovers and pause == "paused":
        state = PAUSED
    elif recovers and record.end == FOLLOWING:
        state = FOLLOWING
    return Standing(
        Path(data),
        identifier % (1 << 64),
        state,
        LSN.parse(replayed) if replayed else None,
        time,
        version,
        changed > 0,
        find_prepared(connection),
        tuple(_changed(connection, record)) if record.isolated else (),
    )


def _changed(connection: psycopg.Connection[Any], record: RestoreRecord) -> list[tuple[str, str]]:
    names = isolation(record.major).keys() & record.settings.keys() - _SHOWN_OTHERWISE
    values = [record.settings[name] for name in names]
    return connection.execute(_CHANGED, (list(names), values)).fetchall()


def differences(record: RestoreRecord, data: Path, found: Standing) -> list[str]:
    """What is not as the plan said; nothing when the server is the restored cluster and stands where it should.

    Args:
        record: of the restore.
        data: the restored directory.
        found: what the server says.
    """
    return [
        *_another(record, data, found),
        *([] if found.target_changed else _elsewhere(record, found)),
    ]


def _another(record: RestoreRecord, data: Path, found: Standing) -> Iterator[str]:
    if not os.path.samefile(found.data, data):
        yield f"the server that answers runs in {found.data}, which is not the restored directory {data}"
    if found.system_identifier != record.system_identifier:
        yield f"its system identifier is {found.system_identifier}; the backup's is {record.system_identifier}"


def _elsewhere(record: RestoreRecord, found: Standing) -> Iterator[str]:
    if found.state != record.end and (record.end, found.state) != (PAUSED, OPEN):  # somebody has opened it
        yield f"it is {found.state}; by the plan it is {record.end}"
    if found.replayed is None:
        return
    if found.replayed < LSN.parse(record.least):
        yield f"WAL was replayed up to LSN {found.replayed} only; the plan reaches {record.least} at least"
    elif record.last and found.replayed <= LSN.parse(record.last.lsn):
        yield f"WAL was replayed up to LSN {found.replayed}: {record.last} must be there and is not"
    elif record.following and found.replayed > LSN.parse(record.following.lsn):
        yield f"WAL was replayed up to LSN {found.replayed}: {record.following} must not be there and is"


def open_as_superuser(dsn: str, roles: Iterable[str], major: int) -> psycopg.Connection[Any]:
    """Connect as a superuser, whose name any role can tell.

    Args:
        dsn: without role and database.
        roles: that may be there.
        major: version of the server.

    Raises:
        psycopg.OperationalError: the server takes no connection now, or none of these roles.
    """
    options = session_options(major)
    failed: psycopg.OperationalError | None = None
    for role in roles:
        try:
            with _connect(dsn, role, _ANY_ROLE) as connection:
                row: Any = connection.execute(_SUPERUSER).fetchone()
            return _connect(dsn, row[0], options)
        except psycopg.OperationalError as error:
            if "role" not in str(error):
                raise
            failed = error
    assert failed is not None
    raise failed


def _connect(dsn: str, role: str, options: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        dsn, user=role, dbname="template1", options=options, connect_timeout=5, autocommit=True
    )
