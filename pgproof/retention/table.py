"""The table of an expire plan: one form for the dry run, the log, the artifact and the golden file."""

from __future__ import annotations

from itertools import groupby

from pgproof.repository.layout import without_suffix
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import ExpirePlan

COLUMNS = ("what", "state", "verdict", "bytes", "why")


def rows(plan: ExpirePlan) -> list[tuple[str, ...]]:
    """The plan in rows of ``COLUMNS``: backups oldest first, then WAL by timeline, torn data and warnings."""
    table: list[tuple[str, ...]] = [
        (
            f"backup {verdict.label}",
            f"{verdict.kind}, {verdict.state}",
            "keep" if verdict.keep else "expire",
            str(verdict.stored_size),
            "; ".join(verdict.reasons),
        )
        for verdict in plan.verdicts
    ]
    for timeline, group in groupby(plan.remove_wal, key=lambda info: _name(info)[:8]):
        table.append(_wal_row(int(timeline, 16), list(group)))
    for torn in plan.torn_backups:
        table.append(
            (f"backup {torn.label}", "torn", "remove", str(torn.stored_size), "data without a backup record")
        )
    table += [("warning", "", "", "", warning) for warning in plan.warnings]
    return table


def _wal_row(timeline: int, removed: list[ObjectInfo]) -> tuple[str, ...]:
    reach = f"{_name(removed[0])} to {_name(removed[-1])}" if len(removed) > 1 else _name(removed[0])
    size = sum(info.size for info in removed)
    count = f"{len(removed)} file{'s' if len(removed) > 1 else ''}"
    return (f"WAL of timeline {timeline}", count, "remove", str(size), f"{reach}: nothing kept needs them")


def _name(info: ObjectInfo) -> str:
    return without_suffix(info.key).rsplit("/", 1)[-1]
