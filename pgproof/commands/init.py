"""``init``: a new cluster is configured, its repository made, and what its server lacks is shown or applied.

Order: the configuration is read, the server looked at, then the repository made, the file written, and last
the server changed. Whatever fails leaves everything after it untouched.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from pgproof.commands.applying import StepResult, apply_steps, show_steps, waiting_steps
from pgproof.commands.config_file import Wanted, plan_addition
from pgproof.commands.console import Console, table
from pgproof.config import ClusterConfig, Config, find_path, load
from pgproof.errors import ConfigError, PgproofError, PrivilegeMissing
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.grants import Step, hba_line, identifier, missing_steps
from pgproof.postgres.programs import can_use
from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.wal_commands import archive_command
from pgproof.readiness.candidate import Candidate, database_of, look_at_candidate
from pgproof.readiness.configuration import SUBJECT, ask_configuration
from pgproof.readiness.mend import hba_mend, peer_mend, restart
from pgproof.repository.opening import open_store
from pgproof.repository.repository import Repository, check_system, create_repository

_SECRETS = ("password", "sslpassword")
# not the server's place
_OF_THE_SESSION = ("password", "passfile", "options", "application_name", "client_encoding")


@dataclass(frozen=True, slots=True)
class InitResult:
    """What ``init`` found and did.

    Args:
        cluster: its name.
        path: of the configuration.
        written: whether the file was written; False when it says all of this already.
        repository: name of its section.
        url: of the repository.
        repository_id: the repository's own id.
        copies: name and url of the other repositories that get the WAL.
        server: version of the server.
        system_identifier: of the cluster.
        database: where the role's functions are granted.
        applied: whether the steps were run.
        steps: what the server lacks or lacked.
        notes: what a person has to do or to know, best lines to paste.
    """

    cluster: str
    path: Path
    written: bool
    repository: str
    url: str
    repository_id: str
    server: str
    system_identifier: int
    database: str
    applied: bool
    steps: tuple[StepResult, ...]
    notes: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 when a step failed, as for every finding."""
        return int(any(result.state == "failed" for result in self.steps))

    def as_dict(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "config": str(self.path),
            "written": self.written,
            "repository": self.repository,
            "url": self.url,
            "repository_id": self.repository_id,
            "copies": dict(self.copies),
            "server": self.server,
            "system_identifier": self.system_identifier,
            "database": self.database,
            "applied": self.applied,
            "steps": [result.as_dict() for result in self.steps],
            "notes": list(self.notes),
        }


def initialise(
    name: str,
    dsn: str,
    repository_url: str,
    *,
    config_path: str | Path | None = None,
    apply: bool = False,
    optional: bool = False,
    admin_dsn: str | None = None,
    password: str | None = None,
    endpoint: str | None = None,
    region: str | None = None,
) -> InitResult:
    """Configure a cluster, make its repository, and show or apply what its server lacks.

    Asked again with the same DSN and URL it leaves the file alone: that is how ``--apply`` follows a look.

    Args:
        name: of the new cluster.
        dsn: how pgproof will connect, without a password; without a database it gets ``dbname=postgres``.
        repository_url: where backups and WAL go; a section with this URL is used again.
        config_path: of pgproof.toml.
        apply, optional: run the steps; the optional ones too.
        admin_dsn: of a superuser, who runs the steps, and looks when the role cannot log in yet.
        password: reference of the role's password, such as ``env:NAME``.
        endpoint, region: of an S3 store that is not AWS.

    Raises:
        ConfigError: the DSN holds a password, the file is malformed or has another cluster of this name.
        PrivilegeMissing: ``apply`` without anybody who may.
        ServerUnreachable, AuthenticationFailed, UnsupportedVersion, WrongSystem, RepositoryFormat,
        RepositoryReadOnly, StoreUnavailable: nothing was configured, as with those above.
    """
    path = find_path(config_path)
    wanted = Wanted(name, _checked_dsn(name, dsn, path), password, repository_url, endpoint, region)
    addition = None if _is_configured(path, wanted) else plan_addition(path, wanted)
    config = load(path) if addition is None else addition.config(path)
    cluster = config.cluster(name)
    open_store(config.repository_of(cluster))  # refuses a URL that cannot be used
    server = look_at_candidate(cluster, admin_dsn)
    _check_identity(config, cluster, server.facts)
    waiting, missing = _steps(server, path, cluster)
    if apply:
        _check_administrator(cluster, server, missing)
    repository = create_repository(config.repository_of(cluster))
    copies = {found: create_repository(settings) for found, settings in config.copies_of(cluster).items()}
    if addition is not None:
        addition.write(server.facts.system_identifier)
    results = waiting_steps(waiting)
    if apply and server.administrator is not None:
        role = server.facts.role.name
        results += apply_steps(server.administrator, role, missing, cluster.password, optional)
    else:
        results += show_steps(missing)
    notes = tuple(_notes(config, cluster, server, results))
    written = addition is not None
    return replace(
        _result(cluster, path, repository, server.facts, results, notes, written=written, applied=apply),
        copies={found: made.store.url for found, made in copies.items()},
    )


def _result(
    cluster: ClusterConfig,
    path: Path,
    repository: Repository,
    facts: ServerFacts,
    steps: tuple[StepResult, ...],
    notes: tuple[str, ...],
    *,
    written: bool,
    applied: bool,
) -> InitResult:
    return InitResult(
        cluster=cluster.name,
        path=path,
        written=written,
        repository=cluster.repository,
        url=repository.store.url,
        repository_id=repository.identifier,
        server=facts.version_text,
        system_identifier=facts.system_identifier,
        database=database_of(cluster.dsn),
        applied=applied,
        steps=steps,
        notes=notes,
    )


def _checked_dsn(name: str, dsn: str, path: Path) -> str:
    """The DSN as it is written: with a database, and never with a password."""
    try:
        settings = conninfo_to_dict(dsn)
    except psycopg.Error as error:
        # libpq's text quotes the DSN, and so perhaps a password
        said = "" if "password" in dsn or "@" in dsn else " ".join(f"{error}.".split())
        raise ConfigError(
            f'the DSN of cluster "{name}" cannot be read', said, 'such as "host=db.example.com user=pgproof"'
        ) from None
    if any(settings.get(secret) for secret in _SECRETS):
        raise ConfigError(
            f'the DSN of cluster "{name}" holds a password',
            f"It would be written into {path}.",
            'leave it out, and use ~/.pgpass or password = "env:NAME"',
        )
    if settings.get("service"):
        return dsn
    more = {key: value for key, value in _of_environment().items() if not settings.get(key)}
    if not settings.get("dbname") and "service" not in more:  # whose file may name one
        more = {"dbname": "postgres", **more}
    if not more:
        return dsn
    return make_conninfo(dsn, **more) if "://" in dsn else f"{dsn} {make_conninfo(**more)}".strip()


def _of_environment() -> dict[str, str]:
    """What libpq takes from this environment, which cron, a worker and the archiver do not have; no secret."""
    if os.environ.get("PGSERVICE"):
        return {"service": os.environ["PGSERVICE"]}
    return {
        keyword: value
        for option in Conninfo.get_defaults()
        if (keyword := option.keyword.decode()) not in _OF_THE_SESSION
        and (value := os.environ.get((option.envvar or b"").decode()))
    }


def _is_configured(path: Path, wanted: Wanted) -> bool:
    """Whether the file has this very cluster already."""
    if not path.exists():
        return False
    config = load(path)
    cluster = config.clusters.get(wanted.name)
    if cluster is None:
        return False
    same = conninfo_to_dict(cluster.dsn) == conninfo_to_dict(wanted.dsn)
    return same and config.repository_of(cluster).url.rstrip("/") == wanted.url.rstrip("/")


def _wanted(databases: Sequence[str], cluster: ClusterConfig) -> tuple[str, ...]:
    """Those of some databases that drills look at."""
    return tuple(name for name in databases if name not in cluster.drill.exclude_databases)


def _steps(server: Candidate, path: Path, cluster: ClusterConfig) -> tuple[list[Step], list[Step]]:
    """What waits for a restart, and what is missing."""
    command = archive_command(path)
    role = replace(server.facts.role, closed=_wanted(server.facts.role.closed, cluster))
    facts = replace(server.facts, role=role)
    steps = missing_steps(facts, command, role_exists=server.role_exists)
    waiting = [step for step in steps if step.setting in server.pending]
    return waiting, [step for step in steps if step not in waiting]


def _check_identity(config: Config, cluster: ClusterConfig, facts: ServerFacts) -> None:
    """Refuse a server that is another cluster's: its WAL would be stored under the first name that fits."""
    check_system(cluster.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    for other in config.clusters.values():
        if other.name != cluster.name and other.system_identifier == facts.system_identifier:
            raise ConfigError(
                f'this server is configured already as cluster "{other.name}"',
                f"Its system identifier is {facts.system_identifier}.",
                f"pgproof doctor {other.name}",
            )


def _check_administrator(cluster: ClusterConfig, server: Candidate, missing: list[Step]) -> None:
    if server.administrator is None and any(not step.optional for step in missing):
        raise PrivilegeMissing(
            f'role "{server.facts.role.name}" cannot change the server of cluster "{cluster.name}"',
            "It is no superuser. Nothing was written.",
            'give --admin-dsn "host=... user=postgres", or leave out --apply to see the SQL',
        )


def _notes(
    config: Config, cluster: ClusterConfig, server: Candidate, results: tuple[StepResult, ...]
) -> list[str]:
    notes = []
    role = server.facts.role.name
    if server.role_exists and server.facts.role.superuser:
        notes.append(
            f'role "{role}" is a superuser; pgproof needs less: a dsn with user=pgproof, and --admin-dsn for this one'
        )
    if waiting := [result.step.setting for result in results if result.state == "needs restart"]:
        notes.append(restart(*waiting))
    made = any(r.state == "done" and r.step.sql.startswith("CREATE ROLE") for r in results)
    if server.role_exists or made:
        notes += _login_notes(cluster, role)
    else:
        notes.append(f"the role needs a way to log in, unless it has one:\n{_way_in(cluster, server, role)}")
    notes += _configuration_notes(cluster, server)
    notes += _access_notes(config, cluster, server.account)
    if server.facts.in_recovery:
        notes.append("the server is a standby: run the role's statements on its primary")
    return notes


def _way_in(cluster: ClusterConfig, server: Candidate, role: str) -> str:
    """What lets a role in that is not there yet."""
    if server.client_address is None and cluster.password is None:
        return peer_mend(role)
    lines = [hba_line(role, server.client_address, database) for database in ("all", "replication")]
    return "\n".join(["add to pg_hba.conf, then SELECT pg_reload_conf():", *lines])


def _login_notes(cluster: ClusterConfig, role: str) -> list[str]:
    """Whether the role's connections open now: a session, and replication."""
    try:
        with connect(cluster):
            pass
    except PgproofError as error:
        mend = (
            hba_mend(error, cluster, role, "all")
            or f"psql -c '\\password {identifier(role)}' sets a password"
        )
        return [f"{error.fact}: {error.detail}; {mend}"]
    try:
        with ReplicationConnection(cluster) as connection:
            connection.identify_system()
    except PgproofError as error:
        if mend := hba_mend(error, cluster, role, "replication"):
            return [f"the replication connection does not open; {mend}"]
    return []


def _configuration_notes(cluster: ClusterConfig, server: Candidate) -> list[str]:
    """What backups can take of the configuration files; nothing while the role cannot log in, as doctor says then."""
    try:
        answer = ask_configuration(cluster, server.facts, database_of(cluster.dsn))
    except (PgproofError, psycopg.Error):
        return []
    return [f"{SUBJECT}: {answer.fact}" + (f"\n{answer.mend}" if answer.mend else "")]


def _access_notes(config: Config, cluster: ClusterConfig, account: pwd.struct_passwd | None) -> list[str]:
    """What the account of archive_command, which is the server's, must reach."""
    url = urlsplit(config.repository_of(cluster).url)
    needs = [("-r", str(config.path))] + ([("-w", unquote(url.path))] if url.scheme == "file" else [])
    notes = []
    if url.scheme != "file":
        notes.append(
            "archive_command has the server's environment, not yours: the store's credentials must be found there, "
            'by an instance role, or by "file:..." in the repository\'s section'
        )
    if account is not None and os.geteuid() == 0:
        needs = [(flag, place) for flag, place in needs if not can_use(account, flag, place)]
        places = [place for _, place in needs]
        mend = f"chown -R {account.pw_name}: {shlex.join(places)}"
        who = f'account "{account.pw_name}", which cannot use {" or ".join(places)}: {mend}'
    else:
        what = " and ".join(f"{'write' if flag == '-w' else 'read'} {place}" for flag, place in needs)
        who = f"the server's account, which must {what}"
    if needs and not (account is not None and account.pw_uid == os.geteuid()):
        notes.append(f"archive_command runs as {who}")
    return notes


def render(console: Console, result: InitResult) -> None:
    """The page for a person."""

    verb = "is in" if not result.written else "written to"
    console.print(
        f'cluster "{result.cluster}" {verb} {result.path}, with repository "{result.repository}" at {result.url}'
    )
    for name, url in result.copies.items():
        console.print(f'its WAL goes to repository "{name}" at {url}, too')
    console.print(f"{result.server}, system identifier {result.system_identifier}")
    to_do = [step for step in result.steps if step.state == "to do"]
    if not result.steps:
        console.paragraph("The server lacks nothing.")
    elif not to_do:
        rows = [(r.state, r.step.sql, r.detail or r.step.why) for r in result.steps]
        console.print()
        console.print(table("", ("state", "statement", "why"), rows))
    else:
        console.paragraph("The server lacks this; as a superuser in psql, or with --apply:")
        console.print()
        console.script(script(result))
    for note in result.notes:
        console.paragraph(f"{note}")
    console.paragraph(f"next: pgproof doctor {result.cluster}")


def script(result: InitResult) -> str:
    """The steps that are left, as a script for psql."""
    steps = [r.step for r in result.steps if r.state == "to do"]
    lines = [f"\\connect {identifier(result.database)}"]
    for optional in (False, True):
        for step in (step for step in steps if step.optional is optional):
            lines += [f"-- {'optional: ' if optional else ''}{step.why}{_restart_mark(step.needs_restart)}"]
            lines += [step.sql if step.sql.startswith("\\") else f"{step.sql};"]
    if any(step.setting for step in steps):
        lines.append("SELECT pg_reload_conf();")
    return "\n".join(lines)


def _restart_mark(needed: bool) -> str:
    return " (then restart the server)" if needed else ""
