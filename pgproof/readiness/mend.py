"""A mend is a line to paste that takes a bad fact away; its SQL comes from the one table of grants."""

from __future__ import annotations

import os
import pwd
import re

from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.grants import hba_line, peer_lines, setting_steps
from pgproof.postgres.programs import account
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


def hba_mend(error: PgproofError, cluster: ClusterConfig, role: str, database: str) -> str:
    """The line that pg_hba.conf lacks, when that is what libpq's text says; else nothing."""
    peer = "Peer authentication failed" in error.detail
    found = re.search(r'no pg_hba\.conf entry for .*?host "([^"]+)"', error.detail)
    if not peer and found is None:
        return ""
    if peer and os.geteuid() == 0:
        return error.hint  # a line for root would come before one that lets the server's account in
    address = None if found is None or found[1] == "[local]" else found[1]
    if address is None and cluster.password is None:
        return peer_mend(role)
    where = ", above the line with peer" if peer else ""
    return f"add to pg_hba.conf{where}, then SELECT pg_reload_conf(): {hba_line(role, address, database)}"


def peer_mend(role: str) -> str:
    """What lets the server's own account in as a role, without any password."""
    user = account(None) or pwd.getpwuid(os.geteuid())
    lines, ident = peer_lines(role, user.pw_name)
    return "\n".join(
        [
            "add to pg_hba.conf, above other lines with local:",
            *lines,
            "add to pg_ident.conf, then SELECT pg_reload_conf():",
            ident,
        ]
    )
