"""A backup's age is the time since it ended: how old the newest one is, against what the cluster allows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgproof.backups.catalog import Catalog


@dataclass(frozen=True, slots=True)
class BackupAge:
    """Of the newest backup, whoever took it.

    Args:
        limit: seconds that it may be old (``targets.backup_age``).
        label: of the newest backup; None when there is none.
        stopped_at: its end.
        seconds: since then.
    """

    limit: int
    label: str | None = None
    stopped_at: datetime | None = None
    seconds: float | None = None

    @property
    def overdue(self) -> bool:
        """There is no backup, or the newest one is too old."""
        return self.seconds is None or self.seconds > self.limit


def backup_age(catalog: Catalog, limit: int, now: datetime) -> BackupAge:
    """How old the newest backup is that can be restored.

    Args:
        catalog: of the archive; an incremental backup whose parent is gone does not count.
        limit: in seconds.
        now: aware.
    """
    for entry in reversed(catalog.entries):
        if catalog.is_whole(entry.label):
            stopped = entry.record.stopped_at
            return BackupAge(limit, entry.label, stopped, max(0.0, (now - stopped).total_seconds()))
    return BackupAge(limit)
