"""Grants: the exact SQL that gives a source the role and the settings it needs; made here, run by nobody here.

The role is the least that suffices (manual, 22.5 "Predefined Roles" and 9.28 "System Administration Functions"):
no superuser, no ownership. Only what server facts show as missing is named, so that a second look after the
SQL was run returns nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from psycopg import sql

from pgproof.postgres.facts import FUNCTIONS, ROLES, RoleFacts, ServerFacts
from pgproof.postgres.versions import INCREMENTAL_BACKUP
from pgproof.visible import visible

WAL_SENDERS = 4  # a base backup, WAL receive, and one of each in reserve; more could stop a standby (26.4.3)
ARCHIVE_TIMEOUT = 60  # seconds until a quiet server archives what it has
RELOAD = " SELECT pg_reload_conf();"
LARGE_OBJECT_PARAMETER = "lo_compat_privileges"

# What is put there to have archive_mode on without archiving; replacing it ends nothing
_PLACEHOLDERS = ("", "(disabled)", ":", "true", "/bin/true", "/usr/bin/true", "exit 0", "cd .")
_ALTER_SYSTEM = re.compile(r"ALTER SYSTEM SET (\w+) = ")
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_HBA_WORDS = ("all", "replication", "sameuser", "samerole", "samegroup")
_MAP = "pgproof"  # in pg_ident.conf
_WHY = {
    "pg_read_all_data": "a proof counts and fingerprints every table",
    "pg_monitor": "sizes, archiver and replication state of every database",
    "pg_switch_wal()": "a proof ends its WAL segment instead of waiting for archive_timeout",
    "pg_create_restore_point(text)": "named points to recover to",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One statement that is missing on a server.

    Args:
        sql: the statement without its semicolon; ``\\password`` is psql's.
        why: the reason, one line.
        needs_restart: it takes effect when the server is restarted.
        optional: everything works without it, less fully; or it replaces what another tool set.
    """

    sql: str
    why: str
    needs_restart: bool = False
    optional: bool = False

    @property
    def text(self) -> str:
        """The step as it is pasted into psql, by itself."""
        if self.sql.startswith("\\"):
            return self.sql
        if self.needs_restart:
            return f"{self.sql};  -- then restart the server"
        return f"{self.sql};{RELOAD if self.setting else ''}"

    @property
    def setting(self) -> str:
        """The setting that the step changes, if it does."""
        match = _ALTER_SYSTEM.match(self.sql)
        return match[1] if match else ""

    def as_dict(self) -> dict[str, str | bool]:
        return {
            "sql": self.sql,
            "why": self.why,
            "needs_restart": self.needs_restart,
            "optional": self.optional,
        }


def missing_steps(facts: ServerFacts, command: str, *, role_exists: bool = True) -> tuple[Step, ...]:
    """Everything that is missing: the role's steps, then the server's.

    Args:
        facts: of the source, with the role that pgproof will use.
        command: the archive_command, from ``wal_commands.archive_command``.
        role_exists: whether the role is there at all.
    """
    return (*role_steps(facts.role, exists=role_exists), *setting_steps(facts, command))


def absent_role(facts: ServerFacts, name: str) -> ServerFacts:
    """Facts as they are for a role that does not exist yet: it may nothing."""
    return replace(facts, role=RoleFacts(name, False, False, ROLES, FUNCTIONS, False, facts.private))


def role_steps(role: RoleFacts, *, exists: bool = True) -> tuple[Step, ...]:
    """What the role lacks.

    Function privileges are kept per database: run them in the database that the DSN names.

    Args:
        role: as facts show it.
        exists: whether it is there at all.
    """
    name = identifier(role.name)
    steps: list[Step] = []
    if not exists:
        steps.append(Step(f"CREATE ROLE {name} LOGIN REPLICATION", "the role that pgproof logs in as"))
        steps.append(
            Step(
                f"\\password {name}",
                "asked for, never written; not needed where pg_hba.conf says peer or cert",
                optional=True,
            )
        )
    elif not (role.replication or role.superuser):
        steps.append(
            Step(f"ALTER ROLE {name} REPLICATION", "base backups are read from a replication connection")
        )
    for granted in role.missing_roles:
        steps.append(Step(f"GRANT {granted} TO {name}", _WHY[granted]))
    for function in role.missing_functions:
        steps.append(Step(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name}", _WHY[function]))
    for database in role.closed:
        grant = f"GRANT CONNECT ON DATABASE {identifier(database)} TO {name}"
        steps.append(Step(grant, "a proof reads every database; drill.exclude_databases leaves one out"))
    if not role.reads_large_objects:
        steps.append(large_objects_step(role.name))
    return tuple(steps)


def large_objects_step(role: str) -> Step:
    """What lets a proof read large objects, which pg_read_all_data does not cover."""
    return Step(
        f"GRANT SET ON PARAMETER {LARGE_OBJECT_PARAMETER} TO {identifier(role)}",
        "lets the proof read large objects; it also lets the role write them",
        optional=True,
    )


def row_security_step(role: str) -> Step:
    """What lets a proof read tables whose policies hide rows from the role."""
    return Step(
        f"ALTER ROLE {identifier(role)} BYPASSRLS",
        "lets the proof read tables that have row security",
        optional=True,
    )


def setting_steps(facts: ServerFacts, command: str) -> tuple[Step, ...]:
    """The settings that stand in the way.

    Args:
        facts: of the source.
        command: the archive_command that it should have.
    """
    settings = facts.settings
    steps: list[Step] = []
    if settings["wal_level"] == "minimal":
        why = 'WAL of level "minimal" cannot be archived or recovered from'
        steps.append(alter_system("wal_level", "replica", why, restart=True))
    if int(settings["max_wal_senders"]) < WAL_SENDERS:
        why = f"a base backup is one WAL sender, WAL receive another; it is {settings['max_wal_senders']}"
        steps.append(alter_system("max_wal_senders", str(WAL_SENDERS), why, restart=True))
    steps += _archive_steps(settings, command)
    if settings.get("archive_timeout") == "0":
        why = "seconds after which a quiet server archives what it has; it is 0, which means never"
        steps.append(alter_system("archive_timeout", str(ARCHIVE_TIMEOUT), why))
    if _could_summarize(facts):
        why = "incremental backups are made from WAL summaries"
        steps.append(alter_system("summarize_wal", "on", why, optional=True))
    return tuple(steps)


def _could_summarize(facts: ServerFacts) -> bool:
    """Whether WAL summaries are off and may be switched on; with wal_level = minimal no server starts so."""
    settings = facts.settings
    off = settings.get("summarize_wal") == "off" and settings["wal_level"] != "minimal"
    return off and facts.major >= INCREMENTAL_BACKUP


def _archive_steps(settings: dict[str, str], command: str) -> list[Step]:
    off = settings["archive_mode"] == "off"
    steps: list[Step] = []
    if off:
        steps.append(
            alter_system("archive_mode", "on", "a backup needs the WAL written while it ran", restart=True)
        )
    if library := settings.get("archive_library"):
        why = (
            f'WAL goes to archive_library "{library}", not to archive_command: emptying it ends what it does'
        )
        steps.append(alter_system("archive_library", "", why, optional=True))
    present = settings.get("archive_command", "")
    if present in _PLACEHOLDERS:  # archive_mode = off shows (disabled), whatever is set
        steps.append(
            alter_system("archive_command", command, "stores every finished WAL segment", restart=off)
        )
    elif "pgproof" not in present:
        why = f'archive_command is "{present}": replacing it ends what that does'
        steps.append(alter_system("archive_command", command, why, optional=True))
    return steps


def alter_system(name: str, value: str, why: str, *, restart: bool = False, optional: bool = False) -> Step:
    """A step that sets a setting for the whole server."""
    return Step(f"ALTER SYSTEM SET {name} = {literal(value)}", why, restart, optional)


def hba_line(role: str, address: str | None, database: str = "replication") -> str:
    """A line for pg_hba.conf that lets a role in.

    Args:
        role: its name.
        address: of the client as the server sees it; None for the Unix socket.
        database: ``replication``, ``all``, or a name.
    """
    words = [database if database in ("replication", "all") else _hba_word(database), _hba_word(role)]
    if address is None:
        return "  ".join(["local", *words, "scram-sha-256"])
    return "  ".join(["host", *words, f"{address}/{128 if ':' in address else 32}", "scram-sha-256"])


def peer_lines(role: str, account: str) -> tuple[tuple[str, ...], str]:
    """Lines for pg_hba.conf, and the one for pg_ident.conf, that let an account of the system in without a password.

    Args:
        role: its name.
        account: of the operating system.
    """
    words = [_hba_word(role), f"peer map={_MAP}"]
    lines = tuple("  ".join(["local", database, *words]) for database in ("all", "replication"))
    return lines, "  ".join([_MAP, _hba_word(account), _hba_word(role)])


def _hba_word(name: str) -> str:
    plain = _PLAIN_NAME.fullmatch(name) and name not in _HBA_WORDS
    return name if plain else '"' + name.replace('"', '""') + '"'


def identifier(name: str) -> str:
    """A name as SQL takes it, always quoted: a role may be called ``user``.

    With a control character it is in PostgreSQL's other form, ``U&"a\\000Ab"``, which can be shown and pasted.
    """
    quoted = name.replace('"', '""')  # psycopg's own takes no name that is not UTF-8
    if "\n" not in name and visible(name) == name:
        return f'"{quoted}"'
    codes = ((char, f"\\{ord(char):04X}") for char in quoted.replace("\\", "\\\\"))
    return (
        'U&"' + "".join(code if char == "\n" or visible(char) != char else char for char, code in codes) + '"'
    )


def literal(value: str) -> str:
    """A string as SQL takes it."""
    return sql.Literal(value).as_string().strip()
