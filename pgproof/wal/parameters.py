"""Parameters are the five settings of a source that a hot standby must have at least as large, as its WAL tells them.

A server that was restarted with another value writes it into WAL (``XLogReportParameters``), and recovery pauses
there when its own is smaller (``RecoveryRequiresIntParameter``): early, and looking as if it were at its target.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

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
    before: WalSegment | None = None
    rest = b""
    for segment in segments:
        follows = before is not None and before.next() == segment
        there, rest = _search(content(segment), rest if follows else b"")
        if there:
            for change in _changes(records([before, segment] if before and follows else [segment])):
                found = widest(found, change.values)
        before = segment
    return found


def widest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The larger value of each parameter."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _changes(records: Iterable[Record]) -> list[ParameterChange]:
    return [record for record in records if isinstance(record, ParameterChange)]


def _search(chunks: Iterable[bytes], before: bytes) -> tuple[bool, bytes]:
    """Whether a segment may hold a change, which may have begun at the end of the segment before.

    Page headers are taken out, as a record may lie across two pages.

    Returns:
        that, and the bytes at the end in which a change may begin.
    """
    found, rest, header = False, b"", _LONG_HEADER
    for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % _PAGE
        parts = [before]
        for at in range(0, whole, _PAGE):
            parts.append(rest[at + header : at + _PAGE])
            header = _HEADER
        text, rest = b"".join(parts), rest[whole:]
        found = found or _CHANGE.search(text) is not None
        before = text[1 - _LENGTH :]  # less than one that was found here
    return found, before
