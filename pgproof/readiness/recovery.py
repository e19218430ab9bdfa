"""Recovery: what the server, and its standbys, recover with."""

from __future__ import annotations

from typing import Any

from pgproof.backups.catalog import read_catalog
from pgproof.gaps.places import standbys_of
from pgproof.postgres.connection import connect, display_dsn
from pgproof.postgres.grants import alter_system
from pgproof.postgres.wal_commands import hides_faults, translated
from pgproof.readiness.check import Answer, Question, Subject
from pgproof.wal.archive import is_archived


def _restore_command(subject: Subject) -> Answer:
    """A primary may have one left from its own restore: its next standby or restore begins with it."""
    commands = {"the server": (subject.source.restore_command, subject.facts.in_recovery)}
    for standby in standbys_of(subject.cluster):
        with connect(standby) as connection:
            row: Any = connection.execute(
                "SELECT current_setting('restore_command'), pg_is_in_recovery()"
            ).fetchone()
            commands[f'standby "{display_dsn(standby.dsn)}"'] = row
    for who, (command, recovers) in commands.items():
        if hides_faults(command):
            return Answer(
                False,
                f"restore_command of {who} hands any fault of pgproof to PostgreSQL as the end of the archive",
                alter_system("restore_command", translated(command), "").text,
                blocks="restore" if recovers else "",
            )
    return Answer(True, "no restore_command takes a fault of pgproof for the end of the archive")


def _history(subject: Subject) -> Answer:
    """PostgreSQL archives the history of a timeline once, when it begins: perhaps before this archive was there."""
    timeline, url = subject.facts.timeline, subject.archive.store.url
    if timeline == 1:
        return Answer(True, "the first timeline has no history file")
    name = f"{timeline:08X}.history"
    if is_archived(subject.archive, name):
        return Answer(True, f'"{name}" of the server\'s timeline is in the repository "{url}"')
    return Answer(
        False,
        f'"{name}" of the server\'s timeline is not in the repository "{url}": no recovery along it begins',
        f"pgproof wal check {subject.cluster.name} --repair, or pgproof backup {subject.cluster.name}",
        blocks="restore" if read_catalog(subject.archive).entries else "",
    )


QUESTIONS = (
    Question("restore_command", "", _restore_command),
    Question("timeline history", "restore", _history),
)
