"""Start a restored cluster as itself, whatever its configuration files say, and wait until recovery is there.

It is reached through a Unix socket in its own directory, which no other server uses, and it listens on no network
until it is accepted. All that makes it this cluster is given on the command line, where it wins over every file.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgproof.errors import RecoveryFailed
from pgproof.postgres.server import LocalServer
from pgproof.restore.command_line import SOCKET_PREFIX, options, socket_directory
from pgproof.restore.record import (
    FOLLOWING,
    OPEN,
    PAUSED,
    SHUT_DOWN,
    RestoreRecord,
    held,
)
from pgproof.restore.restored import RestoredCluster, config_file
from pgproof.restore.standing import Standing, differences
from pgproof.restore.unfinished import isolate_again
from pgproof.restore.whole_file import writing
from pgproof.timelines.lsn import LSN

_NOT_YET = (
    "the database system is",
    "conflict with recovery",
    "No such file",
    "refused",
    "timeout expired",
    "closed the connection",
    "terminating connection",
    "connection is lost",
)
_PAUSED_EARLY = re.compile(r"insufficient parameter settings\n.*?DETAIL:  ([^\n]+)")
NOTHING: Mapping[str, str] = {}
_STILL = 60  # seconds without progress after which a standby has what there is


@dataclass(frozen=True, slots=True)
class Started:
    """What came of a start.

    Args:
        standing: where the server stands; None when it shut itself down, as planned.
        findings: what is not as the plan of the restore said.
        again: what was put back that an unfinished acceptance had taken away; empty when there was nothing.
    """

    standing: Standing | None
    findings: tuple[str, ...]
    again: str = ""


def begin(
    restored: RestoredCluster,
    timeout: float | None = None,
    progress: Callable[[int], None] = lambda size: None,
    *,
    detached: bool = True,
) -> Started:
    """Start a restored cluster as a user does, wait for its recovery, and compare it with its plan.

    One that runs already, whoever started it, is waited for and compared. ``stop`` ends it.

    Args:
        restored: the cluster.
        timeout: seconds; None waits as long as recovery takes.
        progress: told the bytes of WAL that were replayed.
        detached: the server stays when we end.

    Raises:
        RecoveryFailed: it ended, does not answer, or the time is over.
    """
    again = ""
    with held(restored.data), writing(restored.data):
        server = None
        if not restored.running:
            again = isolate_again(restored)
            server = launch(restored, detached=detached)
    found = wait(restored, server, timeout, progress)
    findings = differences(restored.record, restored.data, found) if found else []
    if findings and (why := why_early(restored)):
        findings.append(why)
    return Started(found, tuple(findings), again)


def launch(
    restored: RestoredCluster,
    *,
    detached: bool = True,
    more: Mapping[str, str] = NOTHING,
    variables: Mapping[str, str] = NOTHING,
) -> LocalServer:
    """Start the server of a restored cluster; it is not ready yet.

    Args:
        restored: the cluster, in whose directory no server runs.
        detached: the server stays when we end.
        more: settings besides those that a user's server is started with.
        variables: of its environment, likewise.
    """
    socket = socket_directory(restored.data)
    server = LocalServer(
        restored.bin_directory,
        restored.data,
        socket,
        restored.log,
        {**options(restored, socket), **more},
        restored.owner,
        detached=detached,
        variables=variables,
        secrets=True,
    )
    server.start()
    return server


def wait(
    restored: RestoredCluster,
    server: LocalServer | None,
    timeout: float | None,
    progress: Callable[[int], None] = lambda size: None,
    look: Callable[[], object] = lambda: None,
) -> Standing | None:
    """Wait until recovery has come to its end.

    Args:
        restored: the cluster.
        server: as it was launched; None when somebody else has started it.
        timeout: seconds; None waits as long as it takes.
        progress: told the bytes of WAL that were replayed.
        look: called again and again meanwhile.

    Returns:
        where it stands; None when it shut itself down, as planned.

    Raises:
        RecoveryFailed: it ended, or does not answer, or the time is over.
    """
    began = moved = time.monotonic()
    found: Standing | None = None
    while True:
        look()
        if not ((server and server.running) or restored.running):
            _refuse_end(restored, server.log_tail() if server else "")
            return None
        before, found = found, _look(restored) or found
        if found is not None and (replayed := found.replayed):
            last = before.replayed if before else None
            progress(replayed - last if last else 0)
            moved = moved if replayed == last else time.monotonic()
        if found is not None and _arrived(restored.record, found, time.monotonic() - moved):
            return found
        if timeout is not None and time.monotonic() - began > timeout:
            raise RecoveryFailed(
                f'the server in "{restored.data}" has not recovered within {timeout:.0f} s',
                f"It runs on; it is {found}." if found else "It does not answer yet.",
                f"pgproof start {restored.data} waits on; {restored.log} says what it does",
            )
        time.sleep(0.1)


def _look(restored: RestoredCluster) -> Standing | None:
    running = restored.running
    if running is None:
        return None
    try:
        return restored.ask(running)
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        if any(sign in reason for sign in _NOT_YET):
            return None
        raise RecoveryFailed(
            f'the server in "{restored.data}" cannot be asked where it stands',
            reason,
            f"pgproof stop {restored.data}; pgproof start {restored.data}",
        ) from error


def _arrived(record: RestoreRecord, found: Standing, still: float) -> bool:
    if found.state in (OPEN, PAUSED):
        return True
    if found.state != FOLLOWING or found.replayed is None:
        return False
    return found.replayed >= LSN.parse(record.least) or still > _STILL


def _refuse_end(restored: RestoredCluster, said: str) -> None:
    """A server that ended has failed, unless it shut down at its target as planned.

    Raises:
        RecoveryFailed: it failed.
    """
    if restored.record.end == SHUT_DOWN and "shutdown at recovery target" in _text(restored.log):
        return
    hint = f"{restored.log} has all of it"
    if config_file(restored) is None:
        hint += "; name the source's postgresql.conf with --config-file"
    raise RecoveryFailed(f'the server in "{restored.data}" ended', said, hint)


def why_early(restored: RestoredCluster) -> str:
    """Why recovery paused before its target, when it was for a setting that is too small (``hot standby``)."""
    found = _PAUSED_EARLY.findall(_text(restored.log))
    return f"the server says: {found[-1]}" if found else ""


def _text(log: Path) -> str:
    """What a server has logged since its last start."""
    try:
        return log.read_text(errors="replace").rpartition("starting PostgreSQL")[2]
    except OSError:
        return ""


def stop(restored: RestoredCluster) -> bool:
    """Shut the server down; whether one ran."""
    running = restored.running
    if running is None:
        return False
    running.stop()
    socket = Path(running.socket)
    if socket.parent == Path("/tmp") and socket.name.startswith(SOCKET_PREFIX):
        shutil.rmtree(socket, ignore_errors=True)
    return True
