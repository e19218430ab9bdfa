"""A candidate is a server that is not protected yet, looked at for the role that pgproof will be there.

That role may not exist yet: then an administrator looks in its place.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from pgproof.config import ClusterConfig
from pgproof.errors import AuthenticationFailed, ConfigError, PrivilegeMissing
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.grants import absent_role, identifier
from pgproof.readiness.source import read_pending
from pgproof.repository.repository import check_system


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server, before anything is changed.

    Args:
        facts: with the role of the DSN, which may not exist yet.
        role_exists: whether it does.
        administrator: who may run the steps, or None.
        pending: settings that were changed and wait for a restart.
        client_address: this host as the server sees it; None through the Unix socket.
        account: that the server runs as, where its socket tells.
    """

    facts: ServerFacts
    role_exists: bool
    administrator: ClusterConfig | None
    pending: tuple[str, ...]
    client_address: str | None
    account: pwd.struct_passwd | None


def look_at_candidate(cluster: ClusterConfig, admin_dsn: str | None) -> Candidate:
    """Look at a server as the role, and as the administrator when the role cannot log in yet.

    Args:
        cluster: as it will be configured.
        admin_dsn: of a superuser, or None.

    Raises:
        ServerUnreachable, AuthenticationFailed, PrivilegeMissing, UnsupportedVersion: nobody can look.
        WrongSystem: the two connections lead to different servers.
    """
    administrator = None
    if admin_dsn is not None:
        administrator = ClusterConfig(name=cluster.name, dsn=_into(admin_dsn, database_of(cluster.dsn)))
    try:
        with connect(cluster) as connection:
            facts = read_facts(connection)
            if administrator is not None:
                _check_same_server(administrator, facts)
            elif facts.role.superuser:
                administrator = cluster
            return _candidate(connection, facts, True, administrator)
    except (AuthenticationFailed, PrivilegeMissing) as error:
        if administrator is None:
            hint = '--admin-dsn "host=... user=postgres" --apply makes the role and grants what it needs'
            raise type(error)(error.fact, error.detail, f"{error.hint}; {hint}") from error
    with connect(administrator) as connection:
        return _look_as_administrator(connection, role_of(cluster.dsn), administrator)


def _into(admin_dsn: str, database: str) -> str:
    """The administrator's DSN, into the database where the role's functions are granted."""
    try:
        return make_conninfo(admin_dsn, dbname=database)
    except psycopg.Error:  # its text may quote the password
        raise ConfigError(
            "--admin-dsn cannot be read", hint='such as "host=db.example.com user=postgres"'
        ) from None


def _look_as_administrator(
    connection: psycopg.Connection, role: str, administrator: ClusterConfig
) -> Candidate:
    row = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    facts = absent_role(read_facts(connection), role)
    if row is not None:
        try:
            connection.execute(f"SET ROLE {identifier(role)}".encode())
            facts = read_facts(connection)
        except psycopg.errors.InsufficientPrivilege:
            pass  # no superuser: every grant is shown, and granting again does no harm
    return _candidate(connection, facts, row is not None, administrator)


def _candidate(
    connection: psycopg.Connection, facts: ServerFacts, exists: bool, administrator: ClusterConfig | None
) -> Candidate:
    row: Any = connection.execute("SELECT host(inet_client_addr())").fetchone()
    return Candidate(facts, exists, administrator, read_pending(connection), row[0], _account(connection))


def _check_same_server(administrator: ClusterConfig, facts: ServerFacts) -> None:
    with connect(administrator) as connection:
        found = read_facts(connection).system_identifier
    check_system(facts.system_identifier, found, "the server of --admin-dsn")


def role_of(dsn: str) -> str:
    """The role that a DSN logs in as, by libpq's rules."""
    defaults = {option.keyword: option.val for option in Conninfo.get_defaults()}
    return str(conninfo_to_dict(dsn).get("user") or (defaults.get(b"user") or b"").decode())


def database_of(dsn: str) -> str:
    """The database that a DSN leads to, by libpq's rules."""
    return str(conninfo_to_dict(dsn).get("dbname") or os.environ.get("PGDATABASE") or role_of(dsn))


def _account(connection: psycopg.Connection) -> pwd.struct_passwd | None:
    """The account of a local server: whose its Unix socket is."""
    try:
        host, port = connection.info.host, connection.info.port
        return pwd.getpwuid(os.stat(f"{host}/.s.PGSQL.{port}").st_uid) if host.startswith("/") else None
    except (OSError, KeyError):
        return None
