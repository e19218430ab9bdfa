"""Data directories for the tests' servers: initdb runs once for each version and options, and its result is copied.

A copy is another cluster: it has a system identifier of its own.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import secrets
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgproof.postgres.programs import account, find_bin_directory
from pgproof.postgres.server import initialise
from tests.servers.place import give_to_server, place

_TEMPLATES = "PGPROOF_TEST_TEMPLATES"
_LONG_HEADER = 2  # XLP_LONG_HEADER of xlp_info
_SYSTEM = struct.Struct("<Q")


def make_data_directory(major: int, data: Path, options: tuple[str, ...] = ()) -> None:
    """A new cluster, as initdb makes it with these options.

    Args:
        major: version of PostgreSQL.
        data: directory to make; it belongs to the server's account.
        options: of initdb, besides those that every cluster of the tests has.
    """
    subprocess.run(["cp", "-a", "--reflink=auto", _template(major, options), data], check=True)
    _set_system_identifier(data, int(time.time()) << 32 | secrets.randbits(32))


def _template(major: int, options: tuple[str, ...]) -> Path:
    """The directory to copy."""
    bin_directory = find_bin_directory(major)
    name = hashlib.sha256("\0".join((str(bin_directory), *options)).encode()).hexdigest()[:16]
    return made_once(name, lambda data: initialise(bin_directory, data, owner=account(None), options=options))


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A directory that all workers of a run share, made by whichever wants it first.

    Args:
        name: of it.
        make: makes the directory that it is given.
    """
    made = templates() / name
    with _alone(made.with_suffix(".lock")):
        if not made.exists():
            new = made.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            make(new)
            new.rename(made)
    return made


def templates() -> Path:
    """Where they are: made and removed by the first process that asks, and known to those that it starts."""
    if _TEMPLATES not in os.environ:
        made = tempfile.mkdtemp(prefix="pgp-templates-", dir=place())
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        Path(made).chmod(0o755)
        give_to_server(Path(made))
        os.environ[_TEMPLATES] = made
    return Path(os.environ[_TEMPLATES])


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with open(lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _set_system_identifier(data: Path, identifier: int) -> None:
    """Make it another cluster: pg_control begins with the identifier, and each WAL segment's first page has it."""
    path = data / "global" / "pg_control"
    control = bytearray(path.read_bytes())
    end = _end_of_control(control)
    _SYSTEM.pack_into(control, 0, identifier)
    control[end : end + 4] = _crc32c(control[:end]).to_bytes(4, "little")
    path.write_bytes(control)
    for segment in (data / "pg_wal").iterdir():
        if segment.is_file():
            with open(segment, "r+b") as file:
                assert file.read(4)[2] & _LONG_HEADER, f"{segment} does not begin with a long page header"
                file.seek(24)  # after XLogPageHeaderData
                file.write(_SYSTEM.pack(identifier))


def _end_of_control(control: bytearray) -> int:
    """Where the CRC stands; the length of ControlFileData before it differs between versions."""
    for end in range(128, 512, 4):
        if _crc32c(control[:end]).to_bytes(4, "little") == control[end : end + 4]:
            return end
    raise AssertionError("pg_control has no CRC where it is looked for")


def _crc32c(data: bytes | bytearray) -> int:
    """Castagnoli's CRC, bit by bit: it is for some 300 bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
