"""What lies beside a segment: the WAL before and after it, for a record that lies in both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pgproof.errors import ObjectMissing, PgproofError
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, find_part

_YOUNGER = 33  # timelines that are looked at, its own included
BEGINNING = 8192  # bytes; none of the records that are looked for reaches further into a segment


class Beside(Protocol):
    """The WAL before and after a segment, asked for only when a record may lie in both.

    On another timeline, too: the segment that holds a fork is read from the younger one.
    """

    def before(self) -> Iterator[bytes]:
        """The content of whole segments that the segment may follow."""

    def after(self) -> Iterator[bytes]:
        """The beginnings of segments that may follow, each as far as it is there."""


class FilesBeside:
    """The segments of a directory.

    Args:
        directory: holding them under their names.
        segment: beside which they lie.
    """

    def __init__(self, directory: Path, segment: WalSegment) -> None:
        self._directory, self._segment = directory, segment

    def before(self) -> Iterator[bytes]:
        for timeline in range(self._segment.timeline, 0, -1):
            path = self._directory / WalSegment(timeline, self._segment.number - 1, self._segment.size).name
            if path.exists():
                yield path.read_bytes()

    def after(self) -> Iterator[bytes]:
        following = self._segment.next().name
        for path in sorted(self._directory.glob(f"????????{following[8:]}")):
            if path.name >= following:
                with open(path, "rb") as file:
                    yield file.read(BEGINNING)


class ArchivedBeside:
    """The segments of every repository that has a cluster's WAL.

    Args:
        openers: open the archives, the preferred one first.
        segment: beside which they lie.
    """

    def __init__(self, openers: Iterable[Callable[[], Archive]], segment: WalSegment) -> None:
        self._openers, self._segment = list(openers), segment

    def before(self) -> Iterator[bytes]:
        segment = self._segment
        earlier = [
            WalSegment(timeline, segment.number - 1, segment.size)
            for timeline in range(segment.timeline, 0, -1)
        ]
        return self._everywhere(lambda archive: _present(archive, earlier))

    def after(self) -> Iterator[bytes]:
        return self._everywhere(lambda archive: _beginnings(archive, self._segment.next()))

    def _everywhere(self, read: Callable[[Archive], Iterator[bytes]]) -> Iterator[bytes]:
        """From every archive in turn; "nothing there" is said only when each of them said so."""
        failure: PgproofError | None = None
        for open_archive in self._openers:
            try:
                yield from read(open_archive())
            except PgproofError as error:
                failure = failure or error
        if failure is not None:
            raise failure


def _present(archive: Archive, segments: Iterable[WalSegment]) -> Iterator[bytes]:
    for segment in segments:
        try:
            key = find_key(archive, segment.name)
        except ObjectMissing:
            continue
        yield archive.read_whole(key, segment.size)


def _beginnings(archive: Archive, segment: WalSegment) -> Iterator[bytes]:
    """A segment's beginning on its own timeline, and on younger ones, which need not all be archived."""
    for timeline in range(segment.timeline, segment.timeline + _YOUNGER):
        if (beginning := _beginning(archive, segment.on(timeline))) is not None:
            yield beginning


def _beginning(archive: Archive, segment: WalSegment) -> bytes | None:
    """The first bytes of a segment, or of what was received of it; None when there is neither."""
    limit = BEGINNING
    try:
        key = find_key(archive, segment.name)
    except ObjectMissing:
        part = find_part(archive, segment)
        if part is None:
            return None
        key, limit = part.key, min(limit, part.end - segment.start)
    content = b""
    for chunk in archive.open(key):
        content += chunk
        if len(content) >= limit:
            break
    return content[:limit]
