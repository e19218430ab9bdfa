"""An unfinished acceptance took the isolation away and left the restore record: the next start puts it back.

The rules of whoever may connect go first, which every line that starts a restored cluster names: without them its
server does not start, and so never without its isolation. ``pgproof start`` isolates it again and writes them.
"""

from __future__ import annotations

from dataclasses import replace

from pgproof.postgres.rights import acting_as, owner_of
from pgproof.repository.posix import sync_directory
from pgproof.restore.record import DIRECTORY, HBA
from pgproof.restore.restored import RestoredCluster
from pgproof.restore.settings import displaced, write_settings

ISOLATED_AGAIN = "an acceptance of it ended before it was done; it is isolated again, and can be accepted"
TAKEN_BACK = "an acceptance of it ended before it was done; its settings are those of the restore again"


def close(restored: RestoredCluster) -> None:
    """Keep the server of a restored cluster from starting; done again it does nothing.

    Args:
        restored: the cluster, which is shut down.
    """
    with acting_as(owner_of(restored.data)):
        (restored.data / DIRECTORY / HBA).unlink(missing_ok=True)
    sync_directory(restored.data / DIRECTORY)


def isolate_again(restored: RestoredCluster) -> str:
    """Put back what an acceptance took away before it ended; a crash before the end leaves it closed.

    Args:
        restored: the cluster, which is shut down.

    Returns:
        what was done, as a sentence; empty when there was nothing to do.
    """
    data, record = restored.data, restored.record
    if (data / DIRECTORY / HBA).exists():
        return ""
    again = replace(record, replaced=displaced(data, record.settings, record.replaced))
    again.save(data, restored.owner)
    write_settings(data, dict(record.settings))
    again.write(data, restored.owner)
    return ISOLATED_AGAIN if record.isolated else TAKEN_BACK
