"""The files of a source's configuration as they are read: on its machine with no more rights than the server has.

Else through the server itself, where the role may.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import Any, Protocol

import psycopg

from pgproof.errors import DestinationRefused, PgproofError
from pgproof.postgres.control import read_system_identifier
from pgproof.postgres.lock_file import running_in
from pgproof.postgres.programs import as_account, environment

NO_ROLE = "the role has no pg_read_server_files"
_LARGEST = 4 << 20  # bytes of one file; a list of names may be long
_MAY_READ = """
SELECT pg_has_role('pg_read_server_files', 'usage')
       AND has_function_privilege('pg_catalog.pg_read_binary_file(text, bigint, bigint)', 'execute')
       AND has_function_privilege('pg_catalog.pg_ls_dir(text)', 'execute')
"""


class Unreadable(Exception):
    """A file cannot be read, and why."""


class Reader(Protocol):
    """What reads the files of a server."""

    def content(self, path: str) -> bytes | None:
        """The bytes of a file; None when it is not there.

        Raises:
            Unreadable: with the reason.
        """

    def names(self, path: str) -> list[str] | None:
        """What is in a directory; None when it is not there."""

    def outside(self, path: str) -> bool:
        """Whether a base backup leaves a path out."""


def runs_here(data: Path, system_identifier: int) -> bool:
    """Whether the server of a data directory runs on this machine and sees the same files as we.

    Args:
        data: the directory, as the server says.
        system_identifier: of its cluster.
    """
    server = running_in(data)
    try:
        if server is None or read_system_identifier(data) != system_identifier:
            return False
        ours = os.readlink("/proc/self/ns/mnt")
    except (DestinationRefused, PgproofError, OSError):
        return False
    try:
        return os.readlink(f"/proc/{server.pid}/ns/mnt") == ours
    except OSError:  # another account's process does not say; its directory was found at its path
        return True


class Here:
    """The files of a server that runs on this machine."""

    def __init__(self, data: str) -> None:
        self._data = os.path.realpath(data)

    def content(self, path: str) -> bytes | None:
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Unreadable("it is no regular file")
                return _bounded(file.read(_LARGEST + 1))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(f"{error.strerror}") from error

    def names(self, path: str) -> list[str] | None:
        try:
            return [entry.name for entry in os.scandir(path) if not entry.is_dir()]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(f"{error.strerror}") from error

    def outside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real != self._data and not real.startswith(f"{self._data}/")


# What "$1" holds, up to "$2" bytes: a regular file's content, or the system's own words why there is none
_READ = """
if [ -f "$1" ]; then exec head -c "$2" -- "$1"; fi
if [ -e "$1" ]; then echo "it is no regular file" >&2; exit 1; fi
exec cat -- "$1"
"""
_LIST = 'exec find "$1/" -mindepth 1 -maxdepth 1 ! -type d -printf "%f\\0"'
_PATIENCE = 60  # seconds: what is a pipe by now would wait for a writer


class AsServer(Here):
    """The same for root, who reads as the server's account: whoever writes its configuration may name any file."""

    def __init__(self, data: str, owner: pwd.struct_passwd) -> None:
        super().__init__(data)
        self._owner = owner

    def content(self, path: str) -> bytes | None:
        found = self._ask(_READ, path, str(_LARGEST + 1))
        return None if found is None else _bounded(found)

    def names(self, path: str) -> list[str] | None:
        found = self._ask(_LIST, path)
        return None if found is None else [os.fsdecode(name) for name in found.split(b"\0") if name]

    def _ask(self, script: str, *words: str) -> bytes | None:
        groups = os.getgrouplist(self._owner.pw_name, self._owner.pw_gid)
        account: dict[str, Any] = {**as_account(self._owner), "extra_groups": groups}
        command = ["sh", "-c", script, "sh", *words]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=_PATIENCE, cwd="/", env=environment(), **account
            )
        except subprocess.TimeoutExpired as error:
            raise Unreadable(f"it was not read within {_PATIENCE} s") from error
        if done.returncode == 0:
            return bytes(done.stdout)
        said = done.stderr.decode(errors="replace").strip()
        if said.endswith("No such file or directory"):
            return None
        raise Unreadable(f"{said.rpartition(': ')[2]} for account {self._owner.pw_name}")


def here_of(data: str) -> Here:
    """What reads the files of a server here, with no more rights than the server has."""
    if os.geteuid() != 0:
        return Here(data)
    return AsServer(data, pwd.getpwuid(os.stat(data).st_uid))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer


class There:
    """The files of a server, as it gives them to a role that may read them."""

    def __init__(self, connection: psycopg.Connection, data: str, skipped: tuple[str, ...]) -> None:
        self._connection, self._data, self._skipped = connection, data, skipped
        row = connection.execute(_MAY_READ.encode()).fetchone()
        self.may = bool(row and row[0])

    def content(self, path: str) -> bytes | None:
        found = self._ask("pg_read_binary_file(%s, 0, %s)", path, _LARGEST + 1)
        return None if found is None else _bounded(bytes(found[0][0]))

    def names(self, path: str) -> list[str] | None:
        found = self._ask("pg_ls_dir(%s)", path)
        return None if found is None else [str(name) for (name,) in found]

    def _ask(self, function: str, path: str, *more: int) -> list[tuple[Any, ...]] | None:
        if not self.may:
            raise Unreadable(f"it cannot be read from here, and {NO_ROLE}")
        try:
            return self._connection.execute(f"SELECT {function}".encode(), (path, *more)).fetchall()
        except psycopg.errors.UndefinedFile:
            return None
        except psycopg.OperationalError as error:
            if self._connection.closed:
                raise
            raise Unreadable(f"the server says: {' '.join(str(error).split())}") from error
        except psycopg.Error as error:
            raise Unreadable(f"the server says: {' '.join(str(error).split())}") from error

    def outside(self, path: str) -> bool:
        """A link below the data directory leads somewhere else."""
        below = os.path.relpath(path, self._data)
        if below.startswith(".."):
            return True
        return any(below == link or below.startswith(f"{link}/") for link in self._skipped)


def _bounded(content: bytes) -> bytes:
    if len(content) > _LARGEST:
        raise Unreadable(f"it has more than {_LARGEST:,} bytes")
    return content
