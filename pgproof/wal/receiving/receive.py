"""Receiving WAL: it is streamed from a replication slot, so that seconds are lost with the server and not a segment.

Order: WAL is written to the receiver's disk; a finished segment is fsynced and renamed, then stored in every
repository, then removed here. Between, the beginning of the current segment is stored as a part. Only what is durable
in the repositories is confirmed to the server as flushed (a synchronous receiver: what is fsynced here), so the slot
keeps all that they lack: at whatever moment we die, it is in the repositories, on our disk, or on the server.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.config import ClusterConfig
from pgproof.errors import (
    NoRoom,
    ObjectMissing,
    PermanentError,
    PgproofError,
    ServerNotReady,
    ServerUnreachable,
    SlotInUse,
    TransientError,
)
from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.streaming import WalStream
from pgproof.postgres.versions import check_supported
from pgproof.repository.repository import Archive, check_system
from pgproof.timelines.lsn import LSN
from pgproof.wal.receiving.delivery import Delivery
from pgproof.wal.receiving.events import ReceiveEvent, Report, event
from pgproof.wal.receiving.following import Following
from pgproof.wal.receiving.received import ReceivedWal
from pgproof.wal.receiving.start import (
    Start,
    check_not_behind,
    find_start,
    prepare_slot,
    read_histories,
    segment_size_of,
)

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two connections
STORE_LIMIT = 30.0  # seconds that the end waits for what is still to be stored

OpenArchive = Callable[[int], Archive]


@dataclass(frozen=True)
class ReceiveRequest:
    """What to receive and for how long.

    Args:
        cluster: whose WAL.
        archives: opens each repository's archive of a system identifier, by the repository's name; the cluster's
            own first.
        directory: where received WAL is kept; below it each system identifier has a directory of its own.
        slot: the replication slot; also the application name that ``synchronous_standby_names`` knows.
        synchronous: confirm as flushed what is fsynced here, at once.
        seconds: how long to receive; None for ever.
        until: stop when everything before this LSN is stored; None for no such end.
        once: raise what breaks the connection instead of connecting again.
    """

    cluster: ClusterConfig
    archives: Mapping[str, OpenArchive]
    directory: Path
    slot: str
    synchronous: bool = False
    seconds: float | None = None
    until: LSN | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Hole:
    """WAL that the server had removed before it was received."""

    timeline: int
    first: LSN
    end: LSN

    def as_dict(self) -> dict[str, object]:
        return {"timeline": self.timeline, "first_lsn": str(self.first), "end_lsn": str(self.end)}


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """What a run came to: how far it received and stored, and the holes that it met."""

    timeline: int
    written: LSN
    stored: LSN
    holes: tuple[Hole, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {
            "timeline": self.timeline,
            "written_lsn": str(self.written),
            "stored_lsn": str(self.stored),
            "holes": [hole.as_dict() for hole in self.holes],
        }


@dataclass
class Receiver:
    """One run of ``wal receive``.

    Args:
        request: what to do.
        report: told of every event, from several threads, one at a time.
        stop: set by a signal or by the caller; the run then ends cleanly.
        clock: our time, seconds of the Unix epoch.
    """

    request: ReceiveRequest
    report: Report
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._holes: list[Hole] = []
        self._following: Following | None = None
        seconds = self.request.seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def run(self) -> ReceiveResult:
        """Receive until told to stop.

        Raises:
            WrongSystem: the server, the repositories or the received WAL belong to another cluster.
            SlotInUse: another receiver streams from the slot.
            LeaseHeld: another receiver works in the same directory.
            WalConflict: the archive has other WAL under the same name; another server archives to it.
            ServerNotReady: no slot can be made, or the server has removed WAL that the slot keeps.
            TransientError: with ``once``, or when the time is over and the server was never reached.
        """
        try:
            self._adopt()
            self._follow()
            return self._result()
        finally:
            if self._following is not None:
                self._following.close()

    def _adopt(self) -> None:
        """Store what an earlier run left, also when the server never answers again."""
        systems = _received_systems(self.request.directory)
        configured = self.request.cluster.system_identifier
        if configured is not None or len(systems) == 1:
            self._open(configured if configured is not None else systems[0])

    def _open(self, system: int) -> Following:
        """The spool and the repositories of a system identifier."""
        if self._following is not None:
            check_system(self._following.system_identifier, system, f'server "{self.request.cluster.name}"')
            return self._following
        request = self.request
        wal = ReceivedWal(request.directory / str(system), request.cluster.name)
        deliveries = [
            Delivery(name, lambda opener=opener: opener(system), wal, self._say)  # type: ignore[misc]
            for name, opener in request.archives.items()
        ]
        self._following = Following(
            request.cluster.wal, system, wal, deliveries, request.synchronous, self.clock
        )
        self._following.adopt()
        for other in _received_systems(request.directory):
            if other != system and any((request.directory / str(other)).glob("0*")):
                text = f"received WAL of system identifier {other} lies here and is not stored: "
                self._say(
                    event("trouble", f"{text}{request.directory / str(other)}", system_identifier=other)
                )
        return self._following

    def _follow(self) -> None:
        """Connect and stream, again and again, until it is time to stop."""
        wait, failure, connected = _FIRST_WAIT, None, False
        while not self._over():
            try:
                self._connect()
                return
            except (TransientError, NoRoom) as error:
                reached = self._following is not None and self._following.streaming
                connected = connected or reached
                self._store_beginning()
                wait, failure = (_FIRST_WAIT if reached else wait), error
                if self.request.once or (isinstance(error, SlotInUse) and not connected):
                    raise
                text = f"disconnected: {error.fact}; connecting again in {wait:.1f} s"
                self._say(event("disconnected", text, error=error.as_dict(), wait_seconds=wait))
            self._pause(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        if self._following is not None:
            self._following.finish(None, STORE_LIMIT)
        if failure is not None and not connected:
            raise failure

    def _store_beginning(self) -> None:
        """Store what came before the connection broke: the server may never come back."""
        if self._following is not None:
            with contextlib.suppress(NoRoom):
                self._following.leave()

    def _connect(self) -> None:
        """One connection, to its end."""
        request = self.request
        with ReplicationConnection(request.cluster, application_name=request.slot) as connection:
            check_supported(connection.server_version)
            server = connection.identify_system()
            check_system(
                request.cluster.system_identifier,
                server.system_identifier,
                f'server "{request.cluster.name}"',
            )
            following = self._open(server.system_identifier)
            slot, done = prepare_slot(connection, request.slot)
            if done:
                self._say(event("slot", done, slot=request.slot))
            history, files = read_histories(connection, server.timeline)
            size = segment_size_of(connection)
            known = following.known_end(history, size)
            if following.streaming and known is not None:
                check_not_behind(request.cluster.name, server.flush_lsn, known, size)
            following.store_histories(files)
            start = find_start(
                history,
                size,
                server.flush_lsn,
                slot.restart_lsn,
                known,
                going_on=following.timeline in history.path,
            )
            self._stream(connection, following, start)

    def _stream(self, connection: ReplicationConnection, following: Following, start: Start) -> None:
        """Follow the server from the start on through every timeline, until it is time to stop."""
        first, timeline = start.first, start.history.timeline_at(start.first)
        while True:
            try:
                stream = WalStream(connection, first, timeline, self.request.slot)
                following.begin(timeline, first, start.segment_size)
                self._say_connected(timeline, first)
                end = following.follow(stream, self._over, self._reached)
            except ObjectMissing as error:
                timeline, first = self._go_on(following, start, timeline, first, error)
                continue
            if end is None:
                following.finish(stream, STORE_LIMIT)
                return
            following.leave()
            if end.timeline is None:
                raise ServerUnreachable(f'server "{self.request.cluster.name}" shut down')
            with contextlib.suppress(PermanentError):  # a restored server may lack that of an ancestor
                following.store_histories(read_histories(connection, end.timeline)[1])
            text = f"timeline {timeline} ended at {end.start}; going on with timeline {end.timeline}"
            self._say(event("timeline", text, timeline=end.timeline, fork_lsn=str(end.start)))
            timeline, first = end.timeline, LSN(end.start - end.start % start.segment_size)

    def _go_on(
        self, following: Following, start: Start, timeline: int, first: LSN, error: PgproofError
    ) -> tuple[int, LSN]:
        """Where to go on when the server has removed what comes next.

        A server that was promoted renames the last segment of the timeline that it left to ``.partial``. After two
        failovers within one segment it has the middle timeline's only so, and asked for the oldest it looks for that
        one (``WalSndSegmentOpen`` in walsender.c). The youngest timeline's own copy of the segment holds all of it.
        """
        reached = max(first, following.written if following.timeline == timeline else LSN(0))
        begin = LSN(reached - reached % start.segment_size)
        youngest = start.history.timeline_at(begin + start.segment_size - 1)
        if youngest == timeline:
            return self._skip(following, start, timeline, reached, error)
        following.leave()
        text = f"the server has this segment of timeline {timeline} on timeline {youngest} alone; going on with that"
        self._say(event("timeline", text, timeline=youngest, fork_lsn=str(begin)))
        return youngest, begin

    def _skip(
        self, following: Following, start: Start, timeline: int, reached: LSN, error: PgproofError
    ) -> tuple[int, LSN]:
        """Go on from the slot where the server has removed what comes before it: there is a hole now."""
        name = self.request.cluster.name
        if reached >= start.reserved:
            raise ServerNotReady(
                f'replication slot "{self.request.slot}" of cluster "{name}" has lost its WAL',
                error.detail,
                f"pgproof wal receive {name} --drop-slot, then start it again and take a backup: "
                f"pgproof backup {name}",
            )
        following.leave()
        hole = Hole(timeline, reached, start.reserved)
        self._holes.append(hole)
        text = (
            f"HOLE: the server has removed WAL from {hole.first} to {hole.end}, which was not received; "
            f"pgproof wal check {name} tells whether the repository has it; if not, pgproof backup {name}"
        )
        self._say(event("hole", text, **hole.as_dict()))
        return start.history.timeline_at(start.reserved), start.reserved

    def _say_connected(self, timeline: int, first: LSN) -> None:
        slot = self.request.slot
        text = f'receiving timeline {timeline} from {first} through slot "{slot}"'
        self._say(event("connected", text, timeline=timeline, start_lsn=str(first), slot=slot))

    def _say(self, happened: ReceiveEvent) -> None:
        lag = self._following.lag if self._following is not None else None
        values = happened.values if lag is None else {**happened.values, "lag_bytes": lag}
        with self._lock:
            self.report(ReceiveEvent(happened.kind, happened.text, values))

    def _over(self) -> bool:
        return self.stop.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _reached(self, written: LSN) -> bool:
        return self.request.until is not None and written >= self.request.until

    def _pause(self, seconds: float) -> None:
        """Wait before the next connection; what is stored meanwhile is tended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._over():
            if self._following is not None:
                self._following.tend()
            self.stop.wait(0.1)

    def _result(self) -> ReceiveResult:
        following = self._following
        if following is None:
            return ReceiveResult(0, LSN(0), LSN(0))
        return ReceiveResult(following.timeline, following.written, following.stored, tuple(self._holes))


def _received_systems(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
