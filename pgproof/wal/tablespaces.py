"""Tablespaces that WAL makes: replayed, CREATE TABLESPACE links a cluster to the absolute path that the source has.

A restored cluster must not use that path: where the source runs on the same host, it would write the source's own
files. So its copy of the WAL is *contained*: the path in the record is made empty, with which replay makes the
tablespace in place, as the directory ``pg_tblspc/OID``, or uses what is there under that name
(``create_tablespace_directories`` of tablespace.c). No record changes its length, and the CRC is that of the new
content. The archive keeps what the source wrote.

A record may lie in two segments. Each is then altered for itself, with the other one at hand; where the second one is
not there yet, the beginning of the record is taken away, so that WAL ends before it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import SEGMENT_NAME, SIZES, WalSegment
from pgproof.wal.beside import Beside, FilesBeside
from pgproof.wal.body import SegmentBody
from pgproof.wal.crc import crc32c
from pgproof.wal.pages import LONG

# XLogRecord: xl_tot_len 4, xl_xid 4, xl_prev 8, xl_info 1, xl_rmid 1, padding 2, xl_crc 4
_HEADER_LENGTH, _INFO_AT, _MANAGER_AT, _CRC_AT = 24, 16, 17, 20
_MANAGER = b"\x05\x00\x00"  # RM_TBLSPC_ID and the padding
_CREATE, _DROP = 0x00, 0x10  # XLOG_TBLSPC_CREATE, XLOG_TBLSPC_DROP
_SHORT_DATA, _LONG_DATA = 0xFF, 0xFE  # XLR_BLOCK_ID_DATA_SHORT, XLR_BLOCK_ID_DATA_LONG
_CANDIDATE = re.compile(_MANAGER + rb"(?=.{4}[\xfe\xff])", re.DOTALL)
_VISIBLE = _HEADER_LENGTH + 1  # bytes of a record that the pattern needs
_SHORTEST, _LONGEST = 30, 2048  # bytes; a path has less than MAXPGPATH, 1024
_SHORT_LIMIT = 255  # bytes of data, beyond which their length takes four
_NUMBER = struct.Struct("=I")
_BEGUN = (8, 16, 24, 32)  # bytes of a record in one segment, of which the next has what is altered


@dataclass(frozen=True, slots=True)
class TablespaceRecord:
    """CREATE or DROP TABLESPACE.

    Args:
        lsn: of the record.
        oid: of the tablespace.
        path: where the source has it; empty in place. None for a DROP.
    """

    lsn: LSN
    oid: int
    path: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    """What to alter of a record that starts at a position of the body, before it where that is negative."""

    position: int
    alter: Mapping[int, bytes]
    record: TablespaceRecord | None = None


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A valid record: the tablespace, and what makes its path empty."""

    oid: int
    path: str | None
    alter: Mapping[int, bytes]

    def at(self, body: SegmentBody, position: int) -> _Found:
        return _Found(position, self.alter, TablespaceRecord(body.lsn(position), self.oid, self.path))


def contain(path: Path, beside: Beside) -> list[TablespaceRecord]:
    """Alter a segment so that its replay makes no tablespace outside the data directory.

    Args:
        path: of a copy that is about to be replayed; nothing happens to one that is contained already.
        beside: what lies before and after it.

    Returns:
        the records of tablespaces in it; one that ends in the next segment counts where its header does.
    """
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        if not any(content[:LONG]):
            return []  # made ahead, and nothing was written to it
        body = SegmentBody(content)
        found = list(_find(body, beside))
        for one in found:
            for at, value in one.alter.items():
                _write(content, body, one.position + at, value)
    return [one.record for one in found if one.record is not None]


def contain_directory(directory: Path) -> list[TablespaceRecord]:
    """Contain every segment of a directory from which a restored cluster takes its WAL."""
    found: set[TablespaceRecord] = set()
    # from first to last: the second half of a record is altered after the first
    for path in sorted(directory.glob("*")):
        if SEGMENT_NAME.fullmatch(path.name) and (size := path.stat().st_size) in SIZES:
            found.update(contain(path, FilesBeside(directory, WalSegment.parse(path.name, size))))
    return sorted(found, key=lambda record: record.lsn)


def tablespace_records(content: bytes, beside: Beside) -> list[TablespaceRecord]:
    """The records of tablespaces in a segment, as ``contain`` tells them."""
    found = _find(SegmentBody(content), beside)
    return [one.record for one in found if one.record is not None]


def _find(body: SegmentBody, beside: Beside) -> Iterator[_Found]:
    yield from _continued(body, beside)
    yield from _starting(body, beside)


def _write(content: mmap.mmap, body: SegmentBody, position: int, value: bytes) -> None:
    """Write what lies in this segment of it."""
    for at in range(max(0, -position), min(len(value), body.length - position)):
        content[body.offset(position + at)] = value[at]


def _starting(body: SegmentBody, beside: Beside) -> Iterator[_Found]:
    """The records that start in a segment."""
    for position in _candidates(body):
        length = body.number(position)
        if position + length > body.length:
            if body.starts_record(position):
                yield _crossing(body, position, length, beside)
        elif (parsed := _parse(body.read(position, length))) and body.starts_record(position):
            yield parsed.at(body, position)


def _candidates(body: SegmentBody) -> Iterator[int]:
    """Where a record of a tablespace may start, by a few bytes of its header."""
    last = -1
    for position, piece in body.pieces(_VISIBLE + 7):
        for match in _CANDIDATE.finditer(piece):
            start = position + match.start() - _MANAGER_AT
            if start > max(last, position - 1) and _may_start(body, start):
                last = start
                yield start
    if _may_start(body, tail := body.length - _HEADER_LENGTH):  # no more of it is in this segment
        yield tail


def _may_start(body: SegmentBody, position: int) -> bool:
    if position < 0 or position % 8 or not _SHORTEST <= body.number(position) <= _LONGEST:
        return False
    return _is_ours(body.read(position, _HEADER_LENGTH))


def _crossing(body: SegmentBody, position: int, length: int, beside: Beside) -> _Found:
    """A record that ends in the next segment."""
    here = body.read(position, length)
    known = False
    for beginning in beside.after():
        rest = _rest(beginning, length - len(here))
        if rest is None:
            continue
        known = True
        if parsed := _parse(here + rest):
            return parsed.at(body, position)
    # one that was never finished is skipped by replay; one whose end is unknown must not be replayed later
    return _Found(position, {} if known else {0: bytes(len(here))})


def _rest(beginning: bytes, length: int) -> bytes | None:
    """What a segment begins with, as the rest of a record: None when it does not reach so far yet."""
    if len(beginning) < LONG:
        return None
    body = SegmentBody(beginning)
    if body.length < length:
        return None
    return body.read(0, length) if body.continued == length else b""


def _continued(body: SegmentBody, beside: Beside) -> Iterator[_Found]:
    """The record that started in the segment before, where something of it is to be altered in this one."""
    if not 0 < body.continued <= _LONGEST:
        return
    rest = body.read(0, body.continued)
    for begun in (begun for begun in _BEGUN if _may_end(rest, begun)):
        for content in beside.before():
            before = SegmentBody(content)
            position = before.length - begun
            parsed = _parse(before.read(position, begun) + rest)
            if parsed and before.starts_record(position):
                # with all of its header before, it counts there
                record = parsed.at(before, position).record if begun < _HEADER_LENGTH else None
                yield _Found(-begun, parsed.alter, record)
                return


def _may_end(rest: bytes, begun: int) -> bool:
    """Whether a record of a tablespace may end so, of which a number of bytes are in the segment before."""
    if begun < _HEADER_LENGTH:
        return len(rest) >= _SHORTEST - begun and _is_ours(rest, -begun)
    if begun == _HEADER_LENGTH:
        return rest[0] in (_SHORT_DATA, _LONG_DATA) and rest.endswith(b"\0")
    # the path of one with long data begins there
    return len(rest) > _SHORT_LIMIT - begun and rest[1:2] == b"/" and rest.endswith(b"\0")


def _is_ours(content: bytes, at: int = 0) -> bool:
    """Whether a header that begins at an offset, which may lie before the content, is that of such a record."""
    info, manager = content[at + _INFO_AT], content[at + _MANAGER_AT : at + _CRC_AT]
    return info & 0xF0 in (_CREATE, _DROP) and manager == _MANAGER


def _parse(content: bytes) -> _Parsed | None:
    """A whole record; None when it is none of a tablespace, or not valid."""
    if len(content) < _SHORTEST or _number(content, 0) != len(content):
        return None
    short = content[_HEADER_LENGTH] == _SHORT_DATA
    data = _HEADER_LENGTH + (2 if short else 5)
    length = content[_HEADER_LENGTH + 1] if short else _number(content, _HEADER_LENGTH + 1)
    if not _is_ours(content) or data + length != len(content):
        return None
    oid, path_at, crc = _number(content, data), data + 4, _number(content, _CRC_AT)
    if content[_INFO_AT] & 0xF0 == _DROP:
        return _Parsed(oid, None, {}) if crc == _checksum(content) else None
    contained = content[:path_at] + b"\0" + content[path_at + 1 :]
    after = _checksum(contained)
    if crc not in (_checksum(content), after):  # the latter when its other half is contained already
        return None
    path = content[path_at:].split(b"\0", 1)[0].decode(errors="surrogateescape")
    return _Parsed(oid, path, {_CRC_AT: _NUMBER.pack(after), path_at: b"\0"})


def _checksum(record: bytes) -> int:
    """The CRC of a record: of its data, then of its header up to the CRC (``ValidXLogRecord``)."""
    return crc32c(record[_HEADER_LENGTH:] + record[:_CRC_AT])


def _number(content: bytes, at: int) -> int:
    return int(_NUMBER.unpack_from(content, at)[0])
