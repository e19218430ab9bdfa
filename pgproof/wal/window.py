"""A window: a few segments in a row, read into a temporary directory, their pages checked and then their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.errors import NoRoom, ObjectDamaged, ObjectMissing, PermanentError
from pgproof.held import temporary_directory
from pgproof.repository.repository import Archive
from pgproof.repository.store import Source
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.breaks import Break
from pgproof.wal.chain import Link, check_chain
from pgproof.wal.pages import SegmentPages, check_pages
from pgproof.wal.survey import Stored, Survey

_SEGMENTS, _BYTES = 8, 512 << 20  # of one window; on disk while it is checked, with those beside it


@dataclass
class WindowResult:
    """What came of a window: what was read and good, what is damaged, and where recovery ends, also beside it."""

    good: list[Stored] = field(default_factory=list)
    faults: dict[WalSegment, str] = field(default_factory=dict)
    breaks: dict[WalSegment, Break] = field(default_factory=dict)
    read: int = 0
    bytes: int = 0


def windows(survey: Survey) -> Iterator[list[Stored]]:
    """What is to be read, in rows of segments that follow one another."""
    window: list[Stored] = []
    for _, stored in sorted(survey.to_read.items()):
        size = stored.segment.size
        full = len(window) == max(1, min(_SEGMENTS, _BYTES // size))
        if window and (full or window[-1].segment.next() != stored.segment):
            yield window
            window = []
        window.append(stored)
    if window:
        yield window


def check_window(
    archive: Archive, survey: Survey, window: Sequence[Stored], bin_directory: Path | None
) -> WindowResult:
    """Check the segments of one window.

    Args:
        archive: that holds them.
        survey: what lies around them.
        window: segments in a row on one timeline.
        bin_directory: with a pg_waldump of the cluster's major version; None checks pages only.

    Raises:
        StoreUnavailable, ConfigError: one could not be read.
        NoRoom: the temporary directory is full.
    """
    with temporary_directory("wal") as directory:
        loader = Loader(archive, survey, directory if bin_directory else None, window[0].segment.timeline)
        own = [loader.archived(stored.segment, stored.key) for stored in window]
        if bin_directory is not None:
            _check_records(bin_directory, loader, window, own)
        result = loader.result
        for stored, link in zip(window, own, strict=True):
            if link is not None and stored.segment not in {*result.faults, *result.breaks}:
                result.good.append(stored)
        return result


def _check_records(
    bin_directory: Path, loader: Loader, window: Sequence[Stored], own: Sequence[Link | None]
) -> None:
    """Check each row of readable segments, with what lies beside it for the records that cross its borders."""
    before: list[Link] = []
    survey, first = loader.survey, window[0].segment
    previous = survey.before(first)
    # else that one's own window looks; across a fork it may have gone on along its own timeline
    if previous is None or previous not in survey.to_read or survey.after(previous) != first:
        before = loader.neighbours(first, survey.before)[::-1]
    after = loader.neighbours(window[-1].segment, loader.survey.after)
    if own[0] is None:
        before = []
    if own[-1] is None:
        after = []
    for row in _rows([*before, *own]):
        beside = after if row[-1] is own[-1] else []
        chain = check_chain(bin_directory, [*row, *beside], len(beside))
        for segment, fault in chain.faults.items():
            loader.result.faults.setdefault(segment, fault)
        loader.result.breaks |= chain.breaks


def _rows(links: Sequence[Link | None]) -> Iterator[list[Link]]:
    row: list[Link] = []
    for link in [*links, None]:
        if link is not None:
            row.append(link)
        elif row:
            yield row
            row = []


class Loader:
    """Segments that are checked together, read into one directory under one timeline.

    Args:
        archive: that holds them.
        survey: what lies around them.
        directory: that is empty; None writes no files.
        timeline: that pg_waldump will be told.
    """

    def __init__(self, archive: Archive, survey: Survey, directory: Path | None, timeline: int) -> None:
        self.archive, self.survey, self.directory = archive, survey, directory
        self._timeline = timeline
        self.result = WindowResult()

    def archived(self, segment: WalSegment, key: str) -> Link | None:
        """Read one archived segment, and check its pages; None when it is damaged or was removed meanwhile."""
        try:
            link = self.load(segment, self.archive.open(key))
        except ObjectDamaged as error:
            self.result.faults[segment] = f"{error.fact}. {error.detail}"
            return None
        except ObjectMissing:
            return None
        finally:
            self.result.read += 1
        self.result.bytes += segment.size
        return link

    def load(self, segment: WalSegment, content: Iterable[bytes]) -> Link:
        """Check the pages of one segment, wherever its content comes from.

        Raises:
            ObjectDamaged: they are not those of this segment.
        """
        path = (self.directory or Path("/nowhere")) / segment.on(self._timeline).name
        system, timelines = self.archive.system_identifier, self.survey.timelines(segment)
        if self.directory is None:
            pages = check_pages(segment, content, system, timelines=timelines)
        else:
            pages = _written(
                path, lambda write: check_pages(segment, content, system, timelines=timelines, write=write)
            )
        ends_wal = self.survey.ends_wal(segment)
        if pages.recycled_from is not None and not ends_wal:
            raise pages.recycled()
        return Link(pages, path, ends_wal)

    def neighbours(self, segment: WalSegment, step: Callable[[WalSegment], WalSegment | None]) -> list[Link]:
        """The segments on one side, as far as a record may reach that crosses the border."""
        found: list[Link] = []
        following = step(segment)
        while following is not None:
            stored = self.survey.to_read.get(following)
            try:
                link = self.archived(
                    following, stored.key if stored else find_key(self.archive, following.name)
                )
            except ObjectMissing:
                break
            if link is None:
                break
            found.append(link)
            if link.pages.first_record is not None:
                break
            following = step(following)
        return found


def _written(path: Path, read: Callable[[Callable[[bytes], object]], SegmentPages]) -> SegmentPages:
    """Have a file written while it is read."""

    def write(chunk: bytes) -> None:
        try:
            file.write(chunk)
        except OSError as error:
            raise _cannot_write(path, error) from error

    try:
        file = open(path, "wb", buffering=0)
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        try:
            return read(write)
        except BaseException:
            path.unlink()  # pg_waldump learns the segment size from any file that it finds
            raise


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a temporary file.

    Raises:
        NoRoom: there is no room for it. What the chunks raise is raised again.
    """
    source = Source(chunks)
    try:
        with open(path, "wb") as file:
            file.writelines(source)
    except OSError as error:
        if source.failure is not None:
            raise
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> PermanentError:
    kind = NoRoom if error.errno in (28, 122) else PermanentError
    return kind(
        f'cannot write to temporary directory "{path.parent}"',
        f"{error.strerror}.",
        "set TMPDIR to a directory with more room; a check takes about ten segments for each of wal.workers",
    )
