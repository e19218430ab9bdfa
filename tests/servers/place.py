"""Where the tests keep servers and files: in memory where there is room, as others make a disk wait."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pgproof.postgres.programs import account

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30  # bytes; two workers take less than one


def place() -> Path:
    """The directory to keep things below; short, as Unix sockets allow some 107 bytes."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _ROOM:
        return Path("/tmp")
    runs_programs = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC  # containers forbid it at times
    return _MEMORY if runs_programs else Path("/tmp")


def make_directory(prefix: str = "pgp-") -> Path:
    """A new directory that the server's account can reach and owns: pytest's are root's alone."""
    root = Path(tempfile.mkdtemp(prefix=prefix, dir=place()))
    root.chmod(0o755)
    give_to_server(root)
    return root


def give_to_server(*paths: Path) -> None:
    """Let the server's account own files that root made."""
    owner = account(None)
    for top in paths if owner is not None else ():
        for path in (top, *top.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)  # type: ignore[union-attr]
