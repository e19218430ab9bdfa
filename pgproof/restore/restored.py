"""A restored cluster is a directory that was restored and not accepted yet, with its record and whose it is."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, replace
from pathlib import Path

from pgproof.errors import DestinationRefused
from pgproof.postgres.lock_file import RunningServer, running_in
from pgproof.postgres.programs import find_bin_directory
from pgproof.restore.record import DIRECTORY, PAUSED, SHUT_DOWN, RestoreRecord, read_record
from pgproof.restore.standing import Standing, ask, open_as_superuser
from pgproof.restore.whole_file import writing


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
    with writing(restored.data):
        record.save(restored.data, restored.owner)
    return replace(restored, record=record)


def with_pause(restored: RestoredCluster) -> RestoredCluster:
    """The cluster that pauses at its target instead of shutting down there; kept for later starts."""
    if restored.record.end != SHUT_DOWN:
        return restored
    record = replace(restored.record, end=PAUSED)
    with writing(restored.data):
        record.save(restored.data, restored.owner)
    return replace(restored, record=record)
