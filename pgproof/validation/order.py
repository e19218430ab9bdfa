"""The order of a backup and a fence: a copy can be recovered to a cut only where the backup ended before it."""

from __future__ import annotations

from pgproof.backups.record import BackupRecord
from pgproof.errors import NotProven
from pgproof.validation.fences.fence import Fence


def require_before(record: BackupRecord, fence: Fence) -> None:
    """Refuse a backup that ends beyond the first cut of a fence.

    The source's clock tells which of the two happened first.

    Args:
        record: of the backup.
        fence: with a cut for each database.

    Raises:
        NotProven: the backup was taken after the fence; or it was taken before and ends beyond it all the same.
    """
    cut = min(database.cut for database in fence.databases if database.cut is not None)
    if record.stop_lsn <= cut:
        return
    if record.stopped_at > fence.at:
        raise NotProven(
            f'backup "{record.label}" ended after fence "{fence.identifier}" was taken',
            f"It ended at LSN {record.stop_lsn}; the cut is {cut}.",
            f"pgproof drill {fence.cluster} takes a new fence",
        )
    raise NotProven(
        f'backup "{record.label}" ends beyond fence "{fence.identifier}", which was taken later',
        f"It ended at LSN {record.stop_lsn} at {record.stopped_at:%F %T} UTC; the source was at {cut} at "
        f"{fence.at:%F %T} UTC. Its record was altered, or the server was set back to a state before the backup.",
        f"pgproof verify {fence.cluster} --backup {record.label} compares the record with its backup manifest",
    )
