"""A place is where a WAL file may still be that the archive lacks: another repository, or a server's ``pg_wal``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol

from pgproof.config import ClusterConfig
from pgproof.errors import (
    AuthenticationFailed,
    ConfigError,
    ObjectMissing,
    PgproofError,
    PrivilegeMissing,
    TransientError,
    WrongSystem,
)
from pgproof.gaps.copies import OpenCopy
from pgproof.postgres.connection import display_dsn
from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.streaming import read_history, read_segment
from pgproof.repository.repository import Archive, check_system
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key

_AWAY = (TransientError, WrongSystem, AuthenticationFailed, PrivilegeMissing, ConfigError)


class Place(Protocol):
    """Where a file is looked for.

    ``name`` says it to people; ``trusted`` that what it has is of the archived future, where nothing else tells.
    """

    name: str
    trusted: bool

    def segment(self, segment: WalSegment) -> Iterable[bytes]:
        """The content of a segment, not yet checked.

        Raises:
            PgproofError: why it cannot be had here.
        """

    def history(self, timeline: int) -> bytes:
        """The content of a history file, not yet checked.

        Raises:
            PgproofError: why it cannot be had here.
        """

    def close(self) -> None:
        """Nothing is asked any more."""


class RepositoryPlace:
    """Another repository that gets every WAL file.

    Args:
        name: as pgproof.toml names it.
        archive: of the same cluster in it, or why it cannot be opened.
    """

    def __init__(self, name: str, archive: Archive | PgproofError) -> None:
        self.name, self.trusted = f'repository "{name}"', True
        self._archive = archive

    def segment(self, segment: WalSegment) -> Iterator[bytes]:
        return self._open(segment.name)

    def history(self, timeline: int) -> bytes:
        return b"".join(self._open(f"{timeline:08X}.history"))

    def _open(self, name: str) -> Iterator[bytes]:
        if isinstance(self._archive, PgproofError):
            raise self._archive
        return self._archive.open(find_key(self._archive, name))

    def close(self) -> None:
        """Nothing is held."""


class ServerPlace:
    """The ``pg_wal`` of a server, read over the replication protocol.

    A server that does not answer, or belongs to another cluster, is asked once and then counts as away.

    Args:
        kind: ``source`` or ``standby``.
        cluster: whose DSN leads to it.
        system_identifier: that it must have.
    """

    def __init__(self, kind: str, cluster: ClusterConfig, system_identifier: int) -> None:
        self.name, self.trusted = f'{kind} "{display_dsn(cluster.dsn)}"', kind == "source"
        self._cluster, self._system = cluster, system_identifier
        self._connection: ReplicationConnection | None = None
        self._failure: PgproofError | None = None

    def segment(self, segment: WalSegment) -> list[bytes]:
        return [self._asked(lambda connection: read_segment(connection, segment))]

    def history(self, timeline: int) -> bytes:
        return self._asked(lambda connection: read_history(connection, timeline)[1])

    def _asked(self, question: Callable[[ReplicationConnection], bytes]) -> bytes:
        if self._failure is not None:
            raise self._failure
        try:
            return question(self._connect())
        except ObjectMissing:
            raise  # an answer
        except PgproofError as error:
            if isinstance(error, _AWAY):
                self._failure = error
            self.close()  # whose state is not known now
            raise

    def _connect(self) -> ReplicationConnection:
        if self._connection is None:
            connection = ReplicationConnection(self._cluster)
            try:
                check_system(self._system, connection.identify_system().system_identifier, self.name)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            with suppress(PgproofError):
                self._connection.close()
            self._connection = None


def places_of(
    cluster: ClusterConfig, system_identifier: int, copies: Mapping[str, Archive | PgproofError]
) -> list[Place]:
    """Where a cluster's WAL is looked for, in order: other repositories, the source, its standbys.

    Args:
        cluster: with its standbys' DSNs.
        system_identifier: of the archive.
        copies: the other repositories, as ``open_copies`` gives them.
    """
    return [
        *(RepositoryPlace(name, copy) for name, copy in copies.items()),
        ServerPlace("source", cluster, system_identifier),
        *(ServerPlace("standby", standby, system_identifier) for standby in standbys_of(cluster)),
    ]


def standbys_of(cluster: ClusterConfig) -> list[ClusterConfig]:
    """The configured standbys, each as a cluster whose DSN leads to it."""
    return [
        cluster.model_copy(update={"dsn": dsn, "name": f"{cluster.name}, standby {number}"})
        for number, dsn in enumerate(cluster.standbys, 1)
    ]


def open_copies(copies: Mapping[str, OpenCopy], archive: Archive) -> dict[str, Archive | PgproofError]:
    """The other repositories of a cluster by name, each as the archive in it or as the error that it gave.

    Args:
        copies: how to open them.
        archive: of the cluster's own repository.
    """
    found: dict[str, Archive | PgproofError] = {}
    for name, opened in copies.items():
        try:
            found[name] = opened().archive(archive.layout.cluster, archive.system_identifier)
        except PgproofError as error:
            found[name] = error
    return found
