"""The streaming replication protocol (PostgreSQL manual, 55.4), read through psycopg's libpq wrapper."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg import OperationalError, pq
from psycopg.pq.abc import PGresult

from pgproof.config import ClusterConfig
from pgproof.errors import (
    BackupFailed,
    PgproofError,
    PrivilegeMissing,
    ServerNotReady,
    ServerUnreachable,
)
from pgproof.postgres.connection import connection_error, conninfo
from pgproof.postgres.messages import Message, message_of
from pgproof.postgres.notices import Notice, Notices
from pgproof.postgres.refusals import command_error
from pgproof.timelines.lsn import LSN

_IDLE_LIMIT = 600.0  # seconds without a byte from the server before the connection counts as dead
_CHECKPOINT_LIMIT = 86400.0  # a spread checkpoint takes the better part of checkpoint_timeout, at most a day
_KEEP = "surrogateescape"  # a history file may hold a name in any encoding, and must stay as it is
_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)
_KEEP_OLDER = "no backup was taken; keep older ones with pgproof hold: docs/runbooks/backup-fails.md, step 4"


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """The answer to IDENTIFY_SYSTEM."""

    system_identifier: int
    timeline: int
    flush_lsn: LSN


class ReplicationConnection:
    """A physical replication connection.

    Args:
        cluster: to connect to; its role needs REPLICATION.
        dsn: of another server of the cluster, such as a standby; default: the cluster's own.
        application_name: by which ``pg_stat_replication`` and ``synchronous_standby_names`` know us.

    Raises:
        ServerUnreachable, AuthenticationFailed, PrivilegeMissing: as for every connection.
    """

    def __init__(
        self, cluster: ClusterConfig, dsn: str | None = None, *, application_name: str | None = None
    ) -> None:
        self._cluster = cluster if dsn is None else cluster.model_copy(update={"dsn": dsn})
        names = {} if application_name is None else {"application_name": application_name}
        # no database and so no encoding: what is no UTF-8, such as the path of a tablespace, would be refused
        names |= {"fallback_application_name": "pgproof", "client_encoding": "SQL_ASCII"}
        text = conninfo(self._cluster, replication="true", **names)
        self._pg = pq.PGconn.connect(text.encode())
        self._first: PGresult | None = None
        self._notices = Notices()
        self._pg.notice_handler = self._notices.hear
        if self._pg.status != pq.ConnStatus.OK:
            raise connection_error(self._cluster, self._message())

    @property
    def server_version(self) -> int:
        """As ``server_version_num``, such as 170010."""
        return self._pg.server_version

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the server has warned of so far."""
        return tuple(self._notices.all)

    @property
    def cluster_name(self) -> str:
        """The cluster, as pgproof.toml names it."""
        return self._cluster.name

    def close(self) -> None:
        self._pg.finish()

    def __enter__(self) -> ReplicationConnection:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, ServerUnreachable):
            self._cancel()
        self.close()

    def _cancel(self) -> None:
        """Ask the server to end the running command: while it waits for a checkpoint, it sees no closed connection."""
        if self._pg.status == pq.ConnStatus.OK and self._pg.transaction_status == pq.TransactionStatus.ACTIVE:
            with contextlib.suppress(OperationalError):
                self._pg.get_cancel().cancel()

    def identify_system(self) -> SystemIdentity:
        """Who the server is, asked on the very connection that the backup uses."""
        row = self.query("IDENTIFY_SYSTEM")[0]
        return SystemIdentity(int(row[0]), int(row[1]), LSN.parse(row[2]))

    def query(self, command: str) -> list[list[str]]:
        """Run a replication command that answers with rows."""
        self._send(command)
        return self._drain(command, _IDLE_LIMIT)

    def begin_copy_both(self, command: str, limit: float) -> bool:
        """Send a command whose data goes both ways.

        Args:
            command: START_REPLICATION.
            limit: seconds to wait for the answer.

        Returns:
            False when the server has nothing to send and goes straight to the end (``finish_copy_both``).
        """
        self._send(command)
        self._first = self._next_result(limit)
        if self._first is None or self._first.status != pq.ExecStatus.COPY_BOTH:
            if self._first is not None and self._first.status == pq.ExecStatus.TUPLES_OK:
                return False
            self._drain(command, limit)
            raise self._broken(self._message() or "the server ended the command early")
        self._first = None
        self._pg.nonblocking = 1
        return True

    def poll_copy(self, timeout: float) -> bytes | None:
        """One message of a running copy.

        Args:
            timeout: seconds to wait for one; nothing is waited for while one has arrived.

        Returns:
            the message, ``b""`` when none came in time, None when the server has ended the copy.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._mapped():
                size, data = self._pg.get_copy_data(1)
            if size > 0:
                return bytes(data)
            if size == -1:
                return None
            if not self._readable(max(0.0, deadline - time.monotonic())):
                return b""

    def send_copy(self, data: bytes, limit: float) -> None:
        """Send one message of a running copy; it is on its way when this returns.

        Raises:
            ServerUnreachable: the server took nothing for ``limit`` seconds.
        """
        with self._mapped():
            while not self._pg.put_copy_data(data):
                self._writable(limit)
        self._flush(limit)

    def end_copy(self, limit: float) -> None:
        """Say that nothing more comes from our side (CopyDone)."""
        with self._mapped():
            while not self._pg.put_copy_end():
                self._writable(limit)
        self._flush(limit)

    def finish_copy_both(self, command: str, limit: float) -> list[list[str]]:
        """The rows after a copy that the server has ended; answered with CopyDone where that was not sent.

        Raises:
            the server's error, where it ended the copy with one.
        """
        rows = self._drain(command, limit)
        with contextlib.suppress(OperationalError):  # the server has closed the connection
            self._pg.nonblocking = 0
        return rows

    def start_base_backup(
        self, options: str, patience: float = _CHECKPOINT_LIMIT
    ) -> tuple[LSN, int, list[list[str]]]:
        """Send BASE_BACKUP and read what comes before the data.

        Args:
            options: between the parentheses.
            patience: seconds for which the server may wait for its WAL summaries: those of a standby follow the
                restartpoints, which an idle primary brings about seldom.

        Returns:
            start LSN, timeline, and the tablespace rows (oid, path, kB); the data directory's has no oid.

        Raises:
            ServerNotReady: the summaries did not come in time.
        """
        self._send(f"BASE_BACKUP ({options})")
        self._await_summaries(patience)
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
            message = message_of(data)
            if message is not None:
                yield message

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

    def _drain(self, command: str, limit: float) -> list[list[str]]:
        """The rows of what is left of a command; read to its end, so that the connection can be used again.

        Raises:
            the first error that the server sent.
        """
        rows: list[list[str]] = []
        failure: PgproofError | None = None
        result, self._first = self._first or self._next_result(limit), None
        while result is not None:
            if result.status == pq.ExecStatus.COPY_IN:
                self.end_copy(limit)
            elif result.status == pq.ExecStatus.TUPLES_OK:
                rows += self._rows(result, command)
            elif result.status in _FAILED:
                failure = failure or self._error(result, command)
            done = result.status == pq.ExecStatus.COMMAND_OK
            try:
                result = self._next_result(limit)
            except ServerUnreachable:
                if not done:  # a walsender that shuts down says that it is done and is gone (WalSndDone)
                    raise
                result = None
        if failure is not None:
            raise failure
        return rows

    def _next_result(self, limit: float) -> PGresult | None:
        """The next result, waited for no longer than the limit without a byte."""
        with self._mapped():
            while self._pg.is_busy():
                if not self._readable(limit):
                    raise self._broken(f"the server sent nothing for {limit:.0f} s")
            return self._pg.get_result()

    def _await_summaries(self, patience: float) -> None:
        """Wait for the answer to BASE_BACKUP; of that time the server may say only so long that it waits itself."""
        end = time.monotonic() + patience
        with self._mapped():
            while self._pg.is_busy():
                said = [notice for notice in self._notices.all if notice.waits]
                if said and time.monotonic() > end:
                    raise ServerNotReady(
                        f'cluster "{self._cluster.name}" has not summarized its WAL within {patience:.0f} s',
                        f"{said[-1].text}.",
                        "a standby summarizes up to its last restartpoint: CHECKPOINT on the primary, then try again",
                    )
                self._readable(min(_CHECKPOINT_LIMIT, max(1.0, end - time.monotonic())))

    def _readable(self, timeout: float) -> bool:
        """Wait for bytes from the server, and take in those that came."""
        readable, _, _ = select.select([self._pg.socket], [], [], timeout)
        if readable:
            with self._mapped():
                self._pg.consume_input()
        return bool(readable)

    def _writable(self, limit: float) -> None:
        """Wait until the server takes bytes; what it sends meanwhile is taken in, lest both wait for ever."""
        socket = self._pg.socket
        readable, writable, _ = select.select([socket], [socket], [], limit)
        if not readable and not writable:
            raise self._broken(f"the server took nothing for {limit:.0f} s")
        if readable:
            with self._mapped():
                self._pg.consume_input()

    def _flush(self, limit: float) -> None:
        with self._mapped():
            while self._pg.flush():
                self._writable(limit)

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
        result = self._next_result(_CHECKPOINT_LIMIT)  # not get_result(), which no signal can interrupt
        if result is None:
            raise self._broken(self._message() or "the server ended the command early")
        return result

    def _rows(self, result: PGresult, command: str) -> list[list[str]]:
        self._check(result, command, pq.ExecStatus.TUPLES_OK)
        return [
            [(result.get_value(row, column) or b"").decode(errors=_KEEP) for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]

    def _check(self, result: PGresult, command: str, expected: pq.ExecStatus | None = None) -> None:
        if result.status in _FAILED or (expected is not None and result.status != expected):
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
        if verb != "BASE_BACKUP" and verb != "UPLOAD_MANIFEST":
            return command_error(verb, state, text, name)
        if state == "XX001":
            said = self._notices.summary() or text
            return BackupFailed(f'cluster "{name}" has damaged pages', f"{said}.", _KEEP_OLDER)
        return BackupFailed(f'{verb} failed on cluster "{name}"', text)

    def _broken(self, reason: str) -> ServerUnreachable:
        return ServerUnreachable(
            f'the replication connection to cluster "{self._cluster.name}" broke', " ".join(reason.split())
        )

    def _message(self) -> str:
        with contextlib.suppress(Exception):
            return self._pg.error_message.decode(errors="replace").strip()
        return ""
