"""The five settings that WAL tells of: found wherever their record lies, and only what pg_waldump confirms."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import pytest

from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.parameters import largest
from pgproof.wal.records import ParameterChange, Record, parse_line

PAGE, SEGMENT = 8192, 1 << 20
LINE = (
    "rmgr: XLOG        len (rec/tot):     54/    54, tx:          0, lsn: 0/07000080, prev 0/07000028, "
    "desc: PARAMETER_CHANGE max_connections={} max_worker_processes=8 max_wal_senders=10 max_prepared_xacts=3 "
    "max_locks_per_xact=64 wal_level=replica wal_log_hints=off track_commit_timestamp=off"
)
# XLogRecord of XLOG_PARAMETER_CHANGE, the header of its data, and xl_parameter_change
RECORD = struct.pack("=IIQBBHIBB5iiBBxx", 54, 0, 0x7000028, 0x60, 0, 0, 1, 255, 28, 9, 8, 10, 3, 64, 1, 0, 0)
OTHER = RECORD.replace(b"\x60\0\0\0", b"\x50\0\0\0")  # XLOG_END_OF_RECOVERY is no change


def pages(text: bytes) -> bytes:
    """Two segments of WAL that hold these bytes, with page headers."""
    out, at = b"", 0
    while len(out) < 2 * SEGMENT:
        header = 40 if len(out) % SEGMENT == 0 else 24
        out += b"\xff" * header + text[at : at + PAGE - header].ljust(PAGE - header, b"\0")
        at += PAGE - header
    return out


def found(text: bytes, told: dict[str, int], crosses: bool = False) -> tuple[dict[str, int], list[list[str]]]:
    """What is found in WAL, and the segments that pg_waldump was asked for."""
    whole = pages(text)
    asked = []

    def content(segment: WalSegment) -> Iterator[bytes]:
        part = whole[(segment.number - 7) * SEGMENT : (segment.number - 6) * SEGMENT]
        yield from (part[at : at + 5000] for at in range(0, SEGMENT, 5000))

    def records(row: Sequence[WalSegment]) -> list[Record]:
        asked.append([segment.name[-1] for segment in row])
        return [ParameterChange(LSN(0), told)] if len(row) == 1 + crosses else []

    return largest([WalSegment(1, 7, SEGMENT), WalSegment(1, 8, SEGMENT)], content, records), asked


FIRST = PAGE - 40  # bytes of WAL in the first page
WHOLE = FIRST + 127 * (PAGE - 24)  # and in the first segment


@pytest.mark.parametrize(
    "at", [0, 400, FIRST - 54, FIRST - 24, FIRST - 8, FIRST, WHOLE - 54, WHOLE - 32, WHOLE]
)
def test_a_change_is_found_wherever_it_lies(at: int) -> None:
    crosses = at > WHOLE - 54
    values, asked = found(bytes(at) + RECORD, {"max_connections": 300}, crosses)
    assert values == {"max_connections": 300}
    assert asked[-1] == (["7", "8"] if crosses else ["7"])


def test_what_is_no_change_is_not_read_by_pg_waldump() -> None:
    assert found(bytes(400) + OTHER, {"max_connections": 300}) == ({}, [])


def test_bytes_that_look_like_one_raise_nothing() -> None:
    assert found(bytes(400) + RECORD, {})[0] == {}


def test_a_line_of_pg_waldump() -> None:
    record = parse_line(LINE.format(300))
    assert isinstance(record, ParameterChange)
    assert record.values == {
        "max_connections": 300,
        "max_worker_processes": 8,
        "max_wal_senders": 10,
        "max_prepared_transactions": 3,
        "max_locks_per_transaction": 64,
    }
