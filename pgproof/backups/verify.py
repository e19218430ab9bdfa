"""Verify a backup: every stored byte is what the record names, and its own WAL can be read."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from pgproof.backups.record import BackupRecord
from pgproof.errors import ObjectDamaged, ObjectMissing, WalGap
from pgproof.repository.codec import Measured
from pgproof.repository.repository import Archive, StoredObject, check_bytes
from pgproof.wal.fetch import check_content
from pgproof.wal.segment import WalSegment


@dataclass(frozen=True, slots=True)
class Verified:
    """How much was read: objects and stored bytes."""

    objects: int
    size: int


def verify_backup(archive: Archive, record: BackupRecord, pool: Executor) -> Verified:
    """Read a backup whole, without restoring it.

    Args:
        archive: that holds it.
        record: of the backup.
        pool: threads to read with.

    Raises:
        ObjectDamaged: an object is missing, truncated or altered, or a segment of its WAL is.
        WalGap: a segment of its WAL is missing (invariant 2).
    """
    stored = [record.manifest, *(volume.object for volume in record.volumes)]
    list(pool.map(lambda item: _verify_object(archive, item), stored))
    segments = []
    segment = record.first_segment
    while segment <= record.last_segment:
        segments.append(segment)
        segment = segment.next()
    list(pool.map(lambda item: _verify_segment(archive, item), segments))
    return Verified(len(stored) + len(segments), record.stored_size)


def _verify_object(archive: Archive, stored: StoredObject) -> None:
    measured = Measured(archive.store.get(stored.key) if _exists(archive, stored) else ())
    for _ in measured:
        pass
    check_bytes(stored, measured)


def _exists(archive: Archive, stored: StoredObject) -> bool:
    try:
        archive.store.head(stored.key)
    except ObjectMissing as error:
        raise ObjectDamaged(
            f'object "{stored.key}" is missing', "The backup record names it.", "choose another backup"
        ) from error
    return True


def _verify_segment(archive: Archive, segment: WalSegment) -> None:
    try:
        fault = check_content(archive, segment.name)
    except ObjectMissing as error:
        raise WalGap(f'WAL segment "{segment}" is missing from the archive') from error
    if fault:
        raise ObjectDamaged(f'WAL segment "{segment}" is damaged', fault)
