"""The body of a WAL segment: its bytes without the page headers, as records are written into it.

A position counts the body's bytes. Records start at multiples of 8, and so does every page's part of the body, which
makes a record that crosses pages one row of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

from pgproof.timelines.lsn import LSN
from pgproof.wal.pages import BLOCK_SIZE_AT, FIRST_IS_CONTRECORD, LONG, SHORT, aligned

_PAGE = struct.Struct("=HHIQI")  # XLogPageHeaderData: magic, flags, timeline, address, bytes left of a record
_NUMBER = struct.Struct("=I")
_OVERWRITTEN = 0x0008  # XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record before was never finished
_HEADER_LENGTH = 24  # SizeOfXLogRecord
_PIECE = 1 << 20  # bytes that are searched at a time


class Content(Protocol):
    """Bytes in memory, or a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: slice, /) -> bytes: ...


class SegmentBody:
    """The body of a segment, or of its beginning.

    Args:
        content: from the segment's first byte on, whole pages or less.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        _, self._flags, _, address, self._left = _PAGE.unpack(content[: _PAGE.size])
        self._address = int(address)
        self._block = self._number_at(BLOCK_SIZE_AT)
        self._first, self._other = self._block - LONG, self._block - SHORT
        self.length = self._position_of(len(content))

    def _number_at(self, offset: int) -> int:
        return int(_NUMBER.unpack(self._content[offset : offset + _NUMBER.size])[0])

    def _position_of(self, offset: int) -> int:
        """How many bytes of the body lie before an offset of the content."""
        page, within = divmod(offset, self._block)
        if page == 0:
            return max(0, within - LONG)
        return self._first + (page - 1) * self._other + max(0, within - SHORT)

    def offset(self, position: int) -> int:
        """Where in the segment a byte of the body lies."""
        if position < self._first:
            return LONG + position
        page, within = divmod(position - self._first, self._other)
        return (page + 1) * self._block + SHORT + within

    def lsn(self, position: int) -> LSN:
        return LSN(self._address + self.offset(position))

    def read(self, position: int, length: int) -> bytes:
        """Bytes of the body, as many of them as there are."""
        parts = []
        end = min(position + length, self.length)
        while position < end:
            offset = self.offset(position)
            part = min(end - position, self._block - offset % self._block)
            parts.append(self._content[offset : offset + part])
            position += part
        return b"".join(parts)

    def number(self, position: int) -> int:
        """An aligned number of four bytes, such as the length of a record; it never crosses a page."""
        return self._number_at(self.offset(position))

    def pieces(self, overlap: int) -> Iterator[tuple[int, bytes]]:
        """The whole body in pieces, each with its position; each begins with the end of the one before.

        Args:
            overlap: how many bytes of it.
        """
        position, before = 0, b""
        for start in range(0, len(self._content), max(_PIECE, self._block)):
            pages = range(start, min(start + max(_PIECE, self._block), len(self._content)), self._block)
            part = b"".join(
                self._content[page + (SHORT if page else LONG) : page + self._block] for page in pages
            )
            yield position - len(before), before + part
            position += len(part)
            before = (before + part)[-overlap:]

    @property
    def continued(self) -> int:
        """Bytes of a record that started in the segment before; 0 when none did."""
        return int(self._left) if self._flags & FIRST_IS_CONTRECORD else 0

    def starts_record(self, position: int) -> bool:
        """Whether a record starts there, as one finds that goes from each record to the next."""
        overwritten = self._overwritten()
        place = self._after(0, self.continued, overwritten)
        while place < position:
            length = self.number(place)
            if length < _HEADER_LENGTH:
                return False  # WAL ends here, or the segment was switched
            place = self._after(place, length, overwritten)
        return place == position

    def _after(self, place: int, length: int, overwritten: list[int]) -> int:
        """Where the record after one starts: behind it, or on the page on which it was given up."""
        end = place + aligned(length)
        return next((page for page in overwritten if place < page <= end), end)

    def _overwritten(self) -> list[int]:
        """The positions of pages that begin with a new record, because the record before them was never finished."""
        pages = range(self._block, len(self._content) - SHORT, self._block)
        return [self._position_of(page) for page in pages if self._flags_at(page) & _OVERWRITTEN]

    def _flags_at(self, page: int) -> int:
        return int(_PAGE.unpack(self._content[page : page + _PAGE.size])[1])
