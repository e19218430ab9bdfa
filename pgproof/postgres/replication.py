"""The streaming replication protocol (PostgreSQL manual, 55.4), read through psycopg's libpq wrapper."""

from __future__ import annotations

import contextlib
import select
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg import OperationalError, pq
from psycopg.pq.abc import PGresult

from pgproof.config import ClusterConfig
from pgproof.errors import BackupFailed, PgproofError, PrivilegeMissing, ServerNotReady, ServerUnreachable
from pgproof.postgres.connection import connection_error, conninfo
from pgproof.wal.lsn import LSN

_IDLE_LIMIT = 600.0  # seconds without a byte from the server before the connection counts as dead


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """The answer to IDENTIFY_SYSTEM."""

    system_identifier: int
    timeline: int
    flush_lsn: LSN


@dataclass(frozen=True, slots=True)
class ArchiveStart:
    """A new tar begins; ``tablespace`` is None for the data directory."""

    name: str
    tablespace: int | None


@dataclass(frozen=True, slots=True)
class ManifestStart:
    """What follows is the backup manifest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many bytes of the current tar the server has read."""

    done: int


Message = ArchiveStart | ManifestStart | Progress | bytes


class ReplicationConnection:
    """A physical replication connection.

    Args:
        cluster: to connect to; its role needs REPLICATION.

    Raises:
        ServerUnreachable, AuthenticationFailed, PrivilegeMissing: as for every connection.
    """

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster
        text = conninfo(cluster, replication="true", fallback_application_name="pgproof")
        self._pg = pq.PGconn.connect(text.encode())
        if self._pg.status != pq.ConnStatus.OK:
            raise connection_error(cluster, self._message())

    def close(self) -> None:
        self._pg.finish()

    def __enter__(self) -> ReplicationConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def identify_system(self) -> SystemIdentity:
        """Who the server is, asked on the very connection that the backup uses."""
        row = self.query("IDENTIFY_SYSTEM")[0]
        return SystemIdentity(int(row[0]), int(row[1]), LSN.parse(row[2]))

    def query(self, command: str) -> list[list[str]]:
        """Run a replication command that answers with rows."""
        self._send(command)
        rows = self._rows(self._result(), command)
        while (result := self._pg.get_result()) is not None:
            self._check(result, command)
        return rows

    def start_base_backup(self, options: str) -> tuple[LSN, int, list[list[str]]]:
        """Send BASE_BACKUP and read what comes before the data.

        Args:
            options: between the parentheses.

        Returns:
            start LSN, timeline, and the tablespace rows (oid, path, kB); the data directory's has no oid.
        """
        self._send(f"BASE_BACKUP ({options})")
        start = self._rows(self._result(), "BASE_BACKUP")[0]
        tablespaces = self._rows(self._result(), "BASE_BACKUP")
        self._check(self._result(), "BASE_BACKUP", pq.ExecStatus.COPY_OUT)
        return LSN.parse(start[0]), int(start[1]), tablespaces

    def upload_manifest(self, chunks: Iterable[bytes]) -> None:
        """Give the server the manifest that an incremental backup builds on (PostgreSQL 17)."""
        self._send("UPLOAD_MANIFEST")
        self._check(self._result(), "UPLOAD_MANIFEST", pq.ExecStatus.COPY_IN)
        for chunk in chunks:
            for start in range(0, len(chunk), 65536):
                with self._mapped():
                    self._pg.put_copy_data(chunk[start : start + 65536])
        with self._mapped():
            self._pg.put_copy_end()
        while (result := self._pg.get_result()) is not None:
            self._check(result, "UPLOAD_MANIFEST")

    def messages(self) -> Iterator[Message]:
        """The messages of a running BASE_BACKUP, until its data ends (manual, 55.4, "BASE_BACKUP")."""
        while (data := self._copy_data()) is not None:
            kind, body = data[:1], data[1:]
            if kind == b"d":
                yield body
            elif kind == b"n":
                name, path, _ = body.split(b"\0", 2)
                oid = name.removesuffix(b".tar").decode()
                yield ArchiveStart(name.decode(), int(oid) if path and oid.isdigit() else None)
            elif kind == b"m":
                yield ManifestStart()
            elif kind == b"p":
                yield Progress(struct.unpack("!q", body)[0])

    def finish_base_backup(self) -> tuple[LSN, int]:
        """Stop LSN and timeline, after the last message.

        Raises:
            BackupFailed: the server reported page checksum failures, or another error at the end.
        """
        stop = self._rows(self._result(), "BASE_BACKUP")[0]
        while (result := self._pg.get_result()) is not None:
            self._check(result, "BASE_BACKUP")
        return LSN.parse(stop[0]), int(stop[1])

    def _copy_data(self) -> bytes | None:
        while True:
            with self._mapped():
                size, data = self._pg.get_copy_data(1)
            if size > 0:
                return bytes(data)
            if size == -1:
                return None
            self._wait()

    def _wait(self) -> None:
        readable, _, _ = select.select([self._pg.socket], [], [], _IDLE_LIMIT)
        if not readable:
            raise self._broken(f"the server sent nothing for {_IDLE_LIMIT:.0f} s")
        with self._mapped():
            self._pg.consume_input()

    def _send(self, command: str) -> None:
        with self._mapped():
            self._pg.send_query(command.encode())

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """psycopg raises where libpq returns a failure, such as -2 of PQgetCopyData."""
        try:
            yield
        except OperationalError as error:
            raise self._broken(str(error)) from error

    def _result(self) -> PGresult:
        result = self._pg.get_result()
        if result is None:
            raise self._broken(self._message() or "the server ended the command early")
        return result

    def _rows(self, result: PGresult, command: str) -> list[list[str]]:
        self._check(result, command, pq.ExecStatus.TUPLES_OK)
        return [
            [(result.get_value(row, column) or b"").decode() for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]

    def _check(self, result: PGresult, command: str, expected: pq.ExecStatus | None = None) -> None:
        failed = result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)
        if failed or (expected is not None and result.status != expected):
            raise self._error(result, command)

    def _error(self, result: PGresult, command: str) -> PgproofError:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = " ".join((result.error_message or b"").decode(errors="replace").split()) or self._message()
        verb = command.split(" ")[0]
        name = self._cluster.name
        if state == "42501":
            return PrivilegeMissing(
                f'{verb} was refused by cluster "{name}"', text, f"pgproof doctor {name} shows the mend"
            )
        if state == "55000":  # object_not_in_prerequisite_state
            return ServerNotReady(
                f'{verb} is not possible on cluster "{name}" now',
                text,
                f"pgproof doctor {name} shows the mend",
            )
        if not state or state.startswith(("08", "57")):
            return self._broken(text)
        hint = ""
        if state == "XX001":
            hint = "a page of the source is corrupt: look in its log for the file, and keep the older backups"
        return BackupFailed(f'{verb} failed on cluster "{name}"', text, hint)

    def _broken(self, reason: str) -> ServerUnreachable:
        return ServerUnreachable(
            f'the replication connection to cluster "{self._cluster.name}" broke', " ".join(reason.split())
        )

    def _message(self) -> str:
        with contextlib.suppress(Exception):
            return self._pg.error_message.decode(errors="replace").strip()
        return ""
