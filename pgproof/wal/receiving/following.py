"""Following a server: what it sends is written here, handed to every repository, and confirmed when it is safe."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgproof.config import WalConfig
from pgproof.errors import PgproofError, ServerUnreachable
from pgproof.postgres.streaming import Keepalive, StreamEnd, WalData, WalStream
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.receiving.delivery import Delivery, HistoryFile, Job, Position, agreed
from pgproof.wal.receiving.received import Piece, ReceivedWal
from pgproof.wal.receiving.start import left_at, stored_end

_TICK = 0.1  # seconds after which an idle stream is tended
_STATUS_INTERVAL = 10.0  # seconds between two confirmations when nothing changes, as pg_receivewal
_SILENCE = 60.0  # seconds without a word from the server after which the connection counts as dead
_BATCH = 1 << 20  # bytes after which a synchronous receiver confirms at the latest
_BACKLOG = 1 << 30  # bytes here that the repositories lack, above which nothing more is read


@dataclass(frozen=True, slots=True)
class _Kept:
    piece: Piece
    position: Position


class Following:
    """What one system identifier has here: the received WAL, its repositories, and how far all are.

    Args:
        settings: of the cluster's WAL.
        system_identifier: whose WAL.
        wal: the receiver's disk.
        deliveries: a thread for each repository.
        synchronous: confirm what is fsynced here.
        clock: our time, seconds of the Unix epoch.
    """

    def __init__(
        self,
        settings: WalConfig,
        system_identifier: int,
        wal: ReceivedWal,
        deliveries: Sequence[Delivery],
        synchronous: bool,
        clock: Callable[[], float],
    ) -> None:
        self.system_identifier = system_identifier
        self.timeline = 0
        self.written = LSN(0)
        self.streaming = False  # whether a server has been followed in this run
        self._settings, self._synchronous, self._clock = settings, synchronous, clock
        self._wal, self._deliveries = wal, list(deliveries)
        self._kept: list[_Kept] = []
        self._size = 0
        self._leg = 0
        self._last = Position()  # of what was handed over
        self._server_end = self._slot_lsn = LSN(0)
        self._synced = LSN(0)  # of this leg, fsynced here
        self._offered, self._offered_at = LSN(0), 0.0
        self._told, self._told_at = (0, 0), 0.0
        self._asked = False
        self._heard_at = 0.0

    # ---- what an earlier run left

    def adopt(self) -> None:
        """Start the repositories' threads, and give them what lies here."""
        for piece in self._wal.pieces():
            self._leg += 1  # of several timelines, whose LSNs do not grow
            self._hand_over(piece)
        for delivery in self._deliveries:
            delivery.start()

    def known_end(self, history: TimelineHistory, size: int) -> LSN | None:
        """Up to where the WAL of a path is here or stored; None when nothing is known.

        Raises:
            StoreUnavailable: nothing was received in this run, and no repository answers.
        """
        if self.timeline in history.path:
            left = left_at(history, self.timeline)
            return self.written if left is None else min(self.written, left)
        pieces = [kept.piece for kept in self._kept]
        try:
            return stored_end(self._deliveries, pieces, history, size)
        except PgproofError:
            if self._synchronous:  # commits wait for us, the repository may come back later
                return None
            raise

    # ---- streaming

    def begin(self, timeline: int, first: LSN, segment_size: int) -> None:
        """A stream begins, at the start of a segment."""
        self._leg += 1
        self.streaming = True
        self.timeline, self.written, self._size = timeline, first, segment_size
        self._server_end = max(self._server_end, first)
        self._slot_lsn, self._synced = first, first
        self._offered, self._offered_at = first, time.monotonic()
        self._told, self._told_at, self._asked = (0, 0), 0.0, False
        self._heard_at = time.monotonic()

    def follow(
        self, stream: WalStream, over: Callable[[], bool], reached: Callable[[LSN], bool]
    ) -> StreamEnd | None:
        """Take what comes until the server ends the stream; None when it is time to stop.

        Raises:
            ObjectMissing: the server has removed the WAL that comes next.
            ServerUnreachable: the connection broke.
            PgproofError: what was received cannot be kept, or a repository can never take it.
        """
        while not over() and not reached(self.written):
            if self._backlogged():
                time.sleep(_TICK)
                self._heard_at = time.monotonic()  # nobody listened
            elif (end := self._take_batch(stream)) is not None:
                return end
            self.tend()
            self._offer_beginning()
            self._confirm(stream)
        return None

    def _take_batch(self, stream: WalStream) -> StreamEnd | None:
        """Everything that has arrived, up to a limit; then it is made durable here if that is what we confirm."""
        before, message = self.written, stream.receive(_TICK)
        self._check_heard(message is not None)
        while message is not None:
            if isinstance(message, StreamEnd):
                return message
            if isinstance(message, Keepalive):
                self._server_end = max(self._server_end, message.server_end)
                self._asked = self._asked or message.reply_requested
            else:
                self._write(message)
            if self.written - before >= _BATCH:
                break
            message = stream.receive(0)
        if self._synchronous and self.written > before:
            self._wal.sync()
            self._synced = self.written
        return None

    def _check_heard(self, heard: bool) -> None:
        """Notice a server that is silent although it was asked to answer: a network that swallows everything."""
        now = time.monotonic()
        if heard:
            self._heard_at = now
        elif now - self._heard_at > _SILENCE:
            raise ServerUnreachable("the replication connection broke", f"Nothing came for {_SILENCE:.0f} s.")

    def _write(self, message: WalData) -> None:
        if message.start != self.written:
            raise ServerUnreachable(
                "the server sent WAL out of order",
                f"It begins at {message.start}; expected is {self.written}.",
            )
        self._server_end = max(self._server_end, message.server_end)
        data = message.data
        while data:
            offset = self.written % self._size
            if self._wal.current is None:
                self._wal.begin(WalSegment.containing(self.timeline, self.written, self._size))
            chunk, data = data[: self._size - offset], data[self._size - offset :]
            self._wal.write(offset, chunk)
            self.written = LSN(self.written + len(chunk))
            if self.written % self._size == 0:
                self._hand_over(self._wal.finish())
                self._offered = self.written

    def leave(self) -> None:
        """The stream ended: what there is of the current segment goes to the repositories now."""
        segment = self._wal.current
        self._wal.leave()
        if segment is not None and self.written > segment.start:
            self._hand_over(Piece(segment, self.written - segment.start))

    def store_histories(self, files: Sequence[HistoryFile]) -> None:
        """Give the histories of timelines to every repository."""
        for file in files:
            for delivery in self._deliveries:
                delivery.add(Job(file))

    def finish(self, stream: WalStream | None, limit: float) -> None:
        """End cleanly: all that was received is stored and confirmed, as far as the limit allows.

        Args:
            stream: still open, to confirm to.
            limit: seconds.
        """
        self.leave()
        end = time.monotonic() + limit
        with contextlib.suppress(ServerUnreachable):  # what is not confirmed is sent again to the next run
            while time.monotonic() < end and not self._settled():
                self.tend()
                if stream is not None:
                    self._confirm(stream)
                time.sleep(0.02)
            if stream is not None:
                self._told_at = 0.0
                self._confirm(stream)
                stream.stop()
        self.tend()

    def close(self) -> None:
        for delivery in self._deliveries:
            delivery.end()
        self._wal.close()

    def tend(self) -> None:
        """Let go of what every repository has; raise what a repository can never get over."""
        for delivery in self._deliveries:
            if delivery.failure is not None:
                raise delivery.failure
        least = min(delivery.durable for delivery in self._deliveries)
        rest = [kept for kept in self._kept if kept.position > least]
        for kept in self._kept:
            piece = kept.piece
            again = any(other.piece.segment == piece.segment for other in rest)
            if kept.position <= least and not again and self._wal.current != piece.segment:
                self._wal.remove(piece)
        self._kept = rest

    @property
    def stored(self) -> LSN:
        """Up to where as many repositories have everything as must; 0 when that is before this stream began."""
        position = agreed(self._deliveries, self._settings.quorum)
        if position >= self._last and self._wal.current is None:
            return self.written
        return position.lsn if position.leg == self._leg else LSN(0)

    @property
    def lag(self) -> int:
        """Bytes of WAL that the slot holds back on the server, as far as we know."""
        return max(0, self._server_end - self._slot_lsn)

    def _hand_over(self, piece: Piece) -> None:
        position = Position(self._leg, LSN(piece.end_lsn))
        self._last = position
        self._kept.append(_Kept(piece, position))
        for delivery in self._deliveries:
            delivery.add(Job(piece, position))

    def _offer_beginning(self) -> None:
        """Offer the beginning of the current segment when its time has come, or when the server waits for it."""
        segment, now = self._wal.current, time.monotonic()
        if segment is None or self.written <= self._offered:
            return
        interval = self._settings.partial_interval
        due = interval > 0 and now - self._offered_at >= interval
        # a server that shuts down asks, and waits until what it sent is flushed here (WalSndDone in walsender.c)
        if due or self._asked:
            self._offered, self._offered_at = self.written, now
            job = Job(Piece(segment, self.written - segment.start), Position(self._leg, self.written))
            for delivery in self._deliveries:
                delivery.offer(job)

    def _confirm(self, stream: WalStream) -> None:
        """Tell the server how far we are, when something changed, when it asks, or when it was long ago."""
        now, state = time.monotonic(), (int(self.written), int(self._flushed()))
        if state == self._told and not self._asked and now - self._told_at < _STATUS_INTERVAL:
            return
        if not self._synchronous and now - self._told_at < _TICK:
            return
        stream.confirm(*state, self._clock(), reply=now - self._heard_at >= _STATUS_INTERVAL / 2)
        self._told, self._told_at, self._asked = state, now, False
        self._slot_lsn = LSN(state[1]) if state[1] else self._slot_lsn

    def _flushed(self) -> LSN:
        """What the server may let go of; 0 leaves it as it is.

        0, too, when a server asks that waits for WAL which the repositories cannot take now: it takes what is
        written instead (``replicatedPtr``), shuts down, and the slot still keeps the WAL.
        """
        if self._synchronous:
            return self._synced
        stored = self.stored
        in_trouble = any(delivery.trouble is not None for delivery in self._deliveries)
        if self._asked and in_trouble and stored < self.written:
            return LSN(0)
        return stored if stored <= self.written else LSN(0)

    def _backlogged(self) -> bool:
        """Whether so much waits here for the repositories that the rest should wait on the server."""
        if self._synchronous:
            return False
        least = agreed(self._deliveries, self._settings.quorum)
        waiting = sum(kept.piece.segment.size for kept in self._kept if kept.position > least)
        return waiting > max(_BACKLOG, 4 * self._size)

    def _settled(self) -> bool:
        """Whether all that must has everything, and the others are in trouble or have it, too."""
        if agreed(self._deliveries, self._settings.quorum) < self._last:
            return False
        return all(delivery.idle or delivery.trouble is not None for delivery in self._deliveries)
