"""WAL pages are what a segment is made of: each begins with a header that says where it belongs.

Checked is what ``XLogReaderValidatePageHeader`` of PostgreSQL's xlogreader.c checks, on every page: magic number,
flags, address and timeline; on the first also system identifier, segment size and block size. What lies between the
headers is records, which :mod:`pgproof.wal.chain` checks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import SegmentHeader, WalSegment, check_segment

# XLogPageHeaderData: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len
_HEADER = struct.Struct("=HHIQI")
_BLOCK_SIZE = struct.Struct("=I")
BLOCK_SIZE_AT = 36  # xlp_xlog_blcksz of XLogLongPageHeaderData
SHORT, LONG = 24, 40  # SizeOfXLogShortPHD, SizeOfXLogLongPHD
FIRST_IS_CONTRECORD, _LONG_HEADER, _ALL_FLAGS = 0x0001, 0x0002, 0x000F
_BLOCK_SIZES = {1 << power for power in range(10, 17)}  # configure --with-wal-blocksize: 1 to 64 kB


@dataclass(frozen=True, slots=True)
class SegmentPages:
    """What the pages of one whole segment say.

    Args:
        segment: whose pages they are.
        block_size: bytes of a page.
        first_record: offset at which the first record starts; None when one that began earlier fills it all.
        content_end: offset after the last byte that is not zero, of the segment's own pages.
        recycled_from: offset from which on there are pages of the older segment whose file this was: PostgreSQL
            overwrites them later, so only the end of WAL may have them.
    """

    segment: WalSegment
    block_size: int
    first_record: int | None
    content_end: int
    recycled_from: int | None = None

    def recycled(self) -> ObjectDamaged:
        """The error for pages of an older segment where WAL cannot end."""
        assert self.recycled_from is not None
        return _damaged_page(self.segment, self.recycled_from, "has the address of an older segment")


def check_pages(
    segment: WalSegment,
    chunks: Iterable[bytes],
    system_identifier: int,
    *,
    timelines: Collection[int] = (),
    write: Callable[[bytes], object] = len,
) -> SegmentPages:
    """Read a segment from its start to its end, a page at a time, and check every page.

    Args:
        segment: what its name says.
        chunks: its content; no more than one is held.
        system_identifier: of the archive.
        timelines: that its pages may carry, itself and its ancestors; every lower one when none is given.
        write: gets every chunk, such as the write method of a file.

    Raises:
        ObjectDamaged: what the content is instead, with the LSN of the page. Whatever the chunks raise, too.
    """
    reader = _Pages(segment, system_identifier, timelines)
    rest = b""
    length = 0
    for chunk in chunks:
        write(chunk)
        length += len(chunk)
        rest = reader.feed(rest + chunk)
    reader.finish(rest, length)
    return reader.found()


def checked_pages(segment: WalSegment, chunks: Iterable[bytes], system_identifier: int) -> Iterator[bytes]:
    """The chunks of a segment, whose pages are checked while they pass by.

    Raises:
        ObjectDamaged: as ``check_pages``, so that whoever stores the chunks stores nothing.
    """
    reader = _Pages(segment, system_identifier, ())
    rest = b""
    length = 0
    for chunk in chunks:
        length += len(chunk)
        rest = reader.feed(rest + chunk)
        yield chunk
    reader.finish(rest, length)


class _Pages:
    """The state of one check: which page comes next, and what was seen so far."""

    def __init__(self, segment: WalSegment, system_identifier: int, timelines: Collection[int]) -> None:
        self._segment, self._system, self._timelines = segment, system_identifier, timelines
        self._offset = self._block = self._magic = self._timeline = 0
        self._zero = b""
        self._header: SegmentHeader | None = None
        self._empty_from: int | None = None
        self._recycled_from: int | None = None
        self._first_record: int | None = None
        self._last: tuple[int, bytes] = (0, b"")

    def feed(self, content: bytes) -> bytes:
        """Check the whole pages at the start of this content; what remains of it."""
        if self._header is None:
            if len(content) < LONG:
                return content
            self._begin(content)
        start = 0
        while len(content) - start >= self._block and self._offset < self._segment.size:
            self._page(content[start : start + self._block])
            start += self._block
            self._offset += self._block
        return content[start:]

    def finish(self, rest: bytes, length: int) -> None:
        """Check the length, last: a fault in a page says more."""
        if self._header is None:
            self._begin(rest)
        assert self._header is not None
        check_segment(self._segment.name, self._header, length)

    def found(self) -> SegmentPages:
        offset, page = self._last
        end = offset + len(page.rstrip(b"\0"))
        return SegmentPages(self._segment, self._block, self._first_record, end, self._recycled_from)

    def _begin(self, content: bytes) -> None:
        name = self._segment.name
        header = self._header = SegmentHeader.parse(content[:64], name)
        if header.system_identifier != self._system:
            raise ObjectDamaged(
                f'WAL segment "{name}" belongs to another cluster',
                f"Its system identifier is {header.system_identifier}; the archive's is {self._system}.",
            )
        if header.segment_size != self._segment.size:
            raise ObjectDamaged(
                f'WAL segment "{name}" has another segment size',
                f"Its first page says {header.segment_size} bytes; this cluster has {self._segment.size}.",
            )
        check_segment(name, header, header.segment_size)
        (self._block,) = _BLOCK_SIZE.unpack_from(content, BLOCK_SIZE_AT)
        if self._block not in _BLOCK_SIZES:
            raise self._fault(0, f"says that a page has {self._block} bytes")
        self._magic = _HEADER.unpack_from(content)[0]
        self._zero = bytes(self._block)

    def _page(self, page: bytes) -> None:
        magic, info, timeline, address, remaining = _HEADER.unpack_from(page)
        offset, expected = self._offset, int(self._segment.start) + self._offset
        if magic == 0:
            self._empty(page)
            return
        if magic != self._magic:
            raise self._fault(offset, f"has magic number {magic:04X} where the first has {self._magic:04X}")
        if address != expected and address < expected and address % self._segment.size == offset:
            self._recycled_from = offset if self._recycled_from is None else self._recycled_from
            return
        if address != expected:
            raise self._fault(offset, f"has the address {LSN(address)}")
        self._check_place(offset)
        if info & ~_ALL_FLAGS or bool(info & _LONG_HEADER) != (offset == 0):
            raise self._fault(offset, f"has flags {info:04X}")
        self._check_timeline(offset, timeline)
        self._find_record(info, remaining)
        self._last = (offset, page)

    def _check_place(self, offset: int) -> None:
        """Refuse a page of this segment after empty ones, or after those of an older segment."""
        if self._recycled_from is not None:
            raise self._fault(self._recycled_from, "has the address of an older segment")
        if self._empty_from is not None:
            raise self._fault(
                self._empty_from, f"is empty, and one with content follows at LSN {self._at(offset)}"
            )

    def _empty(self, page: bytes) -> None:
        if page != self._zero:
            raise self._fault(self._offset, "has no header and is not empty")
        if self._empty_from is None and self._recycled_from is None:
            self._empty_from = self._offset

    def _check_timeline(self, offset: int, timeline: int) -> None:
        known = timeline in self._timelines if self._timelines else 0 < timeline <= self._segment.timeline
        if not known:
            raise self._fault(offset, f"is of timeline {timeline}")
        if timeline < self._timeline:
            raise self._fault(offset, f"is of timeline {timeline} after one of timeline {self._timeline}")
        self._timeline = timeline

    def _find_record(self, info: int, remaining: int) -> None:
        """Note where the first record starts, as ``XLogFindNextRecord`` finds it."""
        if self._first_record is not None:
            return
        header = SHORT if self._offset else LONG
        continued = aligned(remaining) if info & FIRST_IS_CONTRECORD else 0
        if continued < self._block - header:
            self._first_record = self._offset + header + continued

    def _fault(self, offset: int, what: str) -> ObjectDamaged:
        return _damaged_page(self._segment, offset, what)

    def _at(self, offset: int) -> LSN:
        return LSN(self._segment.start + offset)


def _damaged_page(segment: WalSegment, offset: int, what: str) -> ObjectDamaged:
    return ObjectDamaged(
        f'WAL segment "{segment}" has a damaged page',
        f"The page at LSN {LSN(segment.start + offset)} {what}.",
    )


def end_of_record(start: int, length: int, segment_size: int, block_size: int) -> LSN:
    """Where the next record starts after one: past the page headers within it, and aligned (``MAXALIGN``).

    Args:
        start: LSN of the record.
        length: its ``xl_tot_len``, in bytes.
        segment_size, block_size: of the cluster, in bytes.
    """
    position, left = start, aligned(length)
    for room, header in _rooms(start, segment_size, block_size):
        if left <= room:
            position += left
            break
        left -= room
        position += room + header
    if position % block_size == 0:  # a record starts after the header of the page
        position += LONG if position % segment_size == 0 else SHORT
    return LSN(position)


def _rooms(start: int, segment_size: int, block_size: int) -> Iterator[tuple[int, int]]:
    """How many bytes a page has for a record from here on, and how long the next page's header is."""
    position = start
    while True:
        page_end = position - position % block_size + block_size
        header = LONG if page_end % segment_size == 0 else SHORT
        yield page_end - position, header
        position = page_end + header


def aligned(length: int) -> int:
    """A length with the padding that lets the next record start at a multiple of 8 (``MAXALIGN``)."""
    return (length + 7) & ~7
