"""Extract volumes into a directory: each checked by SHA-256 while it is read, several at a time."""

from __future__ import annotations

import os
import pwd
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, cast

from pgproof.backups.manifest import LARGEST, check_manifest
from pgproof.backups.record import BackupRecord, Volume
from pgproof.errors import DestinationRefused, NoRoom, ObjectDamaged
from pgproof.postgres.rights import acting_as
from pgproof.repository.codec import bounded
from pgproof.repository.repository import Archive

CONTROL = "global/pg_control"
CONTROL_ASIDE = "global/pg_control.pgproof"  # until the restore is whole, so that nothing can start
_COPY = 1 << 20
_ESCAPED = str.maketrans({char: f"\\{char}" for char in "\\\n\r"})


class _Stream:
    """A file to read from, made of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(bytes(part))
            size -= len(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Read to the end, where size and SHA-256 are compared."""
        for _ in self._chunks:
            pass


def extract_backup(
    archive: Archive,
    record: BackupRecord,
    data: Path,
    tablespaces: Mapping[int, Path],
    *,
    owner: pwd.struct_passwd | None = None,
    workers: int = 2,
    progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Put one backup's files into directories that exist and are empty.

    pg_control is written aside (CONTROL_ASIDE); tablespace links and tablespace_map are written anew for
    where the tablespaces are now.

    Args:
        archive: to read from.
        record: of the backup.
        data: data directory.
        tablespaces: OID to directory.
        owner: account that shall own the files when we are root.
        workers: volumes at a time.
        progress: told the raw bytes of each finished volume.

    Raises:
        ObjectDamaged, ObjectMissing: a volume is not what the record names, and the directory cannot start; or the
            record contradicts the backup manifest, and nothing was written.
        NoRoom: the file system is full.
    """

    key = record.manifest.key
    check_manifest(record, bounded(key, archive.open_checked(record.manifest), LARGEST))

    def one(volume: Volume) -> None:
        root = data if volume.tablespace is None else tablespaces[volume.tablespace]
        _extract_volume(archive, volume, root, owner)
        progress(volume.raw_size)

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="extract") as pool:
        futures = [pool.submit(one, volume) for volume in record.volumes]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    link_tablespaces(data, tablespaces, owner)
    _write(data / "backup_manifest", archive.open_checked(record.manifest), 0o600, owner)


def _extract_volume(archive: Archive, volume: Volume, root: Path, owner: pwd.struct_passwd | None) -> None:
    stream = _Stream(archive.open_checked(volume.object))
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=_COPY) as tar:
            for member in tar:
                extract_member(tar, member, root, volume.tablespace is None, owner)
        stream.drain()
    except tarfile.TarError as error:
        raise ObjectDamaged(f'volume "{volume.object.key}" is not a tar', f"{error}.") from error
    except OSError as error:
        if error.errno in (28, 122):
            raise NoRoom(f'no room left in "{root}"', f"{error.strerror}.") from error
        raise DestinationRefused(f'cannot write in "{root}"', f"{error}.") from error


def extract_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, is_data: bool, owner: pwd.struct_passwd | None
) -> None:
    """Put one file or directory of a tar below ``root``; links are left out, and pg_control is put aside.

    Raises:
        ObjectDamaged: its name leads out of ``root``.
    """
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ObjectDamaged(f'volume member "{member.name}" leads out of the data directory')
    path = root / name
    if member.isdir():
        _make_directory(path, root, owner)
    elif member.isreg():
        if is_data and str(name) == "tablespace_map":
            return
        _make_directory(path.parent, root, owner)
        target = root / CONTROL_ASIDE if is_data and str(name) == CONTROL else path
        source = tar.extractfile(member)
        assert source is not None
        with acting_as(owner):
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, member.mode & 0o777)
            while chunk := source.read(_COPY):
                file.write(chunk)


def _make_directory(path: Path, root: Path, owner: pwd.struct_passwd | None) -> None:
    if path == root or path.is_dir():
        return
    _make_directory(path.parent, root, owner)
    with acting_as(owner):
        path.mkdir(mode=0o700, exist_ok=True)


def link_tablespaces(data: Path, tablespaces: Mapping[int, Path], owner: pwd.struct_passwd | None) -> None:
    """Link tablespaces to where they are now, and have recovery do the same (tablespace_map).

    One that lies in place, as a directory where others have a link, needs neither.
    """
    linked = linked_tablespaces(data, tablespaces)
    if not linked:
        return
    links = data / "pg_tblspc"
    _make_directory(links, data, owner)
    with acting_as(owner):
        for oid, path in linked.items():
            (links / str(oid)).symlink_to(path)
    _write(data / "tablespace_map", [os.fsencode(tablespace_map(linked))], 0o600, owner)


def linked_tablespaces(data: Path, tablespaces: Mapping[int, Path]) -> dict[int, Path]:
    """Those that do not lie in place."""
    return {oid: path for oid, path in tablespaces.items() if path != data / "pg_tblspc" / str(oid)}


def tablespace_map(tablespaces: Mapping[int, Path]) -> str:
    """The content of tablespace_map: backslash, newline and return are escaped (``do_pg_backup_start``)."""
    lines = (f"{oid} {path}".translate(_ESCAPED) for oid, path in tablespaces.items())
    return "".join(f"{line}\n" for line in lines)


def _write(path: Path, chunks: Iterable[bytes], mode: int, owner: pwd.struct_passwd | None) -> None:
    with acting_as(owner):
        file = open(path, "wb")
        path.chmod(mode)
    with file:  # the chunks are read with our own rights
        file.writelines(chunks)
