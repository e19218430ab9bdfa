"""The role: what it may do, and which connections and databases are open to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pgproof.config import DRILL_CONNECTIONS, ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.grants import identifier, large_objects_step, role_steps, row_security_step
from pgproof.readiness.check import Answer, Question, Subject, answer_of, one_line
from pgproof.readiness.mend import hba_mend
from pgproof.readiness.source import DatabaseState


def _replication(subject: Subject) -> Answer:
    role = subject.facts.role
    if role.replication or role.superuser:
        return Answer(True, f'role "{role.name}" has it')
    return Answer(False, f'role "{role.name}" lacks it', _grant(subject, "REPLICATION"))


def _read_all_data(subject: Subject) -> Answer:
    return _membership(subject, "pg_read_all_data")


def _monitor(subject: Subject) -> Answer:
    return _membership(subject, "pg_monitor")


def _membership(subject: Subject, name: str) -> Answer:
    role = subject.facts.role
    if name not in role.missing_roles:
        return Answer(True, f'role "{role.name}" has it')
    return Answer(False, f'role "{role.name}" lacks it', _grant(subject, name))


def _switch_wal(subject: Subject) -> Answer:
    answer = _function(subject, "pg_switch_wal()")
    timeout = int(subject.facts.settings["archive_timeout"])
    patience = subject.cluster.drill.archive_timeout
    if answer.ok or 0 < timeout <= patience:  # a proof waits for archive_timeout, and that is in time
        return replace(answer, blocks=None if answer.ok else "")
    fact = f"{answer.fact}: a proof waits {patience} s for WAL, and archive_timeout is {timeout}"
    return replace(answer, fact=fact)


def _create_restore_point(subject: Subject) -> Answer:
    return _function(subject, "pg_create_restore_point(text)")


def _function(subject: Subject, signature: str) -> Answer:
    role, database = subject.facts.role, subject.source.database
    if signature not in role.missing_functions:
        return Answer(True, f'role "{role.name}" may call it in database "{database}"')
    mend = f"\\connect {identifier(database)}\n{_grant(subject, signature)}"
    return Answer(False, f'role "{role.name}" may not call it in database "{database}"', mend)


def _grant(subject: Subject, what: str) -> str:
    return "\n".join(step.text for step in role_steps(subject.facts.role) if what in step.sql)


def _replication_connection(subject: Subject) -> Answer:
    facts, found = subject.facts, subject.source.replication
    if isinstance(found, PgproofError):
        answer = replace(answer_of(found), ok=False)
        mend = _grant(subject, "REPLICATION") or hba_mend(
            found, subject.cluster, facts.role.name, "replication"
        )
        return replace(answer, mend=mend or answer.mend)
    if found.system_identifier != facts.system_identifier:
        return Answer(
            False,
            f"it leads to system identifier {found.system_identifier}, "
            f"a session to {facts.system_identifier}",
            "let the dsn lead to one server",
        )
    return Answer(True, f"it opens; WAL is flushed up to {found.flush_lsn}")


def _databases(subject: Subject) -> Answer:
    databases, role = subject.source.databases, subject.facts.role.name
    refused = [database for database in databases if database.refusal is not None]
    tight = subject.source.tight
    if not refused and not tight:
        return Answer(True, f"open: {_names(databases)}")
    if not refused:
        named = ", ".join(f'"{name}" ({limit})' for name, limit in tight)
        fact = f"a CONNECTION LIMIT is less than the {DRILL_CONNECTIONS} that a drill needs: {named}"
        return Answer(False, f"{fact}; no proof looks at them", _tight_mend(tight))
    reasons = {one_line(d.refusal.detail or d.refusal.fact) for d in refused if d.refusal is not None}
    mends = dict.fromkeys(
        filter(None, (_database_mend(database, subject.cluster, role) for database in refused))
    )
    fact = f"closed: {_names(refused)}: {'; '.join(sorted(reasons))}; no proof looks at them"
    mend = "\n".join(filter(None, (*mends, _tight_mend(tight))))
    return Answer(False, fact, mend)


def _tight_mend(tight: Sequence[tuple[str, int]]) -> str:
    return "\n".join(
        f"ALTER DATABASE {identifier(name)} CONNECTION LIMIT {limit + DRILL_CONNECTIONS};"
        for name, limit in tight
    )


def _database_mend(database: DatabaseState, cluster: ClusterConfig, role: str) -> str:
    error = database.refusal
    if error is None:
        return ""
    if "permission denied for database" in error.detail:
        return f"GRANT CONNECT ON DATABASE {identifier(database.name)} TO {identifier(role)};"
    return hba_mend(error, cluster, role, database.name) or error.hint


def _large_objects(subject: Subject) -> Answer:
    source = subject.source
    holding = [database for database in source.databases if database.large_objects]
    if not holding:
        return Answer(True, "there are none")
    if source.sets_large_objects:
        return Answer(True, f"those in {_names(holding)} can be read")
    fact = f"those in {_names(holding)} cannot be read: a proof names them as not checked"
    step = large_objects_step(source.facts.role.name)
    return Answer(False, fact, f"{step.text}  -- it also lets the role write them")


def _row_security(subject: Subject) -> Answer:
    hiding = [f'{d.hidden} in "{d.name}"' for d in subject.source.databases if d.hidden]
    if not hiding:
        return Answer(True, "no table hides rows from the role")
    fact = f"tables that hide rows: {', '.join(hiding)}; a proof names them as not checked"
    return Answer(False, fact, row_security_step(subject.facts.role.name).text)


def _unlogged(subject: Subject) -> Answer:
    found = [f'{d.unlogged} in "{d.name}"' for d in subject.source.databases if d.unlogged]
    if not found:
        return Answer(True, "there are none")
    fact = f"they come back empty from every recovery: {', '.join(found)}"
    return Answer(False, fact, "ALTER TABLE ... SET LOGGED;  -- where the rows matter")


def _names(databases: list[DatabaseState] | tuple[DatabaseState, ...]) -> str:
    return ", ".join(f'"{database.name}"' for database in databases)


QUESTIONS = (
    Question("REPLICATION", "backup", _replication),
    Question("replication connection", "backup", _replication_connection),
    Question("pg_read_all_data", "proof", _read_all_data),
    Question("pg_monitor", "", _monitor),
    Question("pg_switch_wal", "proof", _switch_wal),
    Question("pg_create_restore_point", "", _create_restore_point),
    Question("databases", "", _databases),
    Question("large objects", "", _large_objects),
    Question("row security", "", _row_security),
    Question("unlogged tables", "", _unlogged),
)
