"""Private: a directory that no other account can write in, read, or put something else in the place of.

Whoever can write in a directory, or in one above it, can exchange what lies in it for links to any file of ours.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make a directory, or take away from others what they may do in one of ours.

    Root's may be passed through: the account of a PostgreSQL server has its data below it.

    Raises:
        PermissionError: it belongs to somebody else, or somebody else can exchange it.
        OSError: it cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        mode = 0o700 if os.geteuid() else 0o711
        if found.st_uid == os.geteuid() and found.st_mode & 0o777 != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    if reason := why_open(directory):
        raise PermissionError(0, reason, str(directory))


def shared_by_all(path: Path) -> Path | None:
    """The directory above a path in which every account could exchange what lies there; None when there is none.

    Of one such as /tmp, which is sticky, nobody removes or renames what is another's.

    Raises:
        OSError: one cannot be looked at.
    """
    for place in _above(path.parent):
        if place.is_dir() and place.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            return place
    return None


def why_open(directory: Path, trusted: Collection[int] = ()) -> str:
    """Why another account can write in a directory or exchange it, in a clause; empty when none can.

    Args:
        directory: that is there, or will be made.
        trusted: user ids besides ours and root's.
    """
    accounts = {0, os.geteuid(), *trusted}
    for place in _above(directory):
        try:
            found = place.lstat()
        except FileNotFoundError:
            continue  # we shall make it
        except OSError as error:
            return f"{place}: {error.strerror}"
        if found.st_uid not in accounts:
            return f"{place} belongs to {_account(found.st_uid)}"
        if stat.S_ISLNK(found.st_mode):
            continue
        shared = found.st_mode & stat.S_IWOTH or (
            found.st_mode & stat.S_IWGRP and not _ours_alone(found.st_gid, accounts)
        )
        # in a sticky directory such as /tmp nobody removes or renames what is another's
        if shared and not (found.st_mode & stat.S_ISVTX and place not in _last(directory)):
            return f"other accounts can write in {place}"
    return ""


def _above(directory: Path) -> Iterator[Path]:
    """A path and all above it, from the root, as it is written and as its links lead."""
    for path in dict.fromkeys((directory.absolute(), Path(os.path.realpath(directory)))):
        yield from reversed((path, *path.parents))


def _last(directory: Path) -> tuple[Path, ...]:
    return directory.absolute(), Path(os.path.realpath(directory))


def _ours_alone(group: int, accounts: Collection[int]) -> bool:
    """Whether a group is that of an account we trust, and has no other members."""
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(group).gr_mem}
        own = {pwd.getpwuid(account).pw_gid for account in accounts}
    except KeyError:
        return False
    return group in own | {os.getegid()} and members <= set(accounts)


def _account(user: int) -> str:
    try:
        return f'account "{pwd.getpwuid(user).pw_name}"'
    except KeyError:
        return f"user id {user}"
