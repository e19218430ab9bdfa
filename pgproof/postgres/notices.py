"""A notice is what the server says beside its answer: in warnings BASE_BACKUP tells what it found and left out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import pq
from psycopg.pq.abc import PGresult

_MOST = 20  # that an error repeats
# Where PostgreSQL passes over something with a warning: a symbolic link or special file, and a tablespace's link.
# A warning has no code of its own, and its text is in the server's language; the function's name is not.
_PASSING_OVER = ("sendDir", "do_pg_backup_start")
_WAITING = "WaitForWalSummarization"
# "./base/16393", "pg_tblspc/16400" or, in a tablespace, an absolute path; in the quotes of the server's language
_PATH = re.compile(
    r"[\"»«“”„‘’「『‹]\s*(?:\./)?(?P<path>(?:/|pg_tblspc/)?[^\"»«“”„‘’」』›]*?)\s*[\"»«“”„‘’」』›]"
)


@dataclass(frozen=True, slots=True)
class Notice:
    """One warning of the server.

    Args:
        text: on one line, in the server's language.
        function: of PostgreSQL's source that said it.
    """

    text: str
    function: str = ""

    @property
    def waits(self) -> bool:
        """Said again and again while the server waits for its WAL summaries, before an incremental backup."""
        return self.function == _WAITING

    @property
    def left_out(self) -> str:
        """The path that a base backup left out, below the data directory or absolute; empty for another warning."""
        if self.function not in _PASSING_OVER:
            return ""
        match = _PATH.search(self.text)
        return match["path"] if match else self.text


class Notices:
    """The warnings of one connection, in order."""

    def __init__(self) -> None:
        self.all: list[Notice] = []

    def hear(self, notice: PGresult) -> None:
        """Keep a warning: the file and block of a bad page, and what was left out, are told nowhere else."""

        def field(which: pq.DiagnosticField) -> str:
            text = (notice.error_field(which) or b"").decode(errors="surrogateescape")
            return " ".join(text.split())

        if notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"WARNING":
            said = field(pq.DiagnosticField.MESSAGE_PRIMARY)
            self.all.append(Notice(said, field(pq.DiagnosticField.SOURCE_FUNCTION)))

    def summary(self) -> str:
        """All of them, as an error repeats them; empty when there is none."""
        more = len(self.all) - _MOST
        said = [notice.text for notice in self.all[:_MOST]]
        return "; ".join([*said, *([f"and {more} more"] if more > 0 else [])])
