"""The posix store: a directory whose files and directories are fsynced before a write counts.

Order of a write: temporary file, write, fsync, fsync of the parents of new directories, link or rename to its
name, fsync of the directory. A crash leaves at most a file whose name starts with ``.tmp-``, which no listing
shows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path

from pgproof.errors import (
    NoRoom,
    ObjectExists,
    ObjectMissing,
    PgproofError,
    RepositoryReadOnly,
    StoreUnavailable,
)
from pgproof.postgres.rights import acting_as, owner_of
from pgproof.repository.store import CHUNK, ObjectInfo, Source, check_key

_TEMPORARY = ".tmp-"
_GONE = "The directory is not the one any more that it was when the repository was opened."


class PosixStore:
    """Objects as files below a directory.

    Args:
        root: the directory; it is made by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file://{root}"
        self._seen: tuple[int, int] | None = None

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        target = self._path(key)
        source = Source(data)
        try:
            with self._mapped(key, writing=True):
                try:
                    if create and target.exists():
                        raise FileExistsError(errno.EEXIST, "exists", str(target))
                    self._write(target, source, create)
                except FileExistsError:
                    sync_directory(target.parent)  # its writer may have died before
                    raise
            return
        except BaseException:
            if source.failure is None:
                raise
        raise source.failure

    def _write(self, target: Path, source: Source, create: bool) -> None:
        temporary = target.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            with self._new_file(temporary) as file:
                for chunk in source:
                    _write_all(file.fileno(), chunk)
                os.fsync(file.fileno())
            with self._rights():
                self._publish(temporary, target, create)
        finally:
            with self._rights(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                temporary.unlink()

    def _publish(self, temporary: Path, target: Path, create: bool) -> None:
        self._fsync_parents(target.parent)
        if not create:
            os.replace(temporary, target)
            sync_directory(target.parent)
            return
        try:
            os.link(temporary, target)
        except FileExistsError:  # also of NFS when the answer to the first try was lost: it is ours then
            if temporary.stat().st_nlink < 2:
                raise
        try:
            sync_directory(target.parent)
        except OSError:  # it must not be met as archived when it may not be durable
            target.unlink()
            raise

    def _new_file(self, path: Path) -> FileIO:
        for _ in range(100):
            try:
                with self._rights():
                    self._make_directory(path.parent)
                    return open(path, "xb", buffering=0)
            except FileNotFoundError:  # expire has just removed the empty directory
                continue
        raise OSError(errno.EAGAIN, "the directory is removed again and again", str(path.parent))

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
            prefix = prefix.rstrip("/")
            yield from self._walk(self._path(prefix) if prefix else self.root, prefix)

    def _walk(self, directory: Path, key: str) -> Iterator[ObjectInfo]:
        """Depth first with a stack of its own: a million names pass through one generator, not through one a level."""
        waiting = [(str(directory), f"{key}/" if key else "")]
        while waiting:
            path, prefix = waiting.pop()
            try:
                entries = list(os.scandir(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                elif not entry.name.startswith(_TEMPORARY):
                    try:
                        found = entry.stat()
                    except FileNotFoundError:  # removed between the listing and the look
                        continue
                    yield ObjectInfo(prefix + entry.name, found.st_size, found.st_mtime)

    def children(self, prefix: str) -> Iterator[str]:
        """The names right below a prefix under which there are objects, without listing all of these."""
        with self._mapped(prefix), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in list(os.scandir(self._path(prefix.rstrip("/")))):
                if entry.is_dir() and next(self._walk(Path(entry.path), ""), None) is not None:
                    yield entry.name

    def head(self, key: str) -> ObjectInfo:
        with self._mapped(key):
            found = self._path(key).stat()
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory", key)
            return ObjectInfo(key, found.st_size, found.st_mtime)

    def delete(self, key: str) -> None:
        path = self._path(key)
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError)
        with self._mapped(key, writing=True), gone, self._rights():
            path.unlink()
            sync_directory(path.parent)

    def remove_empty_directories(self, prefix: str) -> None:
        """Remove directories below a prefix that hold nothing any more."""
        with self._rights():
            for directory, _, _ in os.walk(self._path(prefix.rstrip("/")), topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def remove_unfinished(self, prefix: str, before: float | None = None) -> None:
        """Remove what writers that died have left below a prefix.

        Args:
            prefix: below which nobody writes, unless ``before`` is given.
            before: seconds since the epoch; what was written to later stays.
        """
        with self._mapped(prefix, writing=True), self._rights():
            for directory, _, names in os.walk(self._path(prefix.rstrip("/"))):
                for name in names:
                    path = Path(directory) / name
                    with contextlib.suppress(FileNotFoundError):
                        if name.startswith(_TEMPORARY) and (before is None or path.stat().st_mtime < before):
                            path.unlink()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o750)
        if self.root not in directory.parents:
            sync_directory(directory.parent)

    def _rights(self) -> AbstractContextManager[None]:
        """What root writes belongs to the repository's owner: the archiver, who is not root, writes beside it."""
        return acting_as(owner_of(self.root) if self.root.is_dir() else None)

    def _fsync_parents(self, directory: Path) -> None:
        """Make the names of a directory and of those above it durable.

        Also when they were there already: another writer may have made them and not yet come to this. It had
        before it published anything.
        """
        if _has_files(directory):
            return
        while directory != self.root:
            directory = directory.parent
            sync_directory(directory)

    def _check_root(self) -> None:
        """Refuse to go on where the directory was unmounted: it must read neither as empty nor as new."""
        seen = self._seen  # first: another thread may make the directory meanwhile
        try:
            found = self.root.stat()
        except FileNotFoundError:
            if seen is None:
                return
            raise OSError(errno.ESTALE, "gone", str(self.root)) from None
        identity = found.st_dev, found.st_ino
        if seen is None:
            self._seen = identity
        elif seen != identity:
            raise OSError(errno.ESTALE, "another", str(self.root))

    @contextlib.contextmanager
    def _mapped(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            self._check_root()
            yield
        except OSError as error:
            raise self._named(error, key, writing) from error

    def _named(self, error: OSError, key: str, writing: bool) -> PgproofError:
        reason = f"{os.strerror(error.errno or 0)}."
        if error.errno == errno.ESTALE:
            hint = f"findmnt -T {self.root}; is its file system mounted?"
            return StoreUnavailable(f'could not access "{key}" in the repository "{self.url}"', _GONE, hint)
        if not writing and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
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


def _has_files(directory: Path) -> bool:
    with os.scandir(directory) as entries:
        return any(not entry.name.startswith(_TEMPORARY) and not entry.is_dir() for entry in entries)


def sync_directory(directory: Path) -> None:
    """The names in a directory reach the disk (fsync(2))."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
