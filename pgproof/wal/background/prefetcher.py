"""The prefetcher fetches what recovery asks for, and the segments that it will ask for next, in parallel.

Recovery asks for one file at a time and replays it before it asks for the next (``XLogFileReadAnyTLI``). The
prefetcher keeps up to a set size of the following segments of the same timeline in the spool, each whole and checked
before it appears there. What recovery takes or leaves behind makes room for more. A timeline switch is no special
case: the first file of the new timeline is asked for, fetched at once, and prefetching goes on from there.

It ends, and removes what it fetched, when recovery is over or nobody asked for a while.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pgproof.errors import FETCH_OFFSET, NOT_ARCHIVED, ObjectMissing, PgproofError
from pgproof.postgres.control import postmaster_runs
from pgproof.timelines.segment import SEGMENT_NAME, WalSegment, is_archivable
from pgproof.wal.background.spool import Spool
from pgproof.wal.background.watch import Watch, watching

_LOOK = 1.0  # seconds between two looks at the server and at requests to stop
_ALONE = 5.0  # seconds to stay where no server runs: pg_rewind asks for WAL, too

Fetch = Callable[[str, Path], int]
Log = Callable[[str], None]


class Prefetcher:
    """What one background process does.

    Args:
        spool: of the data directory; its lock is held.
        directory: in the spool, for files of this system identifier and configuration.
        fetch: writes one archived file, whole and checked, to a path; returns its size in bytes.
        workers: files at once.
        room: bytes that may lie ahead; 0 fetches nothing ahead.
        linger: seconds to stay when nobody asks.
        log: told what went wrong.
    """

    def __init__(
        self,
        spool: Spool,
        directory: str,
        fetch: Fetch,
        workers: int,
        room: int,
        linger: float,
        log: Log,
    ) -> None:
        self._spool, self._directory, self._fetch = spool, directory, fetch
        self._room, self._linger, self._log = room, linger, log
        self._workers = workers
        # one more: what recovery waits for must not queue behind what it may want later
        self._pool = ThreadPoolExecutor(workers + 1, "prefetch")
        self._running: dict[str, Future[None]] = {}
        self._latest: str | None = None  # the last segment that recovery asked for or took
        self._end: WalSegment | None = None  # the first one after it that is not archived yet
        self._ahead: set[str] = set()
        self._size = 0

    def run(self) -> None:
        """Fetch until recovery is over, or nobody asked for a while."""
        self._take_over()
        places = [self._directory, self._spool.path("wanted"), self._spool.directory]
        with watching(places) as watch:
            asked_at = time.monotonic()
            while not os.path.exists(self._spool.path("fetch.stop")):
                self._collect()
                if self._serve() or self._follow():
                    asked_at = time.monotonic()
                self._look_ahead()
                if not self._stays(watch, asked_at):
                    break
        self._pool.shutdown(wait=True, cancel_futures=True)
        for name in os.listdir(self._directory):
            self._remove(name)

    def _take_over(self) -> None:
        """What an earlier process left here is as good as new; what it left for others is not."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        for entry in os.scandir(os.path.dirname(self._directory)):
            if entry.path != self._directory:
                shutil.rmtree(entry.path, ignore_errors=True)
        for name in os.listdir(self._directory):
            if is_archivable(name):
                self._ahead.add(name)
            else:
                self._remove(name)

    def _stays(self, watch: Watch, asked_at: float) -> bool:
        idle = time.monotonic() - asked_at
        data = Path(self._spool.data)
        if postmaster_runs(data):
            recovers = any((data / name).exists() for name in ("recovery.signal", "standby.signal"))
            limit = self._linger if recovers else 0.0
        else:
            limit = min(_ALONE, self._linger)
        if idle > limit and not self._running:
            return False
        watch.wait(_LOOK)
        return True

    # ---- what is asked for

    def _serve(self) -> bool:
        """Begin to fetch what recovery waits for; whether it waits for anything."""
        wanted = self._spool.names("wanted")
        for name in wanted:
            if self._spool.answer("wanted", name) != self._spool.settings:  # of another life: not for us
                continue
            if self._is_here(name):
                self._spool.forget("wanted", name)
            elif name not in self._running:
                self._begin(name, asked=True)
            self._move_to(name)
        return bool(wanted)

    def _move_to(self, name: str) -> None:
        if SEGMENT_NAME.fullmatch(name) and name != self._latest:
            self._latest, self._end = name, None

    @property
    def _position(self) -> WalSegment | None:
        """Where recovery is; unknown before the first segment told the segment size."""
        return WalSegment.parse(self._latest, self._size) if self._latest and self._size else None

    def _follow(self) -> bool:
        """See which of the segments ahead recovery has taken; whether it took any."""
        taken = sorted(name for name in self._ahead if name not in self._running and not self._is_here(name))
        for name in taken:
            self._ahead.discard(name)
            self._move_to(name)
        return bool(taken)

    # ---- what comes next

    def _look_ahead(self) -> None:
        """Keep the next segments coming, and drop those that recovery will not ask for."""
        position = self._position
        if position is None:
            return
        following: list[str] = []
        segment = position.next()
        for _ in range(self._room // self._size):
            if segment == self._end:
                break
            following.append(segment.name)
            segment = segment.next()
        for name in self._ahead - {*following, position.name}:
            if name not in self._running:
                self._ahead.discard(name)
                self._remove(name)
        for name in following:
            if len(self._running) >= self._workers:
                break
            if name not in self._running and name not in self._ahead:
                self._ahead.add(name)
                self._begin(name, asked=False)

    def _begin(self, name: str, *, asked: bool) -> None:
        self._running[name] = self._pool.submit(self._work, name, asked)

    def _work(self, name: str, asked: bool) -> None:
        """Fetch one file; a failure answers only who asked before: later it may be there."""
        try:
            size = self._fetch(name, Path(self._directory) / name)
        except BaseException as error:
            if asked:
                self._spool.refuse("refused", name, *describe(error))
                self._spool.forget("wanted", name)
            raise
        if not self._size and SEGMENT_NAME.fullmatch(name):
            self._size = size

    def _collect(self) -> None:
        """Look at what has ended."""
        for name, future in list(self._running.items()):
            if not future.done():
                continue
            del self._running[name]
            error = future.exception()
            if error is None:
                continue
            self._ahead.discard(name)
            if not isinstance(error, ObjectMissing):
                self._log(f"{name}: {error if isinstance(error, PgproofError) else repr(error)}")
            self._end_at(name)

    def _end_at(self, name: str) -> None:
        """Remember what is not archived, until recovery comes nearer."""
        position = self._position
        if position is not None and SEGMENT_NAME.fullmatch(name):
            segment = WalSegment.parse(name, self._size)
            if segment > position and (self._end is None or segment < self._end):
                self._end = segment

    def _is_here(self, name: str) -> bool:
        return os.path.exists(os.path.join(self._directory, name))

    def _remove(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self._directory, name))
        except FileNotFoundError:
            pass


def describe(error: BaseException) -> tuple[int, str]:
    """Exit code and message of a failure for ``wal fetch``: NOT_ARCHIVED for that alone, anything else over 125."""
    if isinstance(error, ObjectMissing):
        return NOT_ARCHIVED, str(error)
    if isinstance(error, PgproofError):
        return FETCH_OFFSET + error.exit_code, str(error)
    return FETCH_OFFSET + 70, f"unexpected error: {error!r}"
