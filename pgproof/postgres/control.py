"""Control data: what global/pg_control of a data directory says, read with pg_controldata."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import DestinationRefused, ObjectDamaged
from pgproof.postgres.programs import lines_of, run
from pgproof.timelines.lsn import LSN

# Settings that a hot standby must have at least as large as the source (manual, 26.4.3)
MINIMA = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}


@dataclass(frozen=True, slots=True)
class ControlData:
    """The part of pg_control that a restore needs."""

    system_identifier: int
    timeline: int
    checkpoint_lsn: LSN
    state: str
    minima: dict[str, int]
    minimum_recovery_lsn: LSN = LSN(0)
    segment_size: int = 16 << 20


def wal_sizes(segment_size: int) -> dict[str, str]:
    """The settings of WAL on disk: a server does not start with less than two segments (``ReadControlFile``).

    Args:
        segment_size: bytes.
    """
    return {
        "min_wal_size": f"{max(80, 2 * segment_size >> 20)}MB",
        "max_wal_size": f"{max(1024, 4 * segment_size >> 20)}MB",
    }


def read_control(bin_directory: Path, data_directory: Path) -> ControlData:
    """Read a data directory's control data.

    Raises:
        ObjectDamaged: pg_control is missing or its checksum is wrong.
    """
    done = run([bin_directory / "pg_controldata", data_directory], timeout=30)
    # a wrong checksum is no more than a warning there: up to PostgreSQL 16 in the answer, later on stderr
    if done.returncode != 0 or done.stderr or "WARNING: " in done.stdout:
        raise ObjectDamaged(
            f'control data of "{data_directory}" cannot be read', (done.stderr or done.stdout).strip()[:600]
        )
    values = dict(line.split(":", 1) for line in lines_of(done.stdout) if ":" in line)
    values = {name: value.strip() for name, value in values.items()}
    return ControlData(
        int(values["Database system identifier"]),
        int(values["Latest checkpoint's TimeLineID"]),
        LSN.parse(values["Latest checkpoint location"]),
        values["Database cluster state"],
        {name: int(values[label]) for name, label in MINIMA.items()},
        LSN.parse(values["Minimum recovery ending location"]),
        int(values["Bytes per WAL segment"]),
    )


def read_system_identifier(data_directory: Path) -> int:
    """The system identifier alone: the first eight bytes of pg_control (``ControlFileData``).

    Raises:
        DestinationRefused: this is no data directory.
    """
    try:
        with open(data_directory / "global" / "pg_control", "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DestinationRefused(
            f'"{data_directory}" is not a data directory', f"global/pg_control: {error.strerror}."
        ) from error
    if len(head) < 8:
        raise DestinationRefused(f'"{data_directory}" is not a data directory', "global/pg_control is empty.")
    return int(struct.unpack("=Q", head)[0])


def postmaster_runs(data_directory: Path) -> bool:
    """Whether a server runs in a data directory: its lock file names a process that exists (``postmaster.pid``)."""
    try:
        with open(data_directory / "postmaster.pid") as file:
            os.kill(int(file.readline()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
