"""Verify a backup: every stored byte is what the record names, and its own WAL can be read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from pgproof.backups.manifest import LARGEST, check_manifest
from pgproof.backups.record import BackupRecord
from pgproof.errors import ObjectDamaged, ObjectMissing, ProgramMissing, WalGap
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.codec import Measured, bounded
from pgproof.repository.repository import Archive, StoredObject, check_bytes
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.content import check_row


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
        ObjectDamaged: an object is missing, truncated or altered, or a segment of its WAL is, or the record
            contradicts the backup manifest.
        WalGap: a segment of its WAL is missing (invariant 2).
    """
    manifest = record.manifest
    others = [stored for stored in record.objects if stored != manifest]
    _require_there(archive, manifest)
    content = archive.open_checked(manifest)
    check_manifest(record, bounded(manifest.key, content, LARGEST))  # before its LSNs are believed
    list(pool.map(lambda stored: _verify_object(archive, stored), others))
    segments = [*own_segments(record)]
    list(pool.map(lambda item: _require_segment(archive, item), segments))
    directory = None
    with suppress(ProgramMissing):
        directory = find_bin_directory(record.major)
    faults = check_row(archive, segments, directory)
    for segment, fault in faults.items():
        raise ObjectDamaged(f'WAL segment "{segment}" is damaged', fault)
    return Verified(1 + len(others) + len(segments), record.stored_size)


def check_present(archive: Archive, record: BackupRecord) -> None:
    """Look that all files of a backup are there with their size; one listing, nothing is read.

    Without the source's configuration the data can be restored all the same.

    Raises:
        ObjectDamaged: one is missing or has another size.
    """
    present = {info.key: info.size for info in archive.store.list(archive.layout.backup(record.label))}
    for stored in (*(volume.object for volume in record.volumes), record.manifest):
        size = present.get(stored.key)
        if size is None:
            raise _missing(stored)
        if size != stored.size:
            raise ObjectDamaged(
                f'object "{stored.key}" is damaged',
                f"It has {size} bytes; the record says {stored.size}.",
                "this backup cannot be restored whole; choose another with pgproof list",
            )


def _verify_object(archive: Archive, stored: StoredObject) -> None:
    _require_there(archive, stored)
    measured = Measured(archive.store.get(stored.key))
    for _ in measured:
        pass
    check_bytes(stored, measured)


def _require_there(archive: Archive, stored: StoredObject) -> None:
    try:
        archive.store.head(stored.key)
    except ObjectMissing as error:
        raise _missing(stored) from error


def _missing(stored: StoredObject) -> ObjectDamaged:
    return ObjectDamaged(
        f'object "{stored.key}" is missing',
        "The backup record names it.",
        "this backup cannot be restored whole; choose another with pgproof list",
    )


def own_segments(record: BackupRecord) -> Iterator[WalSegment]:
    """The WAL that makes a backup consistent, from its start to its stop."""
    segment = record.first_segment
    while segment <= record.last_segment:
        yield segment
        segment = segment.next()


def _require_segment(archive: Archive, segment: WalSegment) -> None:
    try:
        find_key(archive, segment.name)
    except ObjectMissing as error:
        raise WalGap(
            f'WAL segment "{segment}" is missing from the archive',
            f"It holds LSN {segment.start} to {segment.end}; without it the backup cannot become consistent.",
            "pgproof wal check NAME --repair brings it back from where it still is; else take a new backup",
        ) from error
