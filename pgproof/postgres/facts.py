"""Server facts: everything that backup, archive and proof must know of a source, read in one look."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.names import in_bytes, name_of
from pgproof.postgres.versions import check_supported
from pgproof.timelines.lsn import LSN

# What a role without superuser must be granted; the SQL is made from this table (init, doctor).
FUNCTIONS = ("pg_switch_wal()", "pg_create_restore_point(text)")
ROLES = ("pg_read_all_data", "pg_monitor")

_SETTINGS = (
    "wal_level",
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "max_wal_senders",
    "summarize_wal",
    "data_checksums",
    "synchronous_commit",
)


@dataclass(frozen=True, slots=True)
class ArchiverFacts:
    """``pg_stat_archiver``: what the server's archiver last did, and how many files wait for it since when."""

    last_archived: str | None
    last_archived_at: datetime | None
    last_failed: str | None
    last_failed_at: datetime | None
    ready: int | None = None
    ready_since: datetime | None = None

    @property
    def failing(self) -> bool:
        """Whether the newest attempt failed."""
        if self.last_failed_at is None:
            return False
        return self.last_archived_at is None or self.last_failed_at > self.last_archived_at


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """What the connected role may do."""

    name: str
    superuser: bool
    replication: bool
    missing_roles: tuple[str, ...]
    missing_functions: tuple[str, ...]
    reads_large_objects: bool
    closed: tuple[str, ...] = ()  # databases that it may not connect to


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A source as it was found. Sizes in bytes."""

    version: int
    version_text: str
    system_identifier: int
    timeline: int
    in_recovery: bool
    segment_size: int
    insert_lsn: LSN
    database_size: int
    databases: tuple[str, ...]
    archiver: ArchiverFacts
    role: RoleFacts
    clock: datetime
    settings: dict[str, str] = field(default_factory=dict)
    private: tuple[str, ...] = ()  # databases that not everybody may connect to
    next_xid: int | None = None  # every transaction before it has ended (xmax of pg_current_snapshot)

    @property
    def major(self) -> int:
        return self.version // 10000

    @property
    def follows(self) -> bool:
        """A standby that leaves archiving to its primary: its archiver's statistics are of another time."""
        return self.in_recovery and self.settings.get("archive_mode") != "always"

    @property
    def archiving(self) -> bool:
        """Whether the server is set to archive at all."""
        command = self.settings.get("archive_command", "")
        named = command not in ("", "(disabled)") or bool(self.settings.get("archive_library"))
        return self.settings.get("archive_mode") in ("on", "always") and named


def read_facts(connection: psycopg.Connection) -> ServerFacts:
    """Look at a server.

    Raises:
        UnsupportedVersion: it is older than pgproof supports.
    """
    version = connection.info.server_version
    check_supported(version)
    row = connection.execute(
        # pg_control has the timeline of the last checkpoint: after a promotion that is still the old one
        """SELECT version(), (SELECT system_identifier FROM pg_control_system()),
                  CASE WHEN NOT pg_is_in_recovery()
                       THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
                       ELSE coalesce((SELECT received_tli FROM pg_stat_wal_receiver),
                                     (SELECT timeline_id FROM pg_control_checkpoint())) END,
                  pg_is_in_recovery(),
                  (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
                  CASE WHEN pg_is_in_recovery()
                       THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
                       ELSE pg_current_wal_insert_lsn() END::text,
                  clock_timestamp(), pg_snapshot_xmax(pg_current_snapshot())::text::bigint"""
    ).fetchone()
    assert row is not None
    sizes = connection.execute(
        f"""SELECT {in_bytes("datname")}, CASE WHEN has_database_privilege(oid, 'connect')
                                  OR pg_has_role('pg_read_all_stats', 'usage')
                                THEN pg_database_size(oid) ELSE 0 END
             FROM pg_database WHERE datallowconn ORDER BY datname""".encode()
    ).fetchall()
    settings = connection.execute(
        f"SELECT name, {in_bytes('setting')} FROM pg_settings WHERE name = ANY(%s)".encode(),
        (list(_SETTINGS),),
    ).fetchall()
    return ServerFacts(
        version=version,
        version_text=row[0].split(" on ")[0],
        system_identifier=row[1] % (1 << 64),  # SQL shows a signed number, files and protocol an unsigned one
        timeline=row[2],
        in_recovery=row[3],
        segment_size=row[4],
        insert_lsn=LSN.parse(row[5]),
        clock=row[6],
        database_size=sum(size for _, size in sizes),
        databases=tuple(name_of(name) for name, _ in sizes if name not in (b"template0", b"template1")),
        archiver=read_archiver(connection),
        role=_read_role(connection),
        private=_closed_to(connection, "'public'::name"),
        settings={name: name_of(setting) for name, setting in settings},
        next_xid=row[7],
    )


def timeline_of(cluster: ClusterConfig, system_identifier: int) -> int | None:
    """The timeline of a cluster's running server; None when it does not answer, or is of another system identifier."""
    try:
        with connect(cluster) as connection:
            facts = read_facts(connection)
    except PgproofError:
        return None
    return facts.timeline if facts.system_identifier == system_identifier else None


def read_archiver(connection: psycopg.Connection) -> ArchiverFacts:
    """Look at ``pg_stat_archiver``, and where the role may (pg_monitor) at the files that wait."""
    row = connection.execute(
        """SELECT last_archived_wal, last_archived_time, last_failed_wal, last_failed_time
             FROM pg_stat_archiver"""
    ).fetchone()
    assert row is not None
    may = connection.execute(
        "SELECT has_function_privilege('pg_catalog.pg_ls_archive_statusdir()', 'execute')"
    ).fetchone()
    waiting = None
    if may is not None and may[0]:
        waiting = connection.execute(
            "SELECT count(*), min(modification) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
        ).fetchone()
    return ArchiverFacts(*row, *(waiting or (None, None)))


@dataclass(frozen=True, slots=True)
class ServerClock:
    """What time it is for a server.

    Args:
        now: by its own clock.
        committed: when everything that it has shown so far was committed, by the clock that stamps commits: on a
            standby the newest replayed commit's time, which the primary's clock gave it.
    """

    now: datetime
    committed: datetime


def read_clock(connection: psycopg.Connection) -> ServerClock:
    """Look at a server's clock."""
    row = connection.execute(
        """SELECT clock_timestamp(), CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END"""
    ).fetchone()
    assert row is not None
    return ServerClock(row[0], row[1] or row[0])


def _read_role(connection: psycopg.Connection) -> RoleFacts:
    row = connection.execute(
        f"""SELECT {in_bytes("rolname")}, rolsuper, rolreplication
              FROM pg_roles WHERE rolname = current_user""".encode()
    ).fetchone()
    assert row is not None
    roles = connection.execute(
        "SELECT r FROM unnest(%s::text[]) r WHERE NOT pg_has_role(current_user, r, 'usage')", (list(ROLES),)
    ).fetchall()
    functions = connection.execute(
        """SELECT f FROM unnest(%s::text[]) f
            WHERE NOT has_function_privilege(current_user, 'pg_catalog.' || f, 'execute')""",
        (list(FUNCTIONS),),
    ).fetchall()
    objects = connection.execute(
        """SELECT NOT EXISTS (SELECT FROM pg_largeobject_metadata)
                  OR has_parameter_privilege(current_user, 'lo_compat_privileges', 'set')"""
    ).fetchone()
    assert objects is not None
    return RoleFacts(
        name=name_of(row[0]),
        superuser=row[1],
        replication=row[2],
        missing_roles=() if row[1] else tuple(role for (role,) in roles),
        missing_functions=tuple(function for (function,) in functions),
        reads_large_objects=row[1] or objects[0],
        closed=_closed_to(connection, "current_user"),
    )


def _closed_to(connection: psycopg.Connection, role: str) -> tuple[str, ...]:
    """The databases that a role has no privilege to connect to.

    Args:
        connection: to look with.
        role: as SQL, such as ``current_user``.
    """
    rows = connection.execute(
        f"""SELECT {in_bytes("datname")} FROM pg_database
             WHERE datallowconn AND datname NOT IN ('template0', 'template1')
               AND NOT has_database_privilege({role}, oid, 'connect') ORDER BY datname""".encode()
    ).fetchall()
    return tuple(name_of(name) for (name,) in rows)
