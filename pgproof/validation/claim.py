"""A claim is a drill's hold on its scratch directory: a lock that ends with the process, however it ends.

What nobody claims any more was left by a drill that was killed, and the next drill in that directory removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

from pgproof.errors import DestinationRefused, LeaseHeld

_LOCK = "drill.lock"
_SOCKET = "socket"  # a link to the directory of the server's socket, which needs a short path
_SOCKET_PREFIX = "pgproof-"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}-\d{8}T\d{12}Z")  # cluster and fence
_held: dict[Path, int] = {}


def make_claimed(root: Path) -> None:
    """Make a scratch directory that is claimed from the moment it has its name.

    Raises:
        DestinationRefused: it cannot be made.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".pgproof-new-", dir=root.parent))
        descriptor = _lock(fresh, os.O_CREAT)
        os.rename(fresh, root)
    except OSError as error:
        raise DestinationRefused(
            f'cannot make scratch directory "{root}"',
            f"{error.strerror}.",
            "set scratch_directory in the cluster's drill section",
        ) from error
    _held[root] = descriptor


def claim(root: Path) -> None:
    """Claim a scratch directory that another process may have made; no fault when it is ours already.

    Raises:
        DestinationRefused: it is gone.
        LeaseHeld: another drill works in it.
    """
    if root in _held and root.is_dir():
        return
    try:
        _held[root] = _lock(root)
    except BlockingIOError as error:
        raise LeaseHeld(f'scratch directory "{root}" is in use by another drill') from error
    except OSError as error:
        raise DestinationRefused(
            f'scratch directory "{root}" is not there any more', f"{error.strerror}.", "run the drill again"
        ) from error


def make_socket(root: Path) -> Path:
    """A new directory for the server's socket, which goes when the scratch directory goes."""
    directory = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir="/tmp"))
    (root / _SOCKET).unlink(missing_ok=True)
    (root / _SOCKET).symlink_to(directory)
    return directory


def remove_claimed(root: Path) -> None:
    """Remove a scratch directory, its socket, and the claim."""
    with contextlib.suppress(OSError):
        socket = Path(os.readlink(root / _SOCKET))
        if socket.parent == Path("/tmp") and socket.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(socket, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    if (descriptor := _held.pop(root, None)) is not None:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> list[Path]:
    """Remove the scratch directories of drills that died, of whichever cluster: they hold copies of its data.

    Only what has the name that a drill gives, has a lock file that nobody holds, and has no running server.

    Args:
        directory: the scratch directory of the configuration.

    Returns:
        what was removed.
    """
    removed = []
    try:
        found = sorted(directory.iterdir())
    except OSError:  # nothing of ours is there
        return []
    for root in found:
        if not _NAME.fullmatch(root.name) or root.is_symlink() or root in _held:
            continue
        try:
            descriptor = _lock(root)
        except OSError:  # held, or not one of ours
            continue
        try:
            if not _serves(root / "data"):
                remove_claimed(root)
                removed.append(root)
        finally:
            os.close(descriptor)
    return removed


def _lock(root: Path, flags: int = 0) -> int:
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _serves(data: Path) -> bool:
    """Whether a server still runs in a data directory; it ends with its drill, if not at once."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        return Path(f"/proc/{pid}/cwd").resolve() == data.resolve()
    except (OSError, ValueError):
        return False
