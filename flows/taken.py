"""What every flow that took a base backup tells of it: its lineage, its artifact, and the form of a restore."""

from __future__ import annotations

from tasks.artifacts import show_backup
from tasks.base_backup import TakenBackup
from tasks.lineage import backup_lineage, emit_lineage
from tasks.offers import offer_backups


def tell_backup(cluster: str, taken: TakenBackup, config: str | None) -> None:
    """Tell of a base backup that is complete and not proven yet.

    Args:
        cluster: its name.
        taken: the backup.
        config: path of pgproof.toml; None is the default.
    """
    emit_lineage(backup_lineage(cluster, taken))
    show_backup(cluster, taken)
    offer_backups(cluster, config)
