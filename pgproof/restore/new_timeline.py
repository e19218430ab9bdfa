"""The new timeline of a restored cluster: its own in the archive, and with the history file that leads to it.

PostgreSQL archives a history file once, at the promotion, and never when archiving is off then, as in an isolated
cluster. Without it nothing that the accepted server archives can be recovered; and the next restored cluster, which
looks for a free number among the archived history files, takes the same timeline.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

from pgproof.errors import PgproofError, WalConflict
from pgproof.postgres.control import read_control
from pgproof.repository.posix import sync_directory
from pgproof.repository.repository import Archive
from pgproof.restore.restored import RestoredCluster


def mark_history(data: Path, bin_directory: Path, owner: pwd.struct_passwd | None) -> None:
    """Have the archiver take the history file of a cluster's timeline, unless it has had it (``XLogArchiveNotify``).

    Args:
        data: the directory of the cluster, which is shut down.
        bin_directory: of its programs.
        owner: of the files when we are root.
    """
    name = f"{read_control(bin_directory, data).timeline:08X}.history"
    status = data / "pg_wal" / "archive_status"
    if not (data / "pg_wal" / name).exists() or (status / f"{name}.done").exists():
        return
    ready = status / f"{name}.ready"
    ready.touch(mode=0o600)
    if owner is not None:
        os.chown(ready, owner.pw_uid, owner.pw_gid)
    sync_directory(status)


def ask_archive(restored: RestoredCluster, opened: Callable[[], Archive] | None, timeline: int) -> str:
    """The caution that is left when the archive was asked for the timeline of a cluster that has not archived yet.

    Args:
        restored: the cluster.
        opened: opens its archive; None when nothing says where it is.
        timeline: that it writes on.

    Raises:
        WalConflict: another server archived WAL on this timeline.
    """
    if opened is None:
        return ""
    try:
        archive = opened()
        prefix = f"{archive.layout.wal}{timeline:08X}/"
        taken = archive.system_identifier == restored.record.system_identifier and next(
            iter(archive.store.list(prefix)), None
        )
    except PgproofError as error:
        return f"the archive was not asked whether timeline {timeline} is free: {error.fact}"
    if not taken:
        return ""
    raise WalConflict(
        f'cannot accept "{restored.data}": another server archives on its timeline {timeline}',
        f"It has chosen the number while it was isolated. Archived is {taken.key!r}.",
        f"restore again, which takes a timeline of its own: pgproof restore {restored.record.cluster} --to DIR; "
        "what was written into this one can be taken over with pg_dump",
    )
