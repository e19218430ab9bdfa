"""The source as readiness sees it: server facts, and what only a look from several sides shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.config import DRILL_CONNECTIONS, ClusterConfig
from pgproof.errors import PermanentError, PgproofError
from pgproof.postgres.clocks import clock_skew
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.grants import LARGE_OBJECT_PARAMETER
from pgproof.postgres.names import in_bytes, name_of
from pgproof.postgres.replication import ReplicationConnection, SystemIdentity

_SERVER = f"""
SELECT current_database(), host(inet_client_addr()), current_setting('full_page_writes'),
       current_setting('restore_command'),
       (SELECT count(*) FROM pg_stat_replication),
       has_parameter_privilege(current_user, '{LARGE_OBJECT_PARAMETER}', 'set')"""

# archive_mode = off hides the archive_command that waits for it: it shows (disabled), from a configuration file
_PENDING = """
SELECT name FROM pg_settings
 WHERE pending_restart
    OR (name = 'archive_command' AND setting = '(disabled)' AND source = 'configuration file'
        AND EXISTS (SELECT FROM pg_settings WHERE name = 'archive_mode' AND pending_restart))
 ORDER BY name"""

_DATABASE = """
SELECT EXISTS (SELECT FROM pg_largeobject_metadata),
       (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm') AND relpersistence = 'u'),
       (SELECT count(*) FROM pg_class WHERE relrowsecurity AND row_security_active(oid))"""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """One database, or why it cannot be read.

    Args:
        name: of the database.
        refusal: the error of connecting to it.
        large_objects: whether it has any.
        unlogged: tables that come back empty.
        hidden: tables whose row security hides rows from the role.
    """

    name: str
    refusal: PgproofError | None = None
    large_objects: bool = False
    unlogged: int = 0
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class SlotState:
    """The replication slot of ``wal receive``.

    Args:
        active: whether somebody streams from it.
        status: ``wal_status``: reserved, extended, unreserved or lost (manual, "pg_replication_slots").
        held: bytes of WAL that it keeps on the server; None where it keeps none.
    """

    active: bool
    status: str
    held: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """A source that answered.

    Args:
        facts: as every command reads them.
        database: that the DSN leads to.
        client_address: this host as the server sees it; None through the Unix socket.
        full_page_writes, restore_command: the settings.
        pending_restart: settings that were changed and wait for a restart.
        wal_senders: in use.
        sets_large_objects: whether the role may read large objects that others own.
        waiting: finished segments that are not archived; None when the role may not look.
        waiting_seconds: since when the oldest waits.
        replication: what the replication connection said, or why it does not open.
        databases: every one that allows connections and is not left out of drills.
        tight: databases whose CONNECTION LIMIT is less than a drill needs, with the limit.
        slot: that the configuration names; None when there is none.
        skew: seconds that the server's clock is ahead of this machine's; below zero it is behind.
    """

    facts: ServerFacts
    database: str
    client_address: str | None
    full_page_writes: str
    restore_command: str
    pending_restart: tuple[str, ...]
    wal_senders: int
    sets_large_objects: bool
    waiting: int | None
    waiting_seconds: float
    replication: SystemIdentity | PgproofError
    databases: tuple[DatabaseState, ...]
    slot: SlotState | None = None
    skew: float = 0.0
    tight: tuple[tuple[str, int], ...] = ()


def look_at_source(cluster: ClusterConfig, clock: Callable[[], float] = time.time) -> Source:
    """Look at a source from every side: a session, a replication connection, and each database.

    Args:
        cluster: whose source it is.
        clock: of this machine, seconds since the epoch.

    Raises:
        ServerUnreachable, AuthenticationFailed: nobody answers, or not to this role.
        UnsupportedVersion: it is older than pgproof supports.
        PermanentError: it answers, and not as PostgreSQL does.
    """
    try:
        with connect(cluster) as connection:
            skew = clock_skew(connection, clock)
            facts = read_facts(connection)
            row: Any = connection.execute(_SERVER).fetchone()
            pending = read_pending(connection)
            waiting, seconds = _read_backlog(connection, facts)
            slot = _read_slot(connection, cluster.wal.slot)
            tight = () if facts.role.superuser else _read_tight(connection, cluster)
    except psycopg.Error as error:
        raise PermanentError(
            f'cannot inspect cluster "{cluster.name}"', " ".join(str(error).split())
        ) from error
    return Source(
        facts=facts,
        database=row[0],
        client_address=row[1],
        full_page_writes=row[2],
        restore_command=row[3],
        pending_restart=pending,
        wal_senders=row[4],
        sets_large_objects=facts.role.superuser or row[5],
        waiting=waiting,
        waiting_seconds=seconds,
        replication=_identify(cluster),
        databases=tuple(
            _look_at_database(cluster, name)
            for name in facts.databases
            if name not in cluster.drill.exclude_databases
        ),
        tight=tight,
        slot=slot,
        skew=skew,
    )


def read_pending(connection: psycopg.Connection) -> tuple[str, ...]:
    """Settings that were changed and wait for a restart."""
    return tuple(name for (name,) in connection.execute(_PENDING).fetchall())


def _read_backlog(connection: psycopg.Connection, facts: ServerFacts) -> tuple[int | None, float]:
    """Files that the archiver was told of and has not stored; granted to pg_monitor (manual, 9.28.9)."""
    if "pg_monitor" in facts.role.missing_roles:
        return None, 0.0
    row: Any = connection.execute(
        """SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(modification)), 0)::float
             FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"""
    ).fetchone()
    return row[0], row[1]


def _read_slot(connection: psycopg.Connection, name: str) -> SlotState | None:
    row: Any = connection.execute(
        """SELECT active, coalesce(wal_status, 'lost'),
                  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END
                  - restart_lsn
             FROM pg_replication_slots WHERE slot_name = %s""",
        (name,),
    ).fetchone()
    return None if row is None else SlotState(row[0], row[1], None if row[2] is None else int(row[2]))


def _read_tight(connection: psycopg.Connection, cluster: ClusterConfig) -> tuple[tuple[str, int], ...]:
    rows = connection.execute(
        f"""SELECT {in_bytes("datname")}, datconnlimit FROM pg_database
            WHERE datallowconn AND datconnlimit BETWEEN 0 AND %s AND datname <> ALL (%s) ORDER BY datname""".encode(),
        (DRILL_CONNECTIONS - 1, list(cluster.drill.exclude_databases)),
    ).fetchall()
    return tuple((name_of(name), limit) for name, limit in rows)


def _identify(cluster: ClusterConfig) -> SystemIdentity | PgproofError:
    try:
        with ReplicationConnection(cluster) as connection:
            return connection.identify_system()
    except PgproofError as error:
        return error


def _look_at_database(cluster: ClusterConfig, name: str) -> DatabaseState:
    try:
        with connect(cluster, name) as connection:
            row: Any = connection.execute(_DATABASE).fetchone()
    except PgproofError as error:
        return DatabaseState(name, error)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        return DatabaseState(name, PermanentError(f'cannot inspect database "{name}"', reason))
    return DatabaseState(name, None, *row)
