"""A caution is what whoever restores should read first: what is not known of the backup, or known against it."""

from __future__ import annotations

from datetime import datetime

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.state import state_of


def cautions(entry: BackupEntry, catalog: Catalog, *, archives: bool) -> tuple[str, ...]:
    """The cautions of a restore plan that need no clock.

    Args:
        entry: the backup that was chosen.
        catalog: that it is from.
        archives: whether the restored cluster will archive as its source does.
    """
    found = [f"backup {label} was not considered: {fault}" for label, fault in catalog.damaged]
    found += [f"{key} was not considered, as it is damaged: {fault}" for key, fault in catalog.unread]
    if entry.state in ("verified", "complete"):
        found.append(f"backup {entry.label} is not proven by a restore drill yet")
    if entry.state == "failed":
        what = entry.failed_what.replace("last drill", "last restore drill")
        found.append(f"the {what} of backup {entry.label} failed: {entry.failed}")
    if not entry.failed:
        found += [
            f"it builds on backup {parent.label}, which failed its {parent.failed_what}: {parent.failed}"
            for parent in catalog.doubtful_parents(entry)
        ]
    found += [f"backup {entry.label}: {text}" for text in entry.record.warnings]
    if not archives:
        found.append("the restored cluster will not archive; --take-over keeps archiving as configured")
    return tuple(found)


def stale_proof(entry: BackupEntry, now: datetime, stale_after: float) -> tuple[str, ...]:
    """That the backup was proven too long ago; nothing when it was proven lately, or never.

    Args:
        entry: the backup that was chosen.
        now: aware.
        stale_after: seconds for which a proof is good.
    """
    state = state_of(entry, now, stale_after)
    if state.name != "proven" or not state.stale:
        return ()
    days = (now - state.since).days
    return (f"backup {entry.label} was proven {days} days ago, on {state.since:%F}; that proof is stale",)
