"""Start a restored cluster as itself, whatever its configuration files say, and wait until recovery is there.

It is reached through a Unix socket in its own directory, which no other server uses, and it listens on no network
until it is accepted. All that makes it this cluster is given on the command line, where it wins over every file.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from pgproof.errors import DestinationRefused, RecoveryFailed
from pgproof.postgres.lock_file import RunningServer, running_in
from pgproof.postgres.programs import find_bin_directory
from pgproof.postgres.server import LocalServer
from pgproof.restore.record import (
    DIRECTORY,
    FOLLOWING,
    OPEN,
    PAUSED,
    SHUT_DOWN,
    RestoreRecord,
    held,
    read_record,
)
from pgproof.restore.standing import Standing, ask, differences, open_as_superuser
from pgproof.timelines.lsn import LSN

_SOCKET_PREFIX = "pgproof-restored-"
_SOCKET_PATH = 107  # bytes of sun_path
_UNUSUAL = re.compile(rb"[^ -~]|[,\"'\\]|//")
_PORT = 5432  # in the name of the socket only
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


@dataclass(frozen=True)
class RestoredCluster:
    """A directory that was restored, with its record, and whose it is.

    Args:
        data: the directory.
        record: of the restore.
        owner: account of its server when we are root.
    """

    data: Path
    record: RestoreRecord
    owner: pwd.struct_passwd | None

    @property
    def log(self) -> Path:
        return log_of(self.data)

    @property
    def running(self) -> RunningServer | None:
        return running_in(self.data)

    @property
    def bin_directory(self) -> Path:
        configured = self.record.bin_directory
        return find_bin_directory(self.record.major, Path(configured) if configured else None)

    @property
    def roles(self) -> list[str]:
        """Roles of which one is there, for the first connection."""
        names = ["postgres", pwd.getpwuid(self.data.stat().st_uid).pw_name]
        return list(dict.fromkeys([self.record.role, *names] if self.record.role else names))

    def ask(self, server: RunningServer) -> Standing:
        """Where the server stands.

        Raises:
            psycopg.OperationalError: it does not answer.
        """
        with open_as_superuser(server.dsn, self.roles, self.record.major) as connection:
            return ask(connection, self.record)


def log_of(data: Path) -> Path:
    """Where the log of a restored cluster goes: beside its directory; into it when that one is somebody else's."""
    beside = data.with_name(f"{data.name}.log")
    return beside if os.access(beside if beside.exists() else data.parent, os.W_OK) else data / "restored.log"


def open_restored(data: Path) -> RestoredCluster:
    """A restored directory.

    Raises:
        DestinationRefused: it is none, or it is root's.
    """
    record = read_record(data)
    if os.geteuid() != 0:
        return RestoredCluster(data, record, None)
    owner = data.stat().st_uid
    if owner == 0:
        raise DestinationRefused(
            f'"{data}" belongs to root',
            "PostgreSQL refuses to run as root.",
            f"chown -R postgres: {data}, and its tablespaces",
        )
    return RestoredCluster(data, record, pwd.getpwuid(owner))


def options(restored: RestoredCluster, socket: Path) -> dict[str, str]:
    """What a restored cluster is started with until it is accepted; a command line wins over every file.

    Args:
        restored: the cluster.
        socket: directory for its socket, which only its account may enter.
    """
    named = config_file(restored) or restored.data / DIRECTORY / "postgresql.conf"
    pauses = {"recovery_target_action": "pause"} if restored.record.end == PAUSED else {}
    return {"config_file": str(named), **pauses, **forced(restored.data, socket)}


def forced(data: Path, socket: Path) -> dict[str, str]:
    """What makes a server this cluster, and keeps it to itself.

    Args:
        data: the restored directory.
        socket: directory for the server's socket.
    """
    own = data / DIRECTORY
    return {
        "data_directory": str(data),
        "hba_file": str(own / "pg_hba.conf"),
        "ident_file": str(own / "pg_ident.conf"),
        "external_pid_file": "",
        "listen_addresses": "",
        "unix_socket_directories": str(socket),
        "unix_socket_group": "",
        "unix_socket_permissions": "0700",  # closed to us, it could not be asked where it stands
        "port": str(_PORT),
        "logging_collector": "off",
        "log_destination": "stderr",
        "lc_messages": "C",
    }


def config_file(restored: RestoredCluster) -> Path | None:
    """The postgresql.conf of a restored cluster; None when there is none.

    It is the one that was named, else what the backup has from outside the data directory, else its own.
    """
    if restored.record.config_file:
        return Path(restored.record.config_file)
    if restored.record.taken and restored.record.taken.main:
        return restored.data / DIRECTORY / "postgresql.conf"
    inside = restored.data / "postgresql.conf"
    return inside if inside.exists() else None


def has_taken(data: Path) -> bool:
    """Whether a restored directory has the configuration of its source from outside the data directory."""
    try:
        taken = read_record(data).taken
    except DestinationRefused:  # of a dry run
        return False
    return taken is not None and taken.main is not None


def socket_directory(data: Path) -> Path:
    """Where the socket goes: into the data directory, which only the server's account may enter.

    Elsewhere when its path is too long, or holds what a list of paths or hosts reads in another way.
    """
    path = os.fsencode(data / f".s.PGSQL.{_PORT}")
    if len(path) <= _SOCKET_PATH and not _UNUSUAL.search(path):
        return data
    return Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir="/tmp"))


@dataclass(frozen=True, slots=True)
class Started:
    """What came of a start.

    Args:
        standing: where the server stands; None when it shut itself down, as planned.
        findings: what is not as the plan of the restore said.
    """

    standing: Standing | None
    findings: tuple[str, ...]


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
    with held(restored.data):
        server = None if restored.running else launch(restored, detached=detached)
    found = wait(restored, server, timeout, progress)
    findings = differences(restored.record, restored.data, found) if found else []
    if findings and (why := why_early(restored)):
        findings.append(why)
    return Started(found, tuple(findings))


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


def with_config_file(restored: RestoredCluster, path: Path | None) -> RestoredCluster:
    """The cluster with the configuration that a user named; kept for later starts.

    Raises:
        DestinationRefused: there is no such file.
    """
    if path is None:
        return restored
    if not path.is_file():
        raise DestinationRefused(f'configuration file "{path}" is not there')
    record = replace(restored.record, config_file=str(path.absolute()))
    record.write(restored.data, restored.owner)
    return replace(restored, record=record)


def with_pause(restored: RestoredCluster) -> RestoredCluster:
    """The cluster that pauses at its target instead of shutting down there; kept for later starts."""
    if restored.record.end != SHUT_DOWN:
        return restored
    record = replace(restored.record, end=PAUSED)
    record.write(restored.data, restored.owner)
    return replace(restored, record=record)


def stop(restored: RestoredCluster) -> bool:
    """Shut the server down; whether one ran."""
    running = restored.running
    if running is None:
        return False
    running.stop()
    socket = Path(running.socket)
    if socket.parent == Path("/tmp") and socket.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(socket, ignore_errors=True)
    return True


def by_hand(data: Path, bin_directory: Path | None) -> str:
    """The line of a shell that starts a restored cluster as ``pgproof start`` does, with PostgreSQL's own program.

    Args:
        data: the restored directory.
        bin_directory: of the server's programs; None is PATH.
    """
    own = data / DIRECTORY
    settings = forced(data, data)
    if data.is_dir() and (has_taken(data) or not (data / "postgresql.conf").exists()):
        settings["config_file"] = str(own / "postgresql.conf")
    words = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
    program = shlex.quote(str(bin_directory / "pg_ctl")) if bin_directory else "pg_ctl"
    where = f"-D {shlex.quote(str(data))} -l {shlex.quote(str(log_of(data)))}"
    return f"{program} {where} -o {shlex.quote(words)} start"
