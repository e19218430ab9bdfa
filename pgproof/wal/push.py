"""WAL push: one WAL file becomes durable in the archive, never replacing another (invariant 3)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pgproof.errors import (
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    PermanentError,
    PgproofError,
    TransientError,
    WalConflict,
    WrongSystem,
)
from pgproof.postgres.control import read_system_identifier
from pgproof.repository.repository import Archive, StoredObject
from pgproof.repository.store import CHUNK
from pgproof.timelines.segment import SEGMENT_NAME, SegmentHeader, check_segment, is_archivable
from pgproof.wal.archive import find_key


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a pushed file: whether it had been there before, and what was stored when it had not."""

    name: str
    already_there: bool
    stored: StoredObject | None = None


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
    if _has_header(path.name):
        with _opened(path) as file:
            return SegmentHeader.parse(file.read(64), path.name).system_identifier
    return read_system_identifier(path.absolute().parent.parent)


def push(archive: Archive, path: Path, known: str | None = None) -> PushResult:
    """Archive one file; when this returns, it is durable.

    The file is read in pieces, and once more to compare where one is archived already: memory does not grow
    with the segment size.

    Args:
        archive: of the file's system identifier.
        path: the file in ``pg_wal``.
        known: SHA-256 of the bytes that were stored for this very file before: to find them again is success, and
            takes no key, where what is archived is encrypted.

    Raises:
        WalConflict: a file of this name with other content is archived.
        WrongSystem: it belongs to another system identifier than the archive.
        ObjectDamaged: the file is not the segment that its name says.
        TransientError: it was changed while it was read.
        StoreUnavailable, NoRoom, RepositoryReadOnly: it is not archived; PostgreSQL keeps it and asks again.
    """
    with _opened(path) as file:
        _check(archive, path, file)
        return store(archive, path.name, lambda: _pieces(file, path), known)


def push_everywhere(openers: Iterable[Callable[[], Archive]], path: Path, quorum: int) -> None:
    """Archive one file in every repository, one after the other.

    Args:
        openers: open the archives.
        path: the file.
        quorum: how many must have it; 0 is every one.

    Raises:
        PgproofError: the first failure, when too few have it; every one was tried.
    """
    archives = list(openers)
    failures: list[PgproofError] = []
    for open_archive in archives:
        try:
            push(open_archive(), path)
        except PgproofError as error:
            failures.append(error)
    if len(archives) - len(failures) < (quorum or len(archives)):
        raise failures[0]


def copy(source: Archive, target: Archive, name: str) -> None:
    """Bring an archived WAL file from one repository to another; the same checks hold as for a push.

    Args:
        source: that has it.
        target: that lacks it.
        name: of the file.

    Raises:
        ObjectMissing: the source does not have it.
        ObjectDamaged: the source's copy cannot be read.
        WalConflict: the target has it, with other content.
        StoreUnavailable, NoRoom, RepositoryReadOnly: of either.
    """
    key = find_key(source, name)
    store(target, name, lambda: source.open(key))


def store(
    archive: Archive, name: str, content: Callable[[], Iterable[bytes]], known: str | None = None
) -> PushResult:
    """Store the content of a WAL file under its name, durably, and never over another.

    Args:
        archive: where.
        name: of the file.
        content: gives it, as often as it is asked for.
        known: SHA-256 of the bytes that were stored for it before.

    Raises:
        WalConflict: a file of this name with other content is archived.
    """
    key = archive.layout.wal_file(name)
    try:
        present = find_key(archive, name)  # a store may ignore that we want to create, not replace
    except ObjectMissing:
        try:
            return PushResult(name, False, archive.write(key, content(), create=True))
        except ObjectExists:  # another push of the same file was quicker
            present = key + archive.repository.codec.suffix
    if known is None or _digest(archive.store.get(present)) != known:
        _compare(archive, present, name, content())
    if present == key + archive.repository.codec.suffix:
        with contextlib.suppress(ObjectExists):  # says that it is durable, though its writer may have died
            archive.write(key, content(), create=True)
    return PushResult(name, True)


def _check(archive: Archive, path: Path, file: BinaryIO) -> None:
    found = system_identifier_of(path)
    if found != archive.system_identifier:
        raise WrongSystem(
            f'WAL file "{path.name}" belongs to another cluster',
            f"Its system identifier is {found}; the archive's is {archive.system_identifier}.",
        )
    if _has_header(path.name):
        header = SegmentHeader.parse(file.read(64), path.name)
        check_segment(path.name[:24], header, os.fstat(file.fileno()).st_size)


def _has_header(name: str) -> bool:
    """Whether a WAL file of this name begins with a page: segments do, partial ones too."""
    return bool(SEGMENT_NAME.fullmatch(name[:24])) and not name.endswith(".backup")


def _compare(archive: Archive, key: str, name: str, content: Iterable[bytes]) -> None:
    try:
        archived = _digest(archive.open(key))
    except ObjectDamaged as error:
        raise WalConflict(
            f'WAL file "{name}" is archived already and the archived copy is damaged',
            f"{error.fact}. {error.detail}",
            f"pgproof wal check {archive.layout.cluster} --content --repair replaces it",
        ) from error
    offered = _digest(content)
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


def _pieces(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The file from its start; refused at the end when it is not the file that it was at the beginning.

    PostgreSQL recycles a segment by renaming it, and only after it was told that it is archived.
    """
    before = os.fstat(file.fileno())
    try:
        file.seek(0)
        while piece := file.read(CHUNK):
            yield piece
        read = file.tell()
    except OSError as error:
        raise _unreadable(path, error) from error
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or read != before.st_size:
        raise TransientError(f'could not read WAL file "{path}"', "It was changed while it was read.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield file


def _unreadable(path: Path, error: OSError) -> PermanentError:
    return PermanentError(f'cannot read WAL file "{path}"', f"{error.strerror}.")
