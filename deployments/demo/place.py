"""The demo's place: one directory with everything in it, and an account that PostgreSQL will run as."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import ConfigError, DestinationRefused
from pgproof.postgres.programs import account, ending_with_us
from pgproof.postgres.rights import make_directory
from pgproof.private import why_open

MARK = ".pgproof-demo"


@dataclass(frozen=True)
class Place:
    """The directories of the demo."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "source"

    @property
    def socket(self) -> Path:
        return self.root / "run"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def config(self) -> Path:
        return self.root / "pgproof.toml"

    @property
    def restored(self) -> Path:
        return self.root / "restored"


def prepare(directory: str | None) -> Place:
    """An empty place; what an earlier demo left there is ended and removed.

    As root everything goes on as an unprivileged account, as PostgreSQL refuses to run as root.

    Args:
        directory: to work in; default /var/tmp/pgproof-demo-<uid>.

    Raises:
        DestinationRefused: the directory holds something that is not an earlier demo.
        ConfigError: the account cannot run this Python.
    """
    owner = account(None)
    uid = owner.pw_uid if owner else os.getuid()
    root = Path(directory).absolute() if directory else Path(f"/var/tmp/pgproof-demo-{uid}")
    if root.exists() and any(root.iterdir()) and not (root / MARK).exists():
        raise DestinationRefused(
            f'"{root}" is not an earlier demo', "It is not empty.", "name a new --directory"
        )
    if root.is_symlink() or (root.exists() and root.stat().st_uid not in (uid, os.getuid())):
        raise DestinationRefused(f'"{root}" belongs to somebody else', hint="name a new --directory")
    make_directory(root, owner)
    if owner is not None:  # before anything is removed or written there by its path
        os.setgroups([])
        os.setgid(owner.pw_gid)
        os.setuid(owner.pw_uid)
    if reason := why_open(root):
        raise DestinationRefused(f'"{root}" is not ours alone', f"{reason}.", "name a new --directory")
    for data in (root / "source", root / "restored"):
        _end_server(data)
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (root / MARK).touch()
    os.environ["HOME"] = str(root)
    os.chdir(root)
    if not os.access(sys.executable, os.X_OK):
        raise ConfigError(
            f'account "{owner.pw_name if owner else uid}" cannot run {sys.executable}',
            "PostgreSQL does not run as root, and its archive_command needs this Python.",
            "clone into a directory that other accounts can enter, such as /opt, and run make demo there",
        )
    return Place(root)


def start_writer(dsn: str, log: Path) -> subprocess.Popen[bytes]:
    """The writer, in a process of its own that ends with this one."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            ending_with_us([sys.executable, "-m", "deployments.demo.writer", dsn]),
            stdout=output,
            stderr=output,
        )


def _end_server(data: Path) -> None:
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGQUIT)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
