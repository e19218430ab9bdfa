"""Archiving: whether finished WAL leaves the server, and arrives in **this** repository."""

from __future__ import annotations

from pgproof.errors import ObjectMissing
from pgproof.gaps.ahead import ahead_of_source, ask_again
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.grants import ARCHIVE_TIMEOUT, alter_system
from pgproof.readiness.check import Answer, CannotLook, Question, Subject
from pgproof.readiness.mend import setting_mend, wanted_archive_command
from pgproof.wal.archive import find_key, list_wal


def _archiving(subject: Subject) -> Answer:
    facts = subject.facts
    mode = facts.settings["archive_mode"]
    if facts.archiving:
        return Answer(True, f"archive_mode is {mode} and a command is set")
    fact = f"archive_mode is {mode}"
    if mode != "off":
        fact += " and nothing stores the WAL: it piles up on the server"
    return Answer(False, fact, setting_mend(subject, "archive_mode", "archive_command"))


def _archive_command(subject: Subject) -> Answer:
    facts = _archiving_facts(subject)
    command = facts.settings.get("archive_command", "")
    if library := facts.settings.get("archive_library"):
        fact = f'archive_library "{library}" stores the WAL, and not pgproof'
        return Answer(False, fact, setting_mend(subject, "archive_library", "archive_command"))
    fact = f"archive_command is: {command}"
    if "pgproof" in command:
        return Answer(True, fact)
    return Answer(False, f"{fact}; pgproof is not in it", setting_mend(subject, "archive_command"))


def _archiver(subject: Subject) -> Answer:
    facts = _archiving_facts(subject)
    archiver = facts.archiver
    if not archiver.failing:
        done = (
            f'stored "{archiver.last_archived}" last' if archiver.last_archived else "has stored nothing yet"
        )
        return Answer(True, f"it {done} and does not fail")
    since = f"since {archiver.last_archived_at:%F %T%z}" if archiver.last_archived_at else "ever"
    command = facts.settings.get("archive_command", "")
    return Answer(
        False,
        f'"{archiver.last_failed}" failed at {archiver.last_failed_at:%F %T%z}; nothing was stored {since}',
        "the server's log says why; or run it as the server's account, in the data directory: "
        + command.replace("%p", f"pg_wal/{archiver.last_failed}").replace("%f", str(archiver.last_failed)),
    )


def _arrival(subject: Subject) -> Answer:
    facts = _archiving_facts(subject)
    name, url = facts.archiver.last_archived, subject.archive.store.url
    if facts.in_recovery:
        return Answer(None, "could not look: a standby does not say what its primary archived")
    if name is None:
        return Answer(None, "could not look: nothing was archived yet", "SELECT pg_switch_wal();")
    try:
        find_key(subject.archive, name)
    except ObjectMissing:
        return Answer(
            False,
            f'"{name}" was archived last and is not in the repository "{url}"',
            f"SELECT pg_switch_wal(); if the next is missing too, archive_command must be: "
            f"{wanted_archive_command(subject)}",
        )
    return Answer(True, f'"{name}", which was archived last, is in the repository "{url}"')


def _position(subject: Subject) -> Answer:
    facts = subject.facts
    if facts.in_recovery:
        return Answer(None, "could not look: a standby may be behind the archive")
    listing = list_wal(subject.archive, facts.segment_size)
    if fault := ahead_of_source(listing, facts, lambda: ask_again(subject.cluster)):
        return Answer(False, fault, f"pgproof wal check {subject.cluster.name}")
    return Answer(True, f"the source writes at LSN {facts.insert_lsn}, and the archive is not ahead of it")


def _backlog(subject: Subject) -> Answer:
    source, rpo = subject.source, subject.cluster.targets.rpo
    if source.waiting is None:
        raise CannotLook("pg_monitor is not granted")
    fact = f"finished files that wait: {source.waiting}"
    if source.waiting and source.waiting_seconds > rpo:
        return Answer(
            False,
            f"{fact}, the oldest for {source.waiting_seconds:.0f} s; the RPO is {rpo} s",
            "SELECT * FROM pg_stat_archiver;  -- is it failing, or too slow?",
        )
    return Answer(True, fact)


def _archive_timeout(subject: Subject) -> Answer:
    seconds, rpo = int(subject.facts.settings["archive_timeout"]), subject.cluster.targets.rpo
    if 0 < seconds <= rpo:
        return Answer(True, f"a quiet server archives after {seconds} s; the RPO is {rpo} s")
    fact = f"a quiet server archives after {seconds} s" if seconds else "a quiet server archives nothing"
    step = alter_system("archive_timeout", str(min(ARCHIVE_TIMEOUT, max(rpo, 1))), "")
    return Answer(False, f"archive_timeout is {seconds}: {fact}; the RPO is {rpo} s", step.text)


def _archiving_facts(subject: Subject) -> ServerFacts:
    if not subject.facts.archiving:
        raise CannotLook("the server does not archive")
    return subject.facts


QUESTIONS = (
    Question("archiving", "backup", _archiving),
    Question("archive_command", "", _archive_command),
    Question("archiver", "backup", _archiver),
    Question("WAL arrival", "backup", _arrival),
    Question("WAL position", "backup", _position),
    Question("archive backlog", "", _backlog),
    Question("archive_timeout", "", _archive_timeout),
)
