"""The table of an expire plan: one form for the dry run, the log, the artifact and the golden file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from pgproof.repository.layout import without_suffix
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import DAMAGED_KEPT, ExpirePlan
from pgproof.wording import counted, size

COLUMNS = ("what", "state", "verdict", "stored", "why")


def rows(plan: ExpirePlan) -> list[tuple[str, ...]]:
    """The plan in rows of ``COLUMNS``: backups oldest first, then WAL by timeline, received parts,
    damaged objects, torn data and warnings."""
    table: list[tuple[str, ...]] = [
        (
            f"backup {verdict.label}",
            f"{verdict.kind}, {verdict.state}",
            "keep" if verdict.keep else "expire",
            size(verdict.stored_size),
            "; ".join(verdict.reasons),
        )
        for verdict in plan.verdicts
    ]
    for timeline, group in groupby(plan.remove_wal, key=lambda info: _name(info)[:8]):
        table.append(_wal_row(int(timeline, 16), list(group)))
    if plan.remove_received:
        why = "archived whole, or nothing kept needs them"
        table.append(_files_row("received parts", plan.remove_received, why))
    if plan.remove_damaged:
        why = f"kept aside by a repair more than {DAMAGED_KEPT.days} days ago"
        table.append(_files_row("damaged objects", plan.remove_damaged, why))
    for torn in plan.torn_backups:
        table.append(
            (f"backup {torn.label}", "torn", "remove", size(torn.stored_size), "data without a backup record")
        )
    table += [("warning", "", "", "", warning) for warning in plan.warnings]
    return table


def _wal_row(timeline: int, removed: Sequence[ObjectInfo]) -> tuple[str, ...]:
    return _files_row(f"WAL of timeline {timeline}", removed, "nothing kept needs them")


def _files_row(what: str, removed: Sequence[ObjectInfo], why: str) -> tuple[str, ...]:
    reach = f"{_name(removed[0])} to {_name(removed[-1])}" if len(removed) > 1 else _name(removed[0])
    stored = size(sum(info.size for info in removed))
    return (what, counted(len(removed), "file"), "remove", stored, f"{reach}: {why}")


def _name(info: ObjectInfo) -> str:
    return without_suffix(info.key).rsplit("/", 1)[-1]
