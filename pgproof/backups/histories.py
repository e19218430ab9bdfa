"""The histories of a backup: the timeline history files without which no recovery from it begins."""

from __future__ import annotations

import contextlib

from pgproof.errors import BackupFailed, ConfigError, PermanentError
from pgproof.postgres.replication import ReplicationConnection
from pgproof.repository.repository import Archive
from pgproof.timelines.history import TimelineHistory
from pgproof.wal.receiving.delivery import store_history
from pgproof.wal.receiving.start import read_histories


def store_histories(archive: Archive, replication: ReplicationConnection, timeline: int) -> TimelineHistory:
    """Store the history files of a server's timeline and of its ancestors.

    The server archived them once, at each promotion, and perhaps before this archive was there. Without the timeline's
    own no recovery along it begins (``validateRecoveryParameters``).

    Returns:
        that of the timeline.

    Raises:
        BackupFailed: the server does not have that of its timeline.
        WalConflict: another server was promoted to one of these timelines.
    """
    try:
        history, files = read_histories(replication, timeline)
    except PermanentError as error:
        raise BackupFailed(
            f'the server has no history file of its timeline {timeline}, and "{timeline:08X}.history" is what recovery '
            "along it begins with",
            error.fact,
            f"copy {timeline:08X}.history from a standby or an older archive into the server's pg_wal",
        ) from error
    for file in files:
        with contextlib.suppress(
            ConfigError
        ):  # it is there already, and this machine cannot decrypt it to compare
            store_history(archive, file)
    return history
