"""Streaming replication: WAL as the server writes it (PostgreSQL manual, 55.4, "START_REPLICATION")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pgproof.errors import ObjectMissing, ServerUnreachable
from pgproof.postgres.replication import ReplicationConnection
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment

_LIMIT = 60.0  # seconds that the server may take to answer a command or to take a message
_WAL_DATA = struct.Struct("!qqq")  # after 'w': start, end of WAL on the server, its clock
_KEEPALIVE = struct.Struct("!qqb")  # after 'k': end of WAL on the server, its clock, reply at once
_STATUS = struct.Struct("!cqqqqb")  # 'r', written, flushed, applied, our clock, reply at once
_EPOCH = 946_684_800  # 2000-01-01 in seconds of the Unix epoch


@dataclass(frozen=True, slots=True)
class WalData:
    """WAL from ``start`` on (XLogData); ``server_end`` is where the server's WAL ends."""

    start: LSN
    server_end: LSN
    data: bytes

    @property
    def end(self) -> LSN:
        return LSN(self.start + len(self.data))


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server lives; ``server_end`` is how far it has sent. It may ask for a reply at once."""

    server_end: LSN
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The server ended the stream: on ``timeline`` it goes on from ``start``; None says that it shuts down."""

    timeline: int | None = None
    start: LSN = LSN(0)


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical replication slot; ``restart_lsn`` is None until it holds WAL back."""

    name: str
    restart_lsn: LSN | None
    timeline: int | None


class WalStream:
    """WAL of one timeline from one position on.

    Args:
        connection: which is used for nothing else until the stream has ended.
        start: the first byte wanted; within a segment is fine.
        timeline: of it.
        slot: that keeps the WAL on the server; None takes what happens to be there.

    Raises:
        ObjectMissing: the server does not have that WAL, or is on another timeline. Where the segment is removed the
            server says so only with the first ``receive``.
        SlotInUse: another connection streams from the slot.
        ServerNotReady: there is no such slot, or it has lost its WAL.
    """

    def __init__(
        self, connection: ReplicationConnection, start: LSN, timeline: int, slot: str | None = None
    ) -> None:
        self._connection = connection
        named = f'SLOT "{slot}" ' if slot else ""
        self._command = f"START_REPLICATION {named}PHYSICAL {start} TIMELINE {timeline}"
        self._running = connection.begin_copy_both(self._command, _LIMIT)

    def receive(self, timeout: float) -> WalData | Keepalive | StreamEnd | None:
        """The next message.

        Args:
            timeout: seconds to wait for one.

        Returns:
            None when none came in time.

        Raises:
            ObjectMissing: the server has removed the WAL that comes next.
            ServerUnreachable: the connection broke.
        """
        message = self._connection.poll_copy(timeout) if self._running else None
        if message is None:
            return self._end()
        kind = message[:1]
        if kind == b"w":
            start, end, _ = _WAL_DATA.unpack_from(message, 1)
            return WalData(LSN(start), LSN(end), message[1 + _WAL_DATA.size :])
        if kind == b"k":
            end, _, asked = _KEEPALIVE.unpack(message[1:])
            return Keepalive(LSN(end), bool(asked))
        return None

    def confirm(self, written: int, flushed: int, clock: float, *, reply: bool = False) -> None:
        """Tell the server how far we are ("Standby status update").

        Args:
            written: LSN up to which the WAL is written here.
            flushed: LSN up to which it is durable here; the slot lets go of what lies before. 0 says nothing.
            clock: our time, seconds of the Unix epoch.
            reply: ask for a keepalive, to see that the server still hears us.

        Raises:
            ServerUnreachable: the connection broke.
        """
        time = int((clock - _EPOCH) * 1_000_000)
        self._connection.send_copy(_STATUS.pack(b"r", written, flushed, 0, time, reply), _LIMIT)

    def stop(self) -> None:
        """End the stream from our side; what is still on its way is dropped. The connection can be used again.

        Raises:
            ServerUnreachable: the connection broke, or the server does not end it.
        """
        if not self._running:
            return
        self._connection.end_copy(_LIMIT)
        while (message := self._connection.poll_copy(_LIMIT)) is not None:
            if not message:
                raise ServerUnreachable(
                    f'the replication connection to cluster "{self._connection.cluster_name}" broke',
                    f"The server did not end the stream in {_LIMIT:.0f} s.",
                )
        self._end()

    def _end(self) -> StreamEnd:
        self._running = False
        rows = self._connection.finish_copy_both(self._command, _LIMIT)
        return StreamEnd(int(rows[0][0]), LSN.parse(rows[0][1])) if rows else StreamEnd()


def read_history(connection: ReplicationConnection, timeline: int) -> tuple[str, bytes]:
    """Name and content of a timeline's history file (TIMELINE_HISTORY); the first timeline has none.

    Raises:
        PermanentError: the server has no such timeline.
    """
    name, content = connection.query(f"TIMELINE_HISTORY {timeline}")[0]
    return name, content.encode(errors="surrogateescape")


def history_of_server(connection: ReplicationConnection, timeline: int) -> TimelineHistory:
    """The history of a server's timeline."""
    if timeline == 1:
        return TimelineHistory(1)
    return TimelineHistory.parse(timeline, read_history(connection, timeline)[1].decode(errors="replace"))


def read_slot(connection: ReplicationConnection, name: str) -> Slot | None:
    """A slot as the server has it (READ_REPLICATION_SLOT, PostgreSQL 15); None when there is none."""
    kind, lsn, timeline = connection.query(f'READ_REPLICATION_SLOT "{name}"')[0]
    if not kind:
        return None
    return Slot(name, LSN.parse(lsn) if lsn else None, int(timeline) if timeline else None)


def create_slot(connection: ReplicationConnection, name: str) -> None:
    """Make a physical slot that holds WAL back from now on.

    Raises:
        ServerNotReady: there is one of this name, or no room for one more (``max_replication_slots``).
    """
    connection.query(f'CREATE_REPLICATION_SLOT "{name}" PHYSICAL RESERVE_WAL')


def drop_slot(connection: ReplicationConnection, name: str) -> None:
    """Remove a slot; the server may then remove the WAL that it held back.

    Raises:
        ServerNotReady: there is none.
        SlotInUse: somebody streams from it.
    """
    connection.query(f'DROP_REPLICATION_SLOT "{name}"')


def read_segment(connection: ReplicationConnection, segment: WalSegment, limit: float = 30.0) -> bytes:
    """A whole finished segment out of a server's ``pg_wal``, without a slot.

    Args:
        connection: to the source or to a standby; it can be used again afterwards.
        segment: wanted, of the server's timeline or of one of its ancestors.
        limit: seconds without a byte after which the server counts as gone.

    Raises:
        ObjectMissing: the server has removed it, does not have it whole, or never had this timeline.
        ServerUnreachable: the connection broke, or nothing came for ``limit`` seconds.
    """
    server = connection.identify_system()
    if segment.timeline > server.timeline or segment.end > server.flush_lsn:
        raise _not_whole(
            connection, segment, f"Its WAL ends at {server.flush_lsn} on timeline {server.timeline}."
        )
    stream = WalStream(connection, segment.start, segment.timeline)
    parts: list[bytes] = []
    missing = segment.size
    while missing > 0:
        message = stream.receive(limit)
        if message is None:
            raise ServerUnreachable(
                f'could not read WAL segment "{segment}" from cluster "{connection.cluster_name}"',
                f"The server sent nothing for {limit:.0f} s.",
            )
        if isinstance(message, StreamEnd):
            raise _not_whole(connection, segment, f"Its timeline {segment.timeline} ends within it.")
        if isinstance(message, WalData):
            parts.append(message.data[:missing])
            missing -= len(parts[-1])
    stream.stop()
    return b"".join(parts)


def _not_whole(connection: ReplicationConnection, segment: WalSegment, detail: str) -> ObjectMissing:
    fact = f'cluster "{connection.cluster_name}" does not have WAL segment "{segment}" whole'
    return ObjectMissing(fact, detail)
