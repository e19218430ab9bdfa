"""An inspection is one database of the opened copy, while a check looks at its relations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from pgproof.config import DrillConfig
from pgproof.postgres.connection import open_session, set_all
from pgproof.postgres.faults import shortage
from pgproof.validation.checks.check import CheckResult, shortened
from pgproof.validation.fences.fence import WHOLE_DATABASE, NotChecked

ENDED = "the copy's server ended while this was checked"
LOCK_TIMEOUT = "500ms"  # only a prepared transaction still holds locks in the copy
UNTIL_LOGGED = 1.0  # seconds after which the server has logged how a process ended, and not only dropped it
MOST_OF_ONE = 5  # findings of one relation
# SQLSTATE classes that tell of damage: internal error (and corrupted data or index), and operating system
_DAMAGE = ("XX", "58")


@dataclass
class Inspection:
    """One database, while it is checked.

    Args:
        drill: settings.
        database: its name.
    """

    drill: DrillConfig
    database: str
    started: float = field(default_factory=time.monotonic)
    findings: list[str] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)
    checked: int = 0

    @property
    def left(self) -> float:
        """Seconds until ``drill.check_timeout`` is over."""
        return self.started + self.drill.check_timeout - time.monotonic()

    @property
    def over(self) -> str:
        """Why a relation was not checked when no time was left for it."""
        return f"drill.check_timeout of {self.drill.check_timeout} s is over"

    def leave_out(self, what: str, reason: str) -> None:
        self.not_checked.append(NotChecked(self.database, what, reason))

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """A copy that does not answer is a finding, unless its machine lacks something."""
        try:
            yield
        except psycopg.Error as error:
            if reason := shortage(error):
                return self.leave_out(WHOLE_DATABASE, reason)
            self.findings.append(f"the copy does not answer: {' '.join(str(error).split())}")

    def result(self, name: str) -> CheckResult:
        """What the check of this name says."""
        seconds = time.monotonic() - self.started
        findings = shortened(sorted(self.findings))
        return CheckResult(name, self.database, self.checked, seconds, findings, tuple(self.not_checked))


def tells_of_damage(error: psycopg.Error) -> bool:
    """Whether what a check met is damage: in a copy that nobody else uses, an internal error is, too."""
    return str(error.sqlstate or "").startswith(_DAMAGE) and not shortage(error)


@contextlib.contextmanager
def opened(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to the opened copy, which shows every name with its schema, as it searches none but PostgreSQL's.

    Args:
        dsn: of the database, for a superuser.
    """
    with open_session(dsn) as connection:
        set_all(connection, {"lock_timeout": LOCK_TIMEOUT, "search_path": "pg_catalog"})
        yield connection
