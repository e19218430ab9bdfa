"""A delivery brings what a receiver receives into one repository, at its own pace and in order.

Each has a thread of its own, so that a store that is away holds up neither the server's stream nor the other
repositories. What cannot be stored now is tried again for ever; it stays on the receiver's disk and the server
keeps it, too, because it is not confirmed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pgproof.errors import (
    ObjectDamaged,
    PermanentError,
    PgproofError,
    WalConflict,
    WrongSystem,
)
from pgproof.repository.repository import Archive
from pgproof.timelines.lsn import LSN
from pgproof.wal.parts import remove_parts, store_part, sweep_parts
from pgproof.wal.push import PushResult, push, store
from pgproof.wal.receiving.events import Report, event
from pgproof.wal.receiving.received import Piece, ReceivedWal

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two tries
# What no later try can mend, whatever the store does
_FATAL = (WalConflict, WrongSystem, ObjectDamaged)


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """A timeline's history as the server sent it."""

    name: str
    content: bytes


@dataclass(frozen=True, order=True, slots=True)
class Position:
    """How far we are: a run streams in legs, one a connection and timeline, and within a leg the LSN grows.

    A later leg may begin before the end of the one before it: it begins at the start of a segment.
    """

    leg: int = 0
    lsn: LSN = LSN(0)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to store; all before the position is durable when it is. A history file has no position."""

    content: Piece | HistoryFile
    position: Position | None = None


class Delivery(threading.Thread):
    """The thread that stores into one repository.

    Args:
        name: of the repository, as pgproof.toml names it.
        open_archive: opens it; tried again until it can be.
        wal: where the pieces lie.
        report: told of what was stored and of what could not be.
    """

    def __init__(
        self, name: str, open_archive: Callable[[], Archive], wal: ReceivedWal, report: Report
    ) -> None:
        super().__init__(name=f"store-{name}", daemon=True)
        self.repository = name
        self.durable = Position()  # everything before it that we were given is durable there
        self.trouble: PgproofError | None = None  # why it cannot store now
        self.failure: BaseException | None = None  # why it never will
        self._open_archive, self._wal, self._report = open_archive, wal, report
        self._archive: Archive | None = None
        self._queue: deque[Job] = deque()
        self._beginning: Job | None = None
        self._busy = False
        self._closing = False
        self._changed = threading.Condition()

    def add(self, job: Job) -> None:
        """Store this, after everything that was added before."""
        with self._changed:
            self._queue.append(job)
            if job.position is not None:
                self._beginning = None  # what comes later holds more
            self._changed.notify_all()

    def offer(self, beginning: Job) -> None:
        """Store this beginning of the current segment, unless a longer one is offered before its turn comes."""
        with self._changed:
            self._beginning = beginning
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to store."""
        with self._changed:
            return not self._queue and self._beginning is None and not self._busy

    def archive(self) -> Archive:
        """The archive, opened when it is first needed.

        Raises:
            StoreUnavailable, RepositoryMissing: it cannot be opened now.
        """
        if self._archive is None:
            self._archive = self._open_archive()
        return self._archive

    def end(self) -> None:
        """Store no more; what is in the middle of being stored is waited for, for a while."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self.is_alive():
            self.join(_LONGEST_WAIT)

    def run(self) -> None:
        swept = False
        while (job := self._next()) is not None:
            try:
                self._retried(lambda job=job: self._store(job))  # type: ignore[misc]
                if not swept:
                    self._retried(lambda: sweep_parts(self.archive()))
                    swept = True
            except BaseException as error:  # the receiver raises it in its own thread
                self.failure = error
                return
            finally:
                with self._changed:
                    self._busy = False

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closing:
                if self._queue:
                    self._busy = True
                    return self._queue.popleft()
                if self._beginning is not None:
                    self._busy = True
                    beginning, self._beginning = self._beginning, None
                    return beginning
                self._changed.wait()
        return None

    def _retried(self, action: Callable[[], None]) -> None:
        wait = _FIRST_WAIT
        while not self._closing:
            try:
                action()
            except _FATAL:
                raise
            except PgproofError as error:
                if self.trouble is None or str(self.trouble) != str(error):
                    text = f'repository "{self.repository}" does not store now: {error.fact}'
                    self._report(event("trouble", text, repository=self.repository, error=error.as_dict()))
                self.trouble = error
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            if self.trouble is not None:
                self.trouble = None
                text = f'repository "{self.repository}" stores again'
                self._report(event("recovered", text, repository=self.repository))
            return

    def _store(self, job: Job) -> None:
        content = job.content
        if job.position is not None and job.position <= self.durable:
            return  # the beginning that was offered was as long
        if isinstance(content, HistoryFile):
            store_history(self.archive(), content)
        elif content.end:
            stored = self._store_segment(content) if content.whole else self._store_part(content)
            if not stored:
                return
            self._clean(content)
        if job.position is not None:
            self.durable = job.position

    def _store_segment(self, piece: Piece) -> bool:
        name = piece.segment.name
        result = push(self.archive(), self._wal.path(piece))
        there = ", it was there" if result.already_there else ""
        text = f'{name} stored in repository "{self.repository}"{there}'
        self._report(event("segment", text, repository=self.repository, segment=name, size=_size(result)))
        return True

    def _store_part(self, piece: Piece) -> bool:
        name, end = piece.segment.name, str(piece.end_lsn)
        try:
            size = store_part(self.archive(), self._wal, piece)
        except WalConflict as error:
            text = f'part of {name} not stored in repository "{self.repository}": {error.fact}'
            self._report(event("trouble", text, repository=self.repository, error=error.as_dict()))
            return False
        text = f'{name} up to {end} stored in repository "{self.repository}"'
        self._report(event("part", text, repository=self.repository, segment=name, end_lsn=end, size=size))
        return True

    def _clean(self, piece: Piece) -> None:
        """Remove what the piece makes unnecessary; a part that cannot be removed now costs room alone."""
        with contextlib.suppress(PgproofError):
            remove_parts(self.archive(), piece)


def _size(result: PushResult) -> int | None:
    return result.stored.size if result.stored else None


def store_history(archive: Archive, history: HistoryFile) -> None:
    """Store a timeline's history file; one that is there must be the same.

    Raises:
        WalConflict: two servers were promoted to one timeline.
    """
    store(archive, history.name, lambda: [history.content])


def agreed(deliveries: list[Delivery], quorum: int) -> Position:
    """Up to where as many repositories as must have everything have it.

    Args:
        deliveries: all of them.
        quorum: how many must; 0 is every one.
    """
    if not deliveries:
        raise PermanentError("nothing is received without a repository")
    positions = sorted((delivery.durable for delivery in deliveries), reverse=True)
    return positions[(quorum or len(positions)) - 1]
