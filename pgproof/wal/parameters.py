"""Parameters are the five settings of a source that a hot standby must have at least as large, as its WAL tells them.

A server that was restarted with another value writes it into WAL (``XLogReportParameters``), and recovery pauses
there when its own is smaller (``RecoveryRequiresIntParameter``): early, and looking as if it were at its target.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgproof.timelines.segment import WalSegment
from pgproof.wal.records import ParameterChange, Record

_PAGE, _LONG_HEADER, _HEADER = 8192, 40, 24  # XLOG_BLCKSZ, SizeOfXLogLongPHD, SizeOfXLogShortPHD
_DATA = 28  # sizeof(xl_parameter_change)
_LENGTH = 24 + 2 + _DATA  # SizeOfXLogRecord, and the header of its data
# total length, no transaction, the record before, XLOG_PARAMETER_CHANGE of RM_XLOG_ID, checksum, length of the data
_CHANGE = re.compile(
    re.escape(struct.pack("=II", _LENGTH, 0)) + rb".{8}[\x60-\x6f]\0\0\0.{4}\xff" + bytes([_DATA]), re.DOTALL
)


def largest(
    segments: Iterable[WalSegment],
    content: Callable[[WalSegment], Iterable[bytes]],
    records: Callable[[Sequence[WalSegment]], Iterable[Record]],
) -> dict[str, int]:
    """The largest value of each parameter that WAL tells of; nothing for one that it does not name.

    Segments are searched as bytes, which costs little more than reading them; pg_waldump reads those where
    something was found.

    Args:
        segments: in the order of WAL.
        content: of a segment, in pieces.
        records: of segments in a row, those of the resource manager XLOG.
    """
    found: dict[str, int] = {}
    search = ParameterSearch()
    for segment in segments:
        if row := search.add(segment, searched(content(segment))):
            for record in records(row):
                if isinstance(record, ParameterChange):
                    found = widest(found, record.values)
    return found


def widest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The larger value of each parameter."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


@dataclass(frozen=True, slots=True)
class Searched:
    """A segment that was searched: whether it may hold a change, and what may be half of one.

    Args:
        found: whether it may.
        beginning, end: bytes at both ends, without page headers, less than a whole change.
    """

    found: bool
    beginning: bytes
    end: bytes


class ParameterSearch:
    """Puts together what was found in segments that come in the order of WAL: a change may lie in two of them."""

    def __init__(self) -> None:
        self._before: tuple[WalSegment, bytes] | None = None

    def add(self, segment: WalSegment, part: Searched) -> list[WalSegment]:
        """Add the next segment; the segments in which pg_waldump is to look for a change, if there may be one."""
        before, self._before = self._before, (segment, part.end)
        if before is None or before[0].next() != segment:
            return [segment] if part.found else []
        crosses = _CHANGE.search(before[1] + part.beginning) is not None
        return [before[0], segment] if part.found or crosses else []


def searched(chunks: Iterable[bytes]) -> Searched:
    """Search a segment's content, in pieces.

    Page headers are taken out, as a record may lie across two pages.
    """
    found, rest, before, beginning, header = False, b"", b"", b"", _LONG_HEADER
    for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % _PAGE
        parts = [before]
        for at in range(0, whole, _PAGE):
            parts.append(rest[at + header : at + _PAGE])
            header = _HEADER
        text, rest = b"".join(parts), rest[whole:]
        beginning = beginning or text[: _LENGTH - 1]
        found = found or _CHANGE.search(text) is not None
        before = text[1 - _LENGTH :]  # less than one that was found here
    return Searched(found, beginning, before)
