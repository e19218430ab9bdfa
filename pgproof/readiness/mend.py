"""A mend is a line to paste that takes a bad fact away; its SQL comes from the one table of grants."""

from __future__ import annotations

import re

from pgproof.errors import PgproofError
from pgproof.postgres.grants import hba_line, setting_steps
from pgproof.postgres.wal_commands import archive_command
from pgproof.readiness.check import Subject


def wanted_archive_command(subject: Subject) -> str:
    """The archive_command that the server should have."""
    return archive_command(subject.config.path)


def setting_mend(subject: Subject, *names: str) -> str:
    """What is missing of these settings, one line each."""
    pending = [name for name in names if name in subject.source.pending_restart]
    lines = [restart(*pending)] if pending else []
    for step in setting_steps(subject.facts, wanted_archive_command(subject)):
        if step.setting in names and step.setting not in pending:
            lines.append(step.text)
    return "\n".join(lines)


def restart(*names: str) -> str:
    """The mend for settings that were changed and take effect later."""
    return f"restart the server: {' and '.join(names)} wait{'s' if len(names) == 1 else ''} for it"


def hba_mend(error: PgproofError, role: str, database: str) -> str:
    """The line that pg_hba.conf lacks, when that is what libpq's text says; else nothing."""
    if "Peer authentication failed" in error.detail:
        return "add to pg_hba.conf, above the line with peer, then SELECT pg_reload_conf(): " + hba_line(
            role, None, database
        )
    found = re.search(r'no pg_hba\.conf entry for .*?host "([^"]+)"', error.detail)
    if found is None:
        return ""
    address = None if found[1] == "[local]" else found[1]
    return f"add to pg_hba.conf, then SELECT pg_reload_conf(): {hba_line(role, address, database)}"
