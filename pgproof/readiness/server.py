"""The server: whether it answers, is the right one, and writes WAL that can be recovered from."""

from __future__ import annotations

import re
from dataclasses import replace

from psycopg.conninfo import conninfo_to_dict

from pgproof.errors import ConfigError, PgproofError
from pgproof.postgres.grants import alter_system
from pgproof.postgres.versions import INCREMENTAL_BACKUP, NEWEST_TESTED
from pgproof.readiness.check import Answer, Question, Subject, answer_of
from pgproof.readiness.mend import hba_mend, restart, setting_mend
from pgproof.repository.repository import check_system
from pgproof.wording import duration

_SKEW = 5.0  # seconds; machines that keep time differ by a few milliseconds
_NO_DATABASE = re.compile(r'database ".*" does not exist$')


def _connection(subject: Subject) -> Answer:
    found = subject.found_source
    if not isinstance(found, PgproofError):
        facts, database = found.facts, found.database
        return Answer(True, f'{facts.version_text} lets role "{facts.role.name}" into database "{database}"')
    answer = replace(answer_of(found), ok=False)  # unreachable is what was asked
    if isinstance(found, ConfigError):
        return answer
    if line := hba_mend(found, subject.cluster, _named(subject, "user") or "all", "all"):
        return replace(answer, mend=line)
    if _NO_DATABASE.search(found.detail) and not _named(subject, "dbname"):
        return replace(answer, mend=f'add dbname=postgres to the dsn of cluster "{subject.cluster.name}"')
    return answer


def _named(subject: Subject, keyword: str) -> str:
    """What the DSN itself says."""
    return str(conninfo_to_dict(subject.cluster.dsn).get(keyword) or "")


def _version(subject: Subject) -> Answer:
    major = subject.facts.major
    if major <= NEWEST_TESTED:
        return Answer(True, f"PostgreSQL {major} is supported and tested")
    fact = f"PostgreSQL {major} is newer than the newest that this pgproof is tested with, {NEWEST_TESTED}"
    return Answer(False, fact, "pip install --upgrade pgproof", blocks="")


def _system_identifier(subject: Subject) -> Answer:
    configured, name = subject.cluster.system_identifier, subject.cluster.name
    found = subject.facts.system_identifier
    if configured is None:
        fact = f'none is configured: another server at this address would be taken for cluster "{name}"'
        return Answer(False, fact, f"add to [clusters.{name}]: system_identifier = {found}", blocks="")
    check_system(configured, found, f'server of cluster "{name}"')
    return Answer(True, f"{found}, as configured")


def _clock(subject: Subject) -> Answer:
    skew = subject.source.skew
    if abs(skew) <= _SKEW:
        return Answer(True, f"this machine's clock and the server's agree within {_SKEW:.0f} s")
    fact = (
        f"this machine's clock is {duration(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the server's: labels, "
        "ages and retention go by it, commits and recovery windows by the server's"
    )
    return Answer(False, fact, "timedatectl set-ntp true  # here and on the server")


def _primary(subject: Subject) -> Answer:
    if not subject.facts.in_recovery:
        return Answer(True, f"the server is a primary on timeline {subject.facts.timeline}")
    return Answer(
        False,
        "the server is a standby, where no proof can fence the rows",
        "let the dsn lead to the primary: name all hosts, with target_session_attrs=read-write",
    )


def _wal_level(subject: Subject) -> Answer:
    level = subject.facts.settings["wal_level"]
    if level != "minimal":
        return Answer(True, f"wal_level is {level}")
    fact = "wal_level is minimal: such WAL cannot be archived or recovered from"
    return Answer(False, fact, setting_mend(subject, "wal_level"))


def _wal_senders(subject: Subject) -> Answer:
    most, used = int(subject.facts.settings["max_wal_senders"]), subject.source.wal_senders
    fact = f"{used} of max_wal_senders = {most} are in use"
    if used < most:
        return Answer(True, fact)
    if "max_wal_senders" in subject.source.pending_restart:
        return Answer(False, fact, restart("max_wal_senders"))
    return Answer(False, fact, alter_system("max_wal_senders", str(used + 4), "", restart=True).text)


def _full_page_writes(subject: Subject) -> Answer:
    if subject.source.full_page_writes == "on":
        return Answer(True, "full_page_writes is on")
    fact = "full_page_writes is off: a crash of the source can leave torn pages, which a backup copies"
    return Answer(False, fact, alter_system("full_page_writes", "on", "").text)


def _data_checksums(subject: Subject) -> Answer:
    if subject.facts.settings.get("data_checksums") == "on":
        return Answer(True, "data checksums are on")
    return Answer(
        False,
        "data checksums are off: a backup cannot tell a page that the disk has damaged",
        "pg_checksums --enable -D DATA_DIRECTORY  # while the server is down",
    )


def _wal_summaries(subject: Subject) -> Answer:
    facts = subject.facts
    if facts.major < INCREMENTAL_BACKUP:
        return Answer(True, f"PostgreSQL {facts.major} has no incremental backups")
    if facts.settings.get("summarize_wal") == "on":
        return Answer(True, "incremental backups are possible")
    fact = "summarize_wal is off: every backup is a full one"
    return Answer(False, fact, alter_system("summarize_wal", "on", "").text)


QUESTIONS = (
    Question("connection", "backup", _connection),
    Question("version", "backup", _version),
    Question("system identifier", "backup", _system_identifier),
    Question("clock", "", _clock),
    Question("primary", "proof", _primary),
    Question("wal_level", "backup", _wal_level),
    Question("WAL senders", "backup", _wal_senders),
    Question("full_page_writes", "", _full_page_writes),
    Question("data checksums", "", _data_checksums),
    Question("WAL summaries", "", _wal_summaries),
)
