"""The command line of a restored cluster's server makes it this cluster, and keeps it to itself, until it is accepted.

What is given there wins over every file.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

from pgproof.restore.record import DIRECTORY, PAUSED
from pgproof.restore.restored import RestoredCluster, config_file, has_taken, log_of

SOCKET_PREFIX = "pgproof-restored-"
_SOCKET_PATH = 107  # bytes of sun_path
_UNUSUAL = re.compile(rb"[^ -~]|[,\"'\\]|//")
_PORT = 5432  # in the name of the socket only


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


def socket_directory(data: Path) -> Path:
    """Where the socket goes: into the data directory, which only the server's account may enter.

    Elsewhere when its path is too long, or holds what a list of paths or hosts reads in another way.
    """
    path = os.fsencode(data / f".s.PGSQL.{_PORT}")
    if len(path) <= _SOCKET_PATH and not _UNUSUAL.search(path):
        return data
    return Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir="/tmp"))


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
