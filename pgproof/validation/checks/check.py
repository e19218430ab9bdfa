"""A check is one thing that a drill looks at besides the comparison: ok, with findings, or not possible and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgproof.validation.fences.fence import NotChecked

EVERY_DATABASE = "every database"
MOST_FINDINGS = 20  # of one check; the first ones tell what happened


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check says.

    Args:
        name: of the check, such as ``amcheck``.
        database: that it looked at, or EVERY_DATABASE.
        checked: how many things it looked at; 0 when it was not possible.
        seconds: that it took.
        findings: what is wrong, with the place; any of them makes the drill's verdict not proven.
        not_checked: what could not be looked at, through no fault of the backup.
        warnings: what a program warned of when it ended well.
    """

    name: str
    database: str
    checked: int
    seconds: float
    findings: tuple[str, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether nothing was found; None when nothing was looked at."""
        if self.findings:
            return False
        return True if self.checked else None

    def as_record(self) -> dict[str, Any]:
        """What the proof record keeps; what was not checked is listed there with all else of its kind."""
        return {
            "name": self.name,
            "database": self.database,
            "ok": self.ok,
            "checked": self.checked,
            "seconds": round(self.seconds, 3),
            "findings": list(self.findings),
            "warnings": list(self.warnings),
        }


def not_possible(name: str, database: str, reason: str, seconds: float = 0.0) -> CheckResult:
    """The result of a check that could not be made."""
    return CheckResult(name, database, 0, seconds, (), (NotChecked(database, f"check {name}", reason),))


def shortened(findings: Sequence[str]) -> tuple[str, ...]:
    """Not more findings than a person reads."""
    if len(findings) <= MOST_FINDINGS:
        return tuple(findings)
    return (*findings[:MOST_FINDINGS], f"and {len(findings) - MOST_FINDINGS} more")


def result_of(record: Mapping[str, Any]) -> str:
    """The result of a check as the proof record keeps it, in a word or two."""
    words = {None: "not possible", True: "ok", False: f"{len(record['findings'])} found"}
    return words[record["ok"]]
