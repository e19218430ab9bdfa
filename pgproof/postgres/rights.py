"""Rights: as root we write for the account of a server, in directories where it could exchange any name for a link.

Whatever is written, chmodded or chowned there by its path would then be any file of root's. So while we do that the
kernel sees the account in our place (setfsuid(2)): a link leads us nowhere that the account could not go itself, and
what we make is the account's at once.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

_here = threading.local()  # these ids belong to a thread


@contextlib.contextmanager
def acting_as(owner: pwd.struct_passwd | None) -> Iterator[None]:
    """Use files with no more rights than an account has, in this thread and for the time of a block.

    No program or thread is to be started meanwhile.

    Args:
        owner: the account; None is ourselves.

    Raises:
        PermissionError: the kernel did not let us.
    """
    if owner is None or owner.pw_uid == getattr(_here, "user", None):
        yield
        return
    import ctypes  # not for each segment that is archived, by an account that is not root

    if os.getgroups():  # root's own would still open what is its group's; it needs none
        os.setgroups([])
    libc = ctypes.CDLL(None)
    group, user = libc.setfsgid(owner.pw_gid), libc.setfsuid(owner.pw_uid)
    try:
        if (libc.setfsgid(-1), libc.setfsuid(-1)) != (owner.pw_gid, owner.pw_uid):
            raise PermissionError(1, f"cannot act as account {owner.pw_name}")
        _here.user = owner.pw_uid
        yield
    finally:
        libc.setfsuid(user)
        libc.setfsgid(group)
        _here.user = None


def owner_of(path: Path) -> pwd.struct_passwd | None:
    """The account to act as in a directory that may be another account's; None when we are not root, or it is ours."""
    if os.geteuid() != 0:
        return None
    found = path.stat()
    if found.st_uid == 0:
        return None
    name = str(found.st_uid)
    return pwd.struct_passwd((name, "x", found.st_uid, found.st_gid, "", "/", "/bin/false"))


def make_directory(path: Path, owner: pwd.struct_passwd | None) -> None:
    """Make a directory for an account, or give it one that is there, with those above it where they are missing.

    What the account may not make itself is made by root, step by step from the root of the file system, so that no
    link on the way leads elsewhere.

    Args:
        path: of the directory.
        owner: account that gets it when we are root.

    Raises:
        OSError: it cannot be made.
    """
    if owner is None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        return
    with contextlib.suppress(PermissionError), acting_as(owner):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid == owner.pw_uid:
            path.chmod(0o700)
            return
    real = Path(os.path.realpath(path))
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in real.parts[1:]:
            is_new = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=here)
                is_new = True
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
            if is_new:
                os.fchmod(here, 0o755)  # whatever umask we have: the account passes through
        if os.fstat(here).st_uid not in (0, owner.pw_uid):
            raise PermissionError(1, "it belongs to another account", str(path))
        os.fchown(here, owner.pw_uid, owner.pw_gid)
        os.fchmod(here, 0o700)
    finally:
        os.close(here)


def own_tree(path: Path, owner: pwd.struct_passwd | None) -> None:
    """Give a tree that root made to an account: the top last, until when nobody else can enter it.

    Args:
        path: of the tree; nothing happens where it is not there.
        owner: account when we are root.
    """
    if owner is None or not path.exists():
        return
    for directory, names, files, descriptor in os.fwalk(path, topdown=False):
        for name in (*names, *files):
            os.chown(name, owner.pw_uid, owner.pw_gid, dir_fd=descriptor, follow_symlinks=False)
        if directory == str(path):
            os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
    if not stat.S_ISDIR(path.lstat().st_mode):
        os.lchown(path, owner.pw_uid, owner.pw_gid)
