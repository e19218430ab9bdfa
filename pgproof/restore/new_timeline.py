"""The new timeline of a restored cluster: its own in the archive, and with the history file that leads to it.

PostgreSQL archives a history file once, at the promotion, and never when archiving is off then, as in an isolated
cluster. Without it nothing that the accepted server archives can be recovered; and the next restored cluster, which
looks for a free number among the archived history files, takes the same timeline. So an acceptance archives the history
file itself, before its server may archive anything: that reserves the number.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from pgproof.errors import ObjectMissing, PgproofError, WalConflict
from pgproof.postgres.control import read_control
from pgproof.postgres.rights import acting_as
from pgproof.repository.posix import sync_directory
from pgproof.repository.repository import Archive
from pgproof.restore.restored import RestoredCluster
from pgproof.restore.whole_file import replace_file
from pgproof.wal.archive import find_key
from pgproof.wal.push import push


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
    with acting_as(owner):
        ready.touch(mode=0o600)
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
        if archive.system_identifier != restored.record.system_identifier:
            return ""
        taken = next(iter(archive.store.list(f"{archive.layout.wal}{timeline:08X}/")), None)
        if taken is None or _is_ours(restored, archive, timeline):
            return ""
    except PgproofError as error:
        return f"the archive was not asked whether timeline {timeline} is free: {error.fact}"
    raise _taken(restored, timeline, f"Archived is {taken.key!r}.")


def _is_ours(restored: RestoredCluster, archive: Archive, timeline: int) -> bool:
    """Whether an acceptance that ended early has reserved the timeline for this very cluster."""
    path = _history(restored, timeline)
    if not path.exists() or _mark(timeline) not in (content := path.read_bytes()):
        return False
    try:
        return b"".join(archive.open(find_key(archive, path.name))) == content
    except ObjectMissing:
        return False


def _history(restored: RestoredCluster, timeline: int) -> Path:
    return restored.data / "pg_wal" / f"{timeline:08X}.history"


def _mark(timeline: int) -> bytes:
    return f"# timeline {timeline}: pgproof accept ".encode()


def _taken(restored: RestoredCluster, timeline: int, detail: str) -> WalConflict:
    return WalConflict(
        f'cannot accept "{restored.data}": another server archives on its timeline {timeline}',
        f"It has chosen the number while it was isolated. {detail}",
        f"restore again, which takes a timeline of its own: pgproof restore {restored.record.cluster} --to DIR; "
        "what was written into this one can be taken over with pg_dump",
    )


def reserve(restored: RestoredCluster, opened: Callable[[], Archive] | None) -> str:
    """Put the history file of a cluster's timeline into the archive, before the cluster may archive anything.

    Of two that have chosen one number the first has it: an archived file is never replaced. The file gets a comment of
    its own, as two that stopped at one LSN would have written the same; ``readTimeLineHistory`` passes comments over.
    Done again after a crash it finds its own file.

    Args:
        restored: the cluster, which is shut down and has archived nothing yet.
        opened: opens its archive; None when nothing says where it is.

    Returns:
        why it is not reserved; empty when it is.

    Raises:
        WalConflict: another one has it.
        OSError: the file cannot be written.
    """
    timeline = read_control(restored.bin_directory, restored.data).timeline
    path = _history(restored, timeline)
    if opened is None or not path.exists():
        return ""
    if _mark(timeline) not in (content := path.read_bytes()):
        replace_file(path, content.rstrip(b"\n") + b"\n" + _mark(timeline) + f"{uuid4()}\n".encode())
    try:
        archive = opened()
        if archive.system_identifier == restored.record.system_identifier:
            push(archive, path)
    except WalConflict as error:
        raise _taken(restored, timeline, f"Archived is another {path.name}.") from error
    except PgproofError as error:
        return f"timeline {timeline} could not be reserved in the archive: {error.fact}"
    return ""
