"""A connection to the source, with libpq's faults turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgproof.config import ClusterConfig
from pgproof.errors import (
    AuthenticationFailed,
    ConfigError,
    PgproofError,
    PrivilegeMissing,
    ServerBusy,
    ServerNotReady,
    ServerUnreachable,
)
from pgproof.postgres.faults import said_by, tells_of_damage
from pgproof.postgres.names import bytes_of, name_of, shown
from pgproof.postgres.programs import account
from pgproof.secret import resolve_secret

# libpq gives no SQLSTATE for a refused connection, only text
_AUTHENTICATION = ("authentication failed", "no password supplied", "no pg_hba.conf entry", "does not exist")
_PRIVILEGE = ("must be superuser or replication role", "permission denied", "REPLICATION attribute")
_FULL = (
    "too many clients",
    "too many connections for",
    "number of requested standby connections",
    "remaining connection slots",
)
# What an open connection was told: insufficient resources, a lock that was not to be had, a cancelled query; then
# limits of the program itself, which no patience changes (manual, appendix A)
_BUSY, _LIMITS, _ENDED = ("53", "55P03", "57014"), "54", "57P"

# Given before any query, in statements that call no function: the owner of a database may have its sessions search
# a schema with functions and operators of his own before PostgreSQL's (CVE-2018-1058), and what he puts there would
# run with our privileges. Limits of a role or database are made for other sessions than ours. psycopg reads times in
# ISO alone. To compile a query over catalogs takes a second of the server's CPU, and running it some milliseconds.
_PINNED = """
SET search_path = pg_catalog; SET datestyle = 'ISO, YMD'; SET statement_timeout = 0;
SET idle_session_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET jit = off"""

# What may hold a name; 0 stands for every type that psycopg does not know, such as regclass
_TEXTS: tuple[str | int, ...] = ("text", "name", "varchar", "bpchar", 0)


# Every name with its schema: it is also said in sessions that search one of their users first
_SET_ALL = """
SELECT pg_catalog.count(pg_catalog.set_config(name, value, false))
  FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.text[]), pg_catalog.unnest(%s::pg_catalog.text[]))
       AS pins(name, value)"""


def set_all(connection: psycopg.Connection, settings: Mapping[str, str]) -> None:
    """Give settings to a session, in one statement.

    Args:
        connection: outside a transaction, whose end would undo them.
        settings: name to value.
    """
    connection.execute(_SET_ALL, (list(settings), list(settings.values())))


def conninfo(cluster: ClusterConfig, **overrides: Any) -> str:
    """The connection string of a cluster, password included; never log it.

    Raises:
        ConfigError: the DSN cannot be parsed, or the password's reference cannot be resolved.
    """
    settings: dict[str, Any] = {"connect_timeout": 10, "application_name": "pgproof"}
    settings |= {"client_encoding": "UTF8"}  # a database in SQL_ASCII would give names as bytes
    settings |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    try:
        settings |= dict(conninfo_to_dict(cluster.dsn))
    except psycopg.Error:
        raise ConfigError(
            f'the DSN of cluster "{cluster.name}" cannot be read',
            "What libpq says of it is not shown, as it may quote a password.",
            "it is key=value pairs such as host=db1 user=pgproof dbname=postgres, or a postgresql:// URI",
        ) from None
    if cluster.password is not None:
        settings["password"] = resolve_secret(cluster.password).get_secret_value()
    return make_conninfo(**{**settings, **overrides})


def display_dsn(dsn: str) -> str:
    """A DSN without its password."""
    try:
        settings: dict[str, Any] = dict(conninfo_to_dict(dsn))
    except psycopg.Error:
        return "(unreadable)"
    settings.pop("password", None)
    return make_conninfo(**settings)


def role_of(cluster: ClusterConfig) -> str | None:
    """The role of a cluster's DSN; None when it names none, or cannot be read."""
    try:
        return conninfo_to_dict(cluster.dsn).get("user")  # type: ignore[return-value]
    except psycopg.Error:
        return None


@contextlib.contextmanager
def connect(cluster: ClusterConfig, database: str | None = None) -> Iterator[psycopg.Connection]:
    """An autocommit connection to a cluster's source.

    Args:
        cluster: to connect to.
        database: another one than the DSN's.

    Raises:
        ServerUnreachable: nobody answers, or the connection broke on the way.
        AuthenticationFailed: role or password were refused.
    """
    dsn = conninfo(cluster)
    with mapped(cluster), open_session(with_database(dsn, database) if database else dsn) as connection:
        connection.execute(_PINNED)
        yield connection


@contextlib.contextmanager
def mapped(cluster: ClusterConfig) -> Iterator[None]:
    """Turn what psycopg raises about a connection, a privilege or damage into our errors."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise PrivilegeMissing(
            f'the role of cluster "{cluster.name}" lacks a privilege', f"{error}".strip(), _doctor(cluster)
        ) from error
    except psycopg.OperationalError as error:
        raise _told(cluster, error) from error
    except psycopg.Error as error:
        if not tells_of_damage(error):
            raise
        raise ServerNotReady(
            f'cluster "{cluster.name}" cannot read what it stores',
            f"The server says: {said_by(error)}.",
            "keep the older backups with pgproof hold, and prove one: docs/runbooks/backup-fails.md, step 4",
        ) from error


def _told(cluster: ClusterConfig, error: psycopg.OperationalError) -> PgproofError:
    """The error for what a server said; without an SQLSTATE it said nothing, and there is no connection."""
    state = error.sqlstate or ""
    said = f"The server says: {said_by(error)} (SQLSTATE {state})."
    if state.startswith(_BUSY):
        return ServerBusy(f'cluster "{cluster.name}" could not do what was asked', said)
    if state.startswith(_LIMITS):
        return ServerNotReady(f'cluster "{cluster.name}" cannot do what was asked', said)
    if state.startswith(_ENDED):
        return ServerUnreachable(f'the connection to cluster "{cluster.name}" was ended', said)
    return connection_error(cluster, str(error))


def connection_error(cluster: ClusterConfig, text: str) -> PgproofError:
    """The error for a connection that did not come about or broke, from libpq's text."""
    reason = " ".join(text.split())
    if any(sign in reason for sign in _FULL):
        limits = "SELECT datname, datconnlimit FROM pg_database; SELECT rolname, rolconnlimit FROM pg_roles"
        hint = f"{limits} show the limits" if "connections for" in reason else ""
        return ServerUnreachable(f'could not connect to cluster "{cluster.name}"', reason, hint)
    if any(sign in reason for sign in _PRIVILEGE):
        return PrivilegeMissing(
            f'the role of cluster "{cluster.name}" lacks a privilege', reason, _doctor(cluster)
        )
    if any(sign in reason for sign in _AUTHENTICATION):
        return AuthenticationFailed(
            f'cannot log in to cluster "{cluster.name}"',
            reason,
            _login_hint(cluster, reason),
        )
    return ServerUnreachable(
        f'could not connect to cluster "{cluster.name}"',
        reason,
        f'psql "{display_dsn(cluster.dsn)}" must work',
    )


def _login_hint(cluster: ClusterConfig, reason: str) -> str:
    must = f'psql "{display_dsn(cluster.dsn)}" must work'
    if "Peer authentication failed" in reason:
        if user := account(None):
            return f"you are root, and peer lets in the server's account: sudo -iu {user.pw_name}"
        return f"{must}; pgproof doctor {cluster.name} shows the lines that let this account in"
    if "database " in reason and "does not exist" in reason:  # a password has nothing to do with it
        return must
    if cluster.password:
        return f"{must}; the password comes from {cluster.password}"
    return f"{must}; the password comes from ~/.pgpass, whose lines have localhost for a Unix socket"


def _doctor(cluster: ClusterConfig) -> str:
    return f"pgproof doctor {cluster.name} shows the GRANT that is missing"


@contextlib.contextmanager
def undone(connection: psycopg.Connection) -> Iterator[None]:
    """A savepoint that is always rolled back.

    A failed statement must not end the transaction that holds a snapshot, and the lock of a table that was
    read must not stay: an ALTER TABLE that waits for it stops everybody else.
    """
    connection.execute("SAVEPOINT pgproof")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK TO SAVEPOINT pgproof; RELEASE SAVEPOINT pgproof")


class _Lenient(Loader):
    """Text of a session in UTF-8: PostgreSQL sends it as it is, and does not look whether it is UTF-8."""

    def load(self, data: Buffer) -> str:
        return name_of(bytes(data))


def open_session(dsn: str, **options: Any) -> psycopg.Connection:
    """An autocommit connection in UTF-8 that reads names in any encoding.

    Args:
        dsn: with a database of any name.
        options: more of libpq's.

    Raises:
        psycopg.OperationalError: as ``psycopg.connect``.
    """
    connection = (
        _through_bytes(dsn, options)
        if shown(dsn) != dsn
        else psycopg.connect(dsn, autocommit=True, **options)
    )
    for kind in _TEXTS:
        connection.adapters.register_loader(kind, _Lenient)
    return connection


def with_database(dsn: str, database: str) -> str:
    """A DSN of keywords with a database of any name."""
    value = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"{dsn} dbname='{value}'"


def _through_bytes(dsn: str, options: dict[str, Any]) -> psycopg.Connection:
    """psycopg takes a DSN in UTF-8 alone; libpq takes any bytes."""
    more = " ".join(f"{name}='{value}'" for name, value in options.items())
    libpq = pq.PGconn.connect(bytes_of(f"{dsn} {more}"))
    if libpq.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError(libpq.error_message.decode(errors="replace"))
    connection = psycopg.Connection(libpq)
    connection.autocommit = True
    return connection
