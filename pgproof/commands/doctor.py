"""``doctor``: what would prevent a backup, a restore or a proof today, and how to fix it."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import entry_points
from typing import Any

from pgproof.commands.console import Console, table
from pgproof.config import ClusterConfig, Config
from pgproof.errors import ConfigError
from pgproof.packages import require_own
from pgproof.readiness.check import answer_of
from pgproof.readiness.checks import Check, examine, stopped

COLUMNS = ("check", "state", "fact")


def doctor(name: str, config: Config) -> list[Check]:
    """Ask every question about a configured cluster, and those of higher layers that are installed.

    Raises:
        ConfigError: no cluster of this name is configured; nothing else is ever raised.
    """
    cluster = config.cluster(name)
    return [*examine(cluster, config), *further_checks(cluster, config)]


def further_checks(cluster: ClusterConfig, config: Config) -> list[Check]:
    """What layers that the engine does not know have to say, found as their commands are."""
    try:
        require_own()
    except ConfigError as error:
        found = answer_of(error)
        return [Check("packages", found.ok, "", found.fact, found.mend)]
    checks: list[Check] = []
    for point in entry_points(group="pgproof.checks"):
        try:
            checks += point.load()(cluster, config)
        except ImportError:  # a database host has the engine alone
            continue
    return checks


def exit_code(checks: list[Check]) -> int:
    """1 when something is stopped; advice and what could not be looked at stop nothing."""
    return int(bool(stopped(checks)))


def as_dict(checks: list[Check]) -> dict[str, Any]:
    """The answer of ``--json``."""
    return {"stopped": list(stopped(checks)), "checks": [check.as_dict() for check in checks]}


def rows(checks: list[Check]) -> list[tuple[str, ...]]:
    """The checks in rows of ``COLUMNS``."""
    return [(check.name, check.state, check.fact) for check in checks]


def render(console: Console, checks: list[Check]) -> None:
    """The page for a person: the table, what one cause kept us from looking at, and mends that can be pasted."""
    causes = Counter(check.fact for check in checks if check.ok is None)
    shared = [cause for cause, count in causes.items() if count > 1]
    single = [check for check in checks if check.ok is not None or check.fact not in shared]
    console.print(table("", COLUMNS, rows(single)))
    for cause in shared:
        names = ", ".join(check.name for check in checks if check.ok is None and check.fact == cause)
        console.paragraph(f"{cause}: {names}")
    for check in checks:
        if not check.ok and check.mend:
            console.paragraph(f"{check.name} ({check.state}):")
            console.script(check.mend)
    console.paragraph(f"{summary(checks)}")


def summary(checks: list[Check]) -> str:
    """One line at the end."""
    found = stopped(checks)
    if found:
        causes = [check.name for check in checks if check.ok is False and check.blocks]
        return f"stopped: {', '.join(found)}; because of {', '.join(causes)}"
    unknown = [check.name for check in checks if check.ok is None]
    return "nothing is stopped" + (f"; could not look at {', '.join(unknown)}" if unknown else "")
