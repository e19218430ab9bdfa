"""A WAL segment is one file of the write-ahead log, named by timeline and position.

Names follow ``XLogFileName`` of PostgreSQL's xlog_internal.h. The size of a segment is the cluster's
(``wal_segment_size``, 1 MB to 1 GB), never 16 MB by assumption.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pgproof.errors import ObjectDamaged, PermanentError
from pgproof.timelines.lsn import LSN

SEGMENT_NAME = re.compile(r"[0-9A-F]{24}")
PARTIAL_NAME = re.compile(r"[0-9A-F]{24}\.partial")
BACKUP_HISTORY_NAME = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup")
HISTORY_NAME = re.compile(r"[0-9A-F]{8}\.history")

# XLogLongPageHeaderData: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len, padding,
# xlp_sysid, xlp_seg_size, xlp_xlog_blcksz
_LONG_HEADER = struct.Struct("=HHIQI4xQII")
_LONG_HEADER_FLAG = 0x0002  # XLP_LONG_HEADER
SIZES = {1 << power for power in range(20, 31)}  # IsValidWalSegSize: 1 MB to 1 GB


def is_archivable(name: str) -> bool:
    """Whether PostgreSQL would ever hand a file of this name to ``archive_command``."""
    forms = (SEGMENT_NAME, PARTIAL_NAME, BACKUP_HISTORY_NAME, HISTORY_NAME)
    return any(form.fullmatch(name) for form in forms)


@dataclass(frozen=True, order=True, slots=True)
class WalSegment:
    """One segment: its timeline, its number in the log, and the segment size in bytes."""

    timeline: int
    number: int
    size: int

    @classmethod
    def containing(cls, timeline: int, lsn: int, size: int) -> WalSegment:
        """The segment that holds the byte at ``lsn`` (``XLByteToSeg``)."""
        return cls(timeline, lsn // size, size)

    @classmethod
    def ending_at(cls, timeline: int, lsn: int, size: int) -> WalSegment:
        """The last segment needed to read up to ``lsn``, exclusive (``XLByteToPrevSeg``)."""
        return cls(timeline, (lsn - 1) // size, size)

    @classmethod
    def parse(cls, name: str, size: int) -> WalSegment:
        """Read a 24-digit segment name.

        Args:
            name: such as ``000000010000000000000003``.
            size: the cluster's segment size in bytes.

        Raises:
            PermanentError: the name is not a segment's, or not of a cluster with this segment size.
        """
        if not SEGMENT_NAME.fullmatch(name):
            raise PermanentError(
                f'"{name}" is not a WAL segment name', "A segment name has 24 hexadecimal digits."
            )
        timeline, log, seg = (int(name[i : i + 8], 16) for i in (0, 8, 16))
        per_log = 0x1_0000_0000 // size
        if seg >= per_log:  # counted on, it would be taken for another segment
            raise PermanentError(
                f'"{name}" is not a WAL segment name of this cluster',
                f"With segments of {size >> 20} MB its last 8 digits go up to {per_log - 1:08X}.",
            )
        return cls(timeline, log * per_log + seg, size)

    @property
    def name(self) -> str:
        per_log = 0x1_0000_0000 // self.size
        log, seg = divmod(self.number, per_log)
        return f"{self.timeline:08X}{log:08X}{seg:08X}"

    @property
    def start(self) -> LSN:
        return LSN(self.number * self.size)

    @property
    def end(self) -> LSN:
        """The first LSN after the segment."""
        return LSN((self.number + 1) * self.size)

    def next(self) -> WalSegment:
        return WalSegment(self.timeline, self.number + 1, self.size)

    def on(self, timeline: int) -> WalSegment:
        """The segment with the same position on another timeline."""
        return WalSegment(timeline, self.number, self.size)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the first page of a segment says about itself."""

    timeline: int
    start: LSN
    system_identifier: int
    segment_size: int

    @classmethod
    def parse(cls, page: bytes, name: str) -> SegmentHeader:
        """Read the long header at the start of a segment.

        Args:
            page: the first bytes of the segment, 40 at least.
            name: for the error.

        Raises:
            ObjectDamaged: no WAL page starts here.
        """
        if len(page) < _LONG_HEADER.size:
            raise ObjectDamaged(
                f'WAL segment "{name}" is too short',
                f"It has {len(page)} bytes where its header alone has {_LONG_HEADER.size}.",
            )
        magic, info, timeline, address, _, system, size, block = _LONG_HEADER.unpack_from(page)
        if not info & _LONG_HEADER_FLAG or magic >> 8 != 0xD1 or size not in SIZES or not block:
            raise ObjectDamaged(
                f'WAL segment "{name}" does not start with a WAL page',
                f"Its first bytes are {page[:16].hex()}.",
                "the segment was altered; look for another copy in the source's pg_wal",
            )
        return cls(timeline, LSN(address), system, size)


def check_segment(name: str, header: SegmentHeader, length: int) -> None:
    """Refuse a segment whose content is not what its name says.

    Args:
        name: the segment's name, without ``.partial``.
        header: its long header.
        length: its size in bytes.

    Raises:
        ObjectDamaged: position or length differ. The timeline of the header may be an ancestor's: the
            first segment after a switch starts with a page copied from the parent.
    """
    expected = WalSegment.parse(name, header.segment_size)
    if header.start != expected.start or header.timeline > expected.timeline:
        raise ObjectDamaged(
            f'WAL segment "{name}" holds another segment',
            f"Its first page says timeline {header.timeline} and LSN {header.start}; "
            f"the name says timeline {expected.timeline} and LSN {expected.start}.",
        )
    if length != header.segment_size:
        raise ObjectDamaged(
            f'WAL segment "{name}" has the wrong length',
            f"It has {length} bytes; a segment of this cluster has {header.segment_size}.",
        )
