"""A whole file takes the place of another in one step, or nothing has changed.

What this machine refuses while it is written, such as room, is an error that says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from pgproof.errors import DestinationRefused, NoRoom
from pgproof.postgres.rights import acting_as, owner_of
from pgproof.repository.posix import sync_directory

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PROBE = 1 << 16  # bytes; more than an acceptance writes


def replace_file(path: Path, content: bytes, owner: pwd.struct_passwd | None = None) -> None:
    """Write a file durably, for its owner alone, beside its place and move it there.

    Args:
        path: its place.
        content: of it.
        owner: of it when we are root; None keeps that of the file, else of the directory.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    new = path.with_name(f"{path.name}.pgproof")
    with acting_as(owner or owner_of(path if path.exists() else path.parent)):
        try:
            with open(new, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        sync_directory(path.parent)


@contextlib.contextmanager
def writing(data: Path) -> Iterator[None]:
    """For the time of a block, what the machine refuses of a directory is an error of ours.

    Args:
        data: the directory that the block writes in.

    Raises:
        NoRoom: there is none left.
        DestinationRefused: it may not be written in, or the disk fails.
    """
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or data
        reason = f"{error.strerror or error}."
        if error.errno in _FULL:
            raise NoRoom(
                f'no room left to write "{where}"', reason, f"df -h {data}; then run the same command again"
            ) from error
        raise DestinationRefused(
            f'cannot write "{where}"', reason, f"ls -ld {data}; then run the same command again"
        ) from error


def ask_for_room(directory: Path) -> None:
    """Write a file and remove it.

    Args:
        directory: that will be written in.

    Raises:
        OSError: nothing can be written there.
    """
    probe = directory / "room.pgproof"
    with acting_as(owner_of(directory)):
        try:
            with open(probe, "wb") as file:
                file.write(bytes(_PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
