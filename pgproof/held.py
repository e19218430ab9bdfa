"""A held directory lasts as long as its process: a lock in it ends with the process, however that ends.

What nobody holds any more was left by one that was killed, and is removed by the next. So that it is never missed, a
directory gets its lock before anything else, and loses it after everything else, when it has another name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LOCK = "pgproof.lock"
_GONE = ".pgproof-gone-"
_NEW = ".pgproof-new-"
_KINDS = ("control", "deploy", "fence", "objects", "socket", "targets", "up", "wal")
_TEMPORARY = re.compile(rf"pgproof-(?:{'|'.join(_KINDS)})-\w+|\.pgproof-(?:new|gone)-.+")
# of drills: cluster and fence
SCRATCH = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}-\d{8}T\d{12}Z|\.pgproof-(?:new|gone)-.+")
_OLD = 86400  # seconds, after which what has no lock at all is nobody's
_looked_at: set[Path] = set()


@dataclass(frozen=True)
class Held:
    """A directory that this process holds.

    Args:
        path: of the directory.
        lock: descriptor of its lock.
    """

    path: Path
    lock: int

    def remove(self) -> None:
        """Remove it with all that it holds."""
        _remove(self.path, self.lock)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed process left.

    Args:
        path: of the directory.
        size: bytes of its files.
    """

    path: Path
    size: int


def make_held(place: Path, prefix: str = _NEW) -> Held:
    """Make a directory that is held from its first moment.

    Args:
        place: to make it in.
        prefix: of its name.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        # it may be taken for a leftover before it has its lock
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            return Held(path, take(path, make=True))


def take(path: Path, *, make: bool = False) -> int:
    """Take the lock of a directory; its descriptor.

    Args:
        path: of the directory.
        make: make the lock where there is none.

    Raises:
        BlockingIOError: somebody holds it.
        FileNotFoundError: it is not there any more.
        OSError: it cannot be looked at.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
    lock = os.open(path / LOCK, flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), os.stat(path / LOCK, follow_symlinks=False)):
            raise FileNotFoundError(2, os.strerror(2), str(path))
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove(path: Path, lock: int) -> None:
    """Remove a directory whose lock we have: renamed first, so that nobody takes half of it for all; the lock last."""
    gone = path.with_name(f"{_GONE}{path.name.removeprefix(_GONE)[:80]}-{secrets.token_hex(4)}")
    try:
        with contextlib.suppress(OSError):
            os.rename(path, gone)
            for name in os.listdir(gone):
                if name != LOCK:
                    _remove_entry(gone / name)
            if os.listdir(gone) == [LOCK]:  # else something could not be removed: the next one tries again
                os.unlink(gone / LOCK)
                os.rmdir(gone)
    finally:
        os.close(lock)


def _remove_entry(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def leftovers(
    place: Path, names: re.Pattern[str] = _TEMPORARY, clock: Callable[[], float] = time.time
) -> list[Leftover]:
    """What killed processes left in a directory; nothing is changed.

    Args:
        place: the directory.
        names: of what may be a leftover.
        clock: of this machine, seconds since the epoch.
    """
    found = []
    for path in _ours(place, names):
        try:
            lock = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if not _may_be_new(path, names, clock):
                found.append(Leftover(path, size_of(path)))
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found.append(Leftover(path, size_of(path)))
        except OSError:
            continue
        finally:
            os.close(lock)
    return found


def remove_leftovers(
    place: Path,
    names: re.Pattern[str] = _TEMPORARY,
    may_go: Callable[[Path], bool] = lambda path: True,
    clock: Callable[[], float] = time.time,
) -> list[Path]:
    """Remove what killed processes left in a directory, and nobody holds.

    Args:
        place: the directory.
        names: of what may be a leftover.
        may_go: asked once more, of what nobody holds.
        clock: of this machine, seconds since the epoch.

    Returns:
        what was removed.
    """
    removed = []
    for path in _ours(place, names):
        if not (path / LOCK).exists() and _may_be_new(path, names, clock):
            continue
        with contextlib.suppress(OSError):  # held, or gone by now
            lock = take(path, make=True)
            if may_go(path):
                _remove(path, lock)
                removed.append(path)
            else:
                os.close(lock)
    return removed


def _may_be_new(path: Path, names: re.Pattern[str], clock: Callable[[], float]) -> bool:
    """Of what has no lock in a place that is not ours alone: another version may use it that made none."""
    if names is not _TEMPORARY:
        return False
    try:
        return clock() - path.stat().st_mtime < _OLD
    except OSError:
        return True


def _ours(place: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """The directories of these names that belong to us; root's drills give some to the account of their server."""
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if names.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    yield Path(entry.path)


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory."""
    size = 0
    for here, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(here, name)).st_size
    return size


@contextlib.contextmanager
def temporary_directory(
    kind: str, *, owner: pwd.struct_passwd | None = None, place: Path | None = None
) -> Iterator[Path]:
    """A directory for the time of a block; when this process is killed, the next that needs one removes it.

    Args:
        kind: one of those that are known here, for its name.
        owner: account that gets it when we are root.
        place: to make it in; default: where temporary files go.

    Raises:
        OSError: it cannot be made.
    """
    assert kind in _KINDS
    where = place or Path(tempfile.gettempdir())
    if where not in _looked_at:  # once for each command
        _looked_at.add(where)
        remove_leftovers(where)
    held = make_held(where, f"pgproof-{kind}-")
    try:
        inside = held.path / "in"
        inside.mkdir(mode=0o700)
        if owner is not None:
            held.path.chmod(0o711)  # it stays ours, so that nobody exchanges what we made in it
            os.chown(inside, owner.pw_uid, owner.pw_gid)
        yield inside
    finally:
        held.remove()
