"""Received WAL is what a receiver holds on its own disk until every repository has it.

``<segment>.partial`` is a segment that is being received, as long as what was received of it; ``<segment>`` is a whole
one. A segment is written in order, fsynced and renamed; nothing is ever cut off. A crash leaves a beginning or a
whole segment, and the next run stores either before it asks the server for more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import LeaseHeld, NoRoom, ObjectDamaged, PermanentError
from pgproof.private import make_private
from pgproof.repository.posix import sync_directory
from pgproof.repository.store import CHUNK
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import PARTIAL_NAME, SEGMENT_NAME, SegmentHeader, WalSegment

_PAGE = 8192


@dataclass(frozen=True, order=True, slots=True)
class Piece:
    """The beginning of a segment up to ``end`` bytes, or all of it."""

    segment: WalSegment
    end: int

    @property
    def whole(self) -> bool:
        return self.end == self.segment.size

    @property
    def end_lsn(self) -> LSN:
        """The first LSN after it."""
        return LSN(self.segment.start + self.end)


class ReceivedWal:
    """The directory of one cluster and system identifier; one receiver at a time works in it.

    Args:
        directory: made where it is missing.
        cluster: its name, for errors.

    Raises:
        LeaseHeld: another receiver works in it.
        NoRoom, PermanentError: it cannot be written.
    """

    def __init__(self, directory: Path, cluster: str) -> None:
        self.directory = directory
        self._descriptor: int | None = None
        self._segment: WalSegment | None = None
        with self._mapped():
            make_private(directory.parent)
            make_private(directory)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise LeaseHeld(
                f'another wal receive of cluster "{cluster}" is at work on this host',
                f'It holds "{directory}".',
                "one receiver at a time works in one state_directory",
            ) from error

    @property
    def current(self) -> WalSegment | None:
        """The segment that is being received."""
        return self._segment

    def close(self) -> None:
        self.leave()
        os.close(self._lock)

    def pieces(self) -> list[Piece]:
        """What is here, oldest first; what is no WAL is left alone.

        A beginning counts up to its last byte that is not zero: a crash of the machine may have left a file that is
        longer than what was written, and zeros follow a part in the repository anyway.
        """
        with self._mapped():
            found = [self._look(path) for path in self.directory.iterdir()]
        return sorted(piece for piece in found if piece is not None)

    def _look(self, path: Path) -> Piece | None:
        whole = SEGMENT_NAME.fullmatch(path.name)
        if not whole and not PARTIAL_NAME.fullmatch(path.name):
            return None
        with open(path, "rb") as file:
            try:
                header = SegmentHeader.parse(file.read(64), path.name)
            except ObjectDamaged:  # not one page was written
                return None
        segment = WalSegment.parse(path.name[:24], header.segment_size)
        return Piece(segment, segment.size if whole else _used(path, segment.size))

    def begin(self, segment: WalSegment) -> None:
        """Go on with a segment from its first byte; what an earlier run wrote of it stays until it is overwritten."""
        self.leave()
        with self._mapped():
            self._descriptor = os.open(self._partial(segment), os.O_RDWR | os.O_CREAT, 0o600)
            sync_directory(self.directory)
        self._segment = segment

    def write(self, offset: int, data: bytes) -> None:
        """Write at an offset of the segment that was begun."""
        assert self._descriptor is not None
        view = memoryview(data)
        with self._mapped():
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written

    def sync(self) -> None:
        """Make durable what was written."""
        if self._descriptor is not None:
            with self._mapped():
                os.fsync(self._descriptor)

    def finish(self) -> Piece:
        """The segment that was begun is whole now; it is durable under its own name when this returns."""
        assert self._segment is not None
        segment = self._segment
        self.leave()
        with self._mapped():
            os.replace(self._partial(segment), self.directory / segment.name)
            sync_directory(self.directory)
        return Piece(segment, segment.size)

    def leave(self) -> None:
        """End the work on the current segment, whatever was received of it; that is durable."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor, self._segment = self._descriptor, None, None
        with self._mapped():
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def path(self, piece: Piece) -> Path:
        """Where a piece lies: a beginning may have become whole meanwhile."""
        whole = self.directory / piece.segment.name
        return whole if piece.whole or whole.exists() else self._partial(piece.segment)

    def content(self, piece: Piece) -> Iterator[bytes]:
        """A piece as long as its segment, zeros after its end.

        Raises:
            PermanentError: the file is shorter than the piece.
        """
        missing = piece.end
        with self._mapped():
            try:
                file = open(self.path(piece), "rb", buffering=0)
            except FileNotFoundError:  # it became whole at this moment
                file = open(self.directory / piece.segment.name, "rb", buffering=0)
        with file:
            while missing:
                with self._mapped():
                    chunk = file.read(min(CHUNK, missing))
                if not chunk:
                    raise PermanentError(f'received WAL "{piece.segment}" is shorter than what was received')
                missing -= len(chunk)
                yield chunk
        for start in range(piece.end, piece.segment.size, CHUNK):
            yield bytes(min(CHUNK, piece.segment.size - start))

    def remove(self, piece: Piece) -> None:
        """Let go of a piece that every repository has."""
        path = self.directory / piece.segment.name if piece.whole else self._partial(piece.segment)
        with self._mapped():
            path.unlink(missing_ok=True)

    def _partial(self, segment: WalSegment) -> Path:
        return self.directory / f"{segment.name}.partial"

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{os.strerror(error.errno or 0)}."
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(f'cannot write received WAL to "{self.directory}"', reason) from error
            raise PermanentError(f'cannot keep received WAL in "{self.directory}"', reason) from error


def _used(path: Path, limit: int) -> int:
    """The length of a file without the zeros at its end, to a multiple of 8 as WAL records are."""
    length = min(path.stat().st_size, limit)
    with open(path, "rb") as file:
        while length > 0:
            start = max(0, (length - 1) // _PAGE * _PAGE)
            file.seek(start)
            rest = file.read(length - start).rstrip(b"\0")
            if rest:
                return min(start + (len(rest) + 7) // 8 * 8, length)
            length = start
    return 0
