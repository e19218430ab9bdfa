"""The lock file postmaster.pid says which server runs in a data directory, and where it answers (miscinit.c)."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import RecoveryFailed
from pgproof.postgres.own_socket import socket_dsn


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that runs in a data directory, whoever started it.

    Args:
        pid: of its postmaster.
        data: the directory.
        socket: directory of its Unix socket; empty when it has none.
        port: in the name of the socket.
    """

    pid: int
    data: Path
    socket: str
    port: int

    @property
    def dsn(self) -> str:
        """How to connect, without role and database."""
        return socket_dsn(self.socket, self.port)

    @property
    def alive(self) -> bool:
        """Whether the process is there and works in the directory; a number may belong to somebody else by now."""
        try:
            return Path(f"/proc/{self.pid}/cwd").resolve(strict=True) == self.data.resolve()
        except OSError:
            return False

    def stop(self, timeout: float = 600) -> None:
        """Shut it down as ``pg_ctl stop`` does, and wait for the end.

        Raises:
            RecoveryFailed: it still runs when the time is over.
        """
        end = time.monotonic() + timeout
        os.kill(self.pid, signal.SIGINT)
        while self.alive:
            if time.monotonic() > end:
                raise RecoveryFailed(
                    f'the server in "{self.data}" did not stop within {timeout:.0f} s',
                    f"Its process is {self.pid}.",
                    f"look at its log, then run pgproof stop {self.data} again",
                )
            time.sleep(0.05)


def running_in(data: Path) -> RunningServer | None:
    """The server that runs in a data directory; None when none does, or it is not far enough to be asked."""
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).split("\n")
        found = RunningServer(int(lines[0]), data, lines[4], int(lines[3]))
    except (OSError, ValueError, IndexError):
        return None
    return found if found.alive else None


def takes_sessions(data: Path) -> bool:
    """Whether the server in a data directory lets sessions in by now, as it says itself (``PMStatus`` of its file).

    A session that it refuses costs it a process.
    """
    try:
        lines = (data / "postmaster.pid").read_bytes().split(b"\n")
    except OSError:
        return False
    return len(lines) > 7 and lines[7].strip() in (b"standby", b"ready")


def running_everywhere() -> list[RunningServer]:
    """Every server of this machine whose processes we may look at."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                directory = Path(os.readlink(entry / "cwd"))
            except OSError:
                continue
            server = running_in(directory)
            if server is not None:
                found[server.pid] = server
    return list(found.values())
