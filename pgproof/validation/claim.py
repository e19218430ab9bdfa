"""A claim is a drill's hold on its scratch directory (:mod:`pgproof.held`): it ends with the process, however it ends.

What nobody claims any more was left by a drill that was killed, and the next drill in that place removes it. The place
itself must be ours alone: whoever could put a link into it would have us write what he likes, where he likes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from pgproof.errors import DestinationRefused, LeaseHeld
from pgproof.held import SCRATCH, Held, make_held, take
from pgproof.held import remove_leftovers as remove_from
from pgproof.private import why_open

_held: dict[Path, Held] = {}


def make_claimed(root: Path, owner: pwd.struct_passwd | None = None) -> None:
    """Make a scratch directory that is claimed from the moment it has its name.

    It stays root's when we are root: the server's account can pass through, and exchange nothing in it.

    Args:
        root: its path.
        owner: account of the server when we are root.

    Raises:
        DestinationRefused: it cannot be made, or its place is not ours alone.
    """
    try:
        _make_place(root.parent, owner)
        made = make_held(root.parent)
        if owner is not None:
            made.path.chmod(0o711)
        os.rename(made.path, root)
    except OSError as error:
        raise DestinationRefused(
            f'cannot make scratch directory "{root}"',
            f"{error.strerror}.",
            "set scratch_directory in the cluster's drill section",
        ) from error
    _held[root] = Held(root, made.lock)


def _make_place(place: Path, owner: pwd.struct_passwd | None) -> None:
    _require_ours(place)
    for directory in (*reversed(place.parents), place):
        if not directory.exists():
            directory.mkdir(exist_ok=True)
            # whatever umask we have: the account passes through
            directory.chmod(0o700 if owner is None else 0o711)


def _require_ours(place: Path) -> None:
    if reason := why_open(place):
        raise DestinationRefused(
            f'scratch directory "{place}" is not ours alone',
            f"{reason[0].upper()}{reason[1:]}: whoever can put links there can have any of our files replaced.",
            "chmod go-w what is named and chown it, or set scratch_directory in the cluster's drill section",
        )


def claim(root: Path) -> None:
    """Claim a scratch directory that another process may have made; no fault when it is ours already.

    Raises:
        DestinationRefused: it is gone.
        LeaseHeld: another drill works in it.
    """
    if root in _held and root.is_dir():
        return
    try:
        _held[root] = Held(root, take(root))
    except BlockingIOError as error:
        raise LeaseHeld(f'scratch directory "{root}" is in use by another drill') from error
    except OSError as error:
        raise DestinationRefused(
            f'scratch directory "{root}" is not there any more', f"{error.strerror}.", "run the drill again"
        ) from error


def remove_claimed(root: Path) -> None:
    """Remove a scratch directory and the claim; nothing when it is not there, or another drill's."""
    with contextlib.suppress(OSError):
        (_held.pop(root, None) or Held(root, take(root))).remove()


def remove_leftovers(place: Path) -> list[Path]:
    """Remove the scratch directories of drills that died, of whichever cluster: they hold copies of its data.

    Only what has a name that a drill gives, belongs to us, is held by nobody, and has no running server.

    Args:
        place: scratch_directory of the configuration.

    Returns:
        what was removed.

    Raises:
        DestinationRefused: others can write in the place, or exchange it.
    """
    _require_ours(place)
    return remove_from(place, SCRATCH, lambda root: not _serves(root / "data"))


def _serves(data: Path) -> bool:
    """Whether a server still runs in a data directory; it ends with its drill, if not at once."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        return Path(f"/proc/{pid}/cwd").resolve() == data.resolve()
    except (OSError, ValueError):
        return False
