"""The posix store: a directory whose files and directories are fsynced before a write counts.

Order of a write: temporary file, write, fsync, link or rename to its name, fsync of the directory. A crash
leaves at most a file whose name starts with ``.tmp-``, which no listing shows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from pgproof.errors import (
    NoRoom,
    ObjectExists,
    ObjectMissing,
    PgproofError,
    RepositoryReadOnly,
    StoreUnavailable,
)
from pgproof.repository.store import CHUNK, ObjectInfo

_TEMPORARY = ".tmp-"


class PosixStore:
    """Objects as files below a directory.

    Args:
        root: the directory; it is made by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file://{root}"

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        target = self._path(key)
        temporary = target.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        with self._mapped(key):
            self._make_directory(target.parent)
            if create and target.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            try:
                with open(temporary, "xb", buffering=0) as file:
                    for chunk in [data] if isinstance(data, bytes) else data:
                        _write_all(file.fileno(), chunk)
                    os.fsync(file.fileno())
                if create:
                    os.link(temporary, target)
                else:
                    os.replace(temporary, target)
                _fsync_directory(target.parent)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    temporary.unlink()

    def get(self, key: str) -> Iterator[bytes]:
        with self._mapped(key):
            file = open(self._path(key), "rb", buffering=0)
        return self._chunks(key, file)

    def _chunks(self, key: str, file: object) -> Iterator[bytes]:
        with file as source, self._mapped(key):  # type: ignore[attr-defined]
            while chunk := source.read(CHUNK):
                yield chunk

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._mapped(prefix):
            yield from self._walk(self._path(prefix) if prefix else self.root, prefix.rstrip("/"))

    def _walk(self, directory: Path, key: str) -> Iterator[ObjectInfo]:
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            return
        for entry in entries:
            child = f"{key}/{entry.name}" if key else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), child)
            elif not entry.name.startswith(_TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # removed between the listing and the look
                    yield ObjectInfo(child, entry.stat().st_size)

    def head(self, key: str) -> ObjectInfo:
        with self._mapped(key):
            return ObjectInfo(key, self._path(key).stat().st_size)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._mapped(key), contextlib.suppress(FileNotFoundError):
            path.unlink()
            _fsync_directory(path.parent)

    def remove_empty_directories(self, prefix: str) -> None:
        """Remove directories below a prefix that hold nothing any more."""
        for directory, _, _ in os.walk(self._path(prefix), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o750)
            _fsync_directory(directory.parent)

    @contextlib.contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._named(error, key) from error

    def _named(self, error: OSError, key: str) -> PgproofError:
        reason = f"{os.strerror(error.errno or 0)}."
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return ObjectMissing(f'object "{key}" is not in the repository "{self.url}"')
        if error.errno == errno.EEXIST:
            return ObjectExists(f'object "{key}" is already in the repository "{self.url}"')
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = f"df -h {self.root}; pgproof expire NAME --dry-run shows what could go"
            return NoRoom(f'cannot write "{key}": no room in the repository "{self.url}"', reason, hint)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = f"ls -ld {self.root}; the account that runs pgproof must be able to write there"
            return RepositoryReadOnly(f'cannot access "{key}" in the repository "{self.url}"', reason, hint)
        return StoreUnavailable(f'could not access "{key}" in the repository "{self.url}"', reason)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
