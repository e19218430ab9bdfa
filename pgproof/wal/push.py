"""WAL push: one WAL file becomes durable in the archive, never replacing another (invariant 3)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import (
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    PermanentError,
    WalConflict,
    WrongSystem,
)
from pgproof.postgres.control import read_system_identifier
from pgproof.repository.repository import Archive
from pgproof.wal.archive import find_key
from pgproof.wal.segment import SEGMENT_NAME, SegmentHeader, check_segment, is_archivable


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a pushed file: its stored size in bytes, and whether it had been there before."""

    name: str
    stored_size: int
    already_there: bool


def system_identifier_of(path: Path) -> int:
    """Whose WAL file this is: what its first page says; for other files, what the data directory says.

    The archiver runs its command in the data directory, so ``pg_wal``'s parent is looked at for files
    without a WAL header.

    Raises:
        PermanentError: the file cannot be read.
        ObjectDamaged: a segment has no WAL header.
    """
    if not is_archivable(path.name):
        raise PermanentError(
            f'"{path.name}" is not a file that PostgreSQL archives',
            hint="archive_command is 'pgproof wal push %p'",
        )
    if SEGMENT_NAME.fullmatch(path.name[:24]) and not path.name.endswith(".backup"):
        return SegmentHeader.parse(_read(path, 64), path.name).system_identifier
    return read_system_identifier(path.absolute().parent.parent)


def push(archive: Archive, path: Path) -> PushResult:
    """Archive one file; when this returns, it is durable.

    Args:
        archive: of the file's system identifier.
        path: the file in ``pg_wal``.

    Raises:
        WalConflict: a file of this name with other content is archived.
        WrongSystem: it belongs to another system identifier than the archive.
        ObjectDamaged: the file is not the segment that its name says.
        StoreUnavailable, NoRoom, RepositoryReadOnly: it is not archived; PostgreSQL keeps it and asks again.
    """
    content = _read(path)
    _check(archive, path, content)
    key = archive.layout.wal_file(path.name)
    try:
        present = find_key(archive, path.name)  # a store may ignore that we want to create, not replace
    except ObjectMissing:
        try:
            stored = archive.write(key, [content], create=True)
            return PushResult(path.name, stored.size, already_there=False)
        except ObjectExists:  # another push of the same file was quicker
            present = key + archive.repository.codec.suffix
    _compare(archive, present, path.name, content)
    if present == key + archive.repository.codec.suffix:
        with contextlib.suppress(
            ObjectExists
        ):  # which says that it is durable, though its writer may have died
            archive.write(key, [content], create=True)
    return PushResult(path.name, archive.store.head(present).size, already_there=True)


def _check(archive: Archive, path: Path, content: bytes) -> None:
    found = system_identifier_of(path)
    if found != archive.system_identifier:
        raise WrongSystem(
            f'WAL file "{path.name}" belongs to another cluster',
            f"Its system identifier is {found}; the archive's is {archive.system_identifier}.",
        )
    if SEGMENT_NAME.fullmatch(path.name[:24]) and not path.name.endswith(".backup"):
        check_segment(path.name[:24], SegmentHeader.parse(content[:64], path.name), len(content))


def _compare(archive: Archive, key: str, name: str, content: bytes) -> None:
    try:
        archived = _digest(archive.open(key))
    except ObjectDamaged as error:
        raise WalConflict(
            f'WAL file "{name}" is archived already and the archived copy is damaged',
            f"{error.fact}. {error.detail}",
            f'move "{key}" aside in the repository; the archiver will then store it again',
        ) from error
    offered = _digest([content])
    if archived != offered:
        raise WalConflict(
            f'WAL file "{name}" is archived already with other content',
            f"Archived is SHA-256 {archived}, offered {offered}. "
            "Two servers of the same origin archive to one place, or a restored copy does.",
            "find the other server and set its archive_mode to off; nothing was overwritten",
        )


def _digest(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path, size: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise PermanentError(f'cannot read WAL file "{path}"', f"{error.strerror}.") from error
