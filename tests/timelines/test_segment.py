"""WAL segments: names as PostgreSQL gives them, for every segment size, and the header of the first page."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import ObjectDamaged, PermanentError
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import SegmentHeader, WalSegment, check_segment, is_archivable
from pgproof.visible import continued

MB, GB = 1 << 20, 1 << 30
SIZES = [1 << power for power in range(20, 31)]
SYSTEM = 7412345678901234567

sizes = st.sampled_from(SIZES)
timelines = st.integers(1, 0xFFFFFFFF)


@st.composite
def segments(draw: st.DrawFn) -> WalSegment:
    size = draw(sizes)
    return WalSegment(draw(timelines), draw(st.integers(0, (1 << 64) // size - 2)), size)


# ---- names


@pytest.mark.parametrize(
    ("name", "size", "timeline", "start"),
    [
        ("000000010000000000000001", 16 * MB, 1, "0/1000000"),
        ("0000000100000000000000FF", 16 * MB, 1, "0/FF000000"),
        ("000000010000000100000000", 16 * MB, 1, "1/0"),
        ("0000000A0000000100000003", 1 * GB, 10, "1/C0000000"),
        ("000000010000000000000FFF", 1 * MB, 1, "0/FFF00000"),
        ("000000010000000A0000003F", 64 * MB, 1, "A/FC000000"),
        ("FFFFFFFF0000000000000000", 16 * MB, 0xFFFFFFFF, "0/0"),
    ],
)
def test_names(name: str, size: int, timeline: int, start: str) -> None:
    segment = WalSegment.parse(name, size)
    assert (segment.timeline, segment.start, segment.size) == (timeline, LSN.parse(start), size)
    assert segment.name == str(segment) == name
    assert WalSegment.containing(timeline, segment.start, size) == segment
    assert segment.end == segment.start + size == segment.next().start


@pytest.mark.parametrize(
    "name",
    [
        *("", "00000001000000000000000", "0000000100000000000000011", "00000001000000000000000g"),
        *(
            "00000001000000000000000a",
            "000000010000000000000001.partial",
            "00000002.history",
            " 000000010000000000000001",
        ),
        *(
            "000000010000000000000001\n",
            "000000010000000000000001.00000028.backup",
            "../../../../../etc/passwd",
        ),
    ],
    ids=repr,
)
def test_names_bad(name: str) -> None:
    with pytest.raises(PermanentError) as caught:
        WalSegment.parse(name, 16 * MB)
    fact = continued(f'"{name}" is not a WAL segment name')
    assert str(caught.value) == f"{fact}\nDETAIL: A segment name has 24 hexadecimal digits."


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [
        ("000000010000000000000100", 16 * MB, "000000FF"),
        ("000000010000000000000004", 1024 * MB, "00000003"),
        ("000000010000000000001000", 1 * MB, "00000FFF"),
        ("0000000100000000FFFFFFFF", 64 * MB, "0000003F"),
    ],
)
def test_names_of_another_segment_size_bad(name: str, size: int, last: str) -> None:
    """Counted on, ``...00000100`` at 16 MB would be taken for the first segment of the next log."""
    with pytest.raises(PermanentError) as caught:
        WalSegment.parse(name, size)
    assert str(caught.value) == (
        f'"{name}" is not a WAL segment name of this cluster\n'
        f"DETAIL: With segments of {size // MB} MB its last 8 digits go up to {last}."
    )


@given(segments())
def test_what_is_printed_is_read_again(segment: WalSegment) -> None:
    assert len(segment.name) == 24
    assert WalSegment.parse(segment.name, segment.size) == segment
    assert is_archivable(segment.name)


@given(segments(), st.data())
def test_every_byte_lies_in_its_segment(segment: WalSegment, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, segment.size - 1))
    assert WalSegment.containing(segment.timeline, segment.start + offset, segment.size) == segment
    assert WalSegment.ending_at(segment.timeline, segment.start + offset + 1, segment.size) == segment


@given(segments())
def test_names_sort_as_positions(segment: WalSegment) -> None:
    following = segment.next()
    assert following > segment
    assert following.name > segment.name
    assert following.start == segment.end
    assert segment.on(segment.timeline).name == segment.name
    other = segment.on(7)
    assert (other.timeline, other.start) == (7, segment.start)


def test_the_end_of_a_segment_needs_no_next_one() -> None:
    """A backup that stops at the first byte of a segment does not need that segment (``XLByteToPrevSeg``)."""
    boundary = LSN.parse("0/3000000")
    assert WalSegment.ending_at(1, boundary, 16 * MB).name == "000000010000000000000002"
    assert WalSegment.containing(1, boundary, 16 * MB).name == "000000010000000000000003"
    assert WalSegment.ending_at(1, boundary + 1, 16 * MB).name == "000000010000000000000003"


@pytest.mark.parametrize(
    ("name", "archived"),
    [
        ("000000010000000000000001", True),
        ("000000010000000000000001.partial", True),
        ("000000010000000000000001.00000028.backup", True),
        ("00000002.history", True),
        ("000000010000000000000001.zst", False),
        ("000000010000000000000001.pgproof-tmp", False),
        ("00000001000000000000000a", False),
        ("00000002.history.partial", False),
        ("000000010000000000000001.ready", False),
        ("000000010000000000000001\n", False),
        ("archive_status", False),
        ("xlogtemp.123", False),
        ("RECOVERYXLOG", False),
        ("", False),
    ],
)
def test_what_postgresql_archives(name: str, archived: bool) -> None:
    assert is_archivable(name) is archived


# ---- the header


def page(
    magic: int = 0xD116,
    info: int = 0x0002,
    timeline: int = 1,
    address: int = 0x3000000,
    system: int = SYSTEM,
    size: int = 16 * MB,
    block: int = 8192,
) -> bytes:
    return struct.pack("=HHIQI4xQII", magic, info, timeline, address, 0, system, size, block) + bytes(24)


@pytest.mark.parametrize("magic", [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118])  # PostgreSQL 13 to 18
@pytest.mark.parametrize("info", [0x0002, 0x0003, 0x0006, 0x0007])
def test_header(magic: int, info: int) -> None:
    header = SegmentHeader.parse(page(magic, info, 3, 0x5_C0000000, size=GB), "x")
    assert header == SegmentHeader(3, LSN(0x5_C0000000), SYSTEM, GB)


@given(segments(), st.integers(1, (1 << 64) - 1))
def test_a_header_says_what_was_written(segment: WalSegment, system: int) -> None:
    content = page(timeline=segment.timeline, address=segment.start, system=system, size=segment.size)
    header = SegmentHeader.parse(content, segment.name)
    assert header == SegmentHeader(segment.timeline, segment.start, system, segment.size)
    check_segment(segment.name, header, segment.size)


@pytest.mark.parametrize("length", [0, 1, 24, 39])
def test_a_header_that_is_too_short_bad(length: int) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        SegmentHeader.parse(page()[:length], "000000010000000000000003")
    assert str(caught.value) == (
        'WAL segment "000000010000000000000003" is too short\n'
        f"DETAIL: It has {length} bytes where its header alone has 40."
    )
    assert SegmentHeader.parse(page()[:40], "x").segment_size == 16 * MB


@pytest.mark.parametrize(
    "content",
    [
        bytes(64),
        b"\xff" * 64,
        b"\x28\xb5\x2f\xfd" + bytes(60),
        page(magic=0xD2FF),
        page(magic=0),
        page(info=0),
        page(info=0x0005),
        page(size=0),
        page(size=16 * MB + 1),
        page(size=3 * MB),
        page(size=512 * 1024),
        page(size=2 * GB),
        page(block=0),
        page()[1:] + b"x",
    ],
    ids=lambda content: content[:4].hex(),
)
def test_header_bad(content: bytes) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        SegmentHeader.parse(content, "000000010000000000000003")
    assert str(caught.value) == (
        'WAL segment "000000010000000000000003" does not start with a WAL page\n'
        f"DETAIL: Its first bytes are {content[:16].hex()}.\n"
        "HINT: the segment was altered; look for another copy in the source's pg_wal"
    )


# ---- content and name


def header(timeline: int = 2, start: str = "0/3000000", size: int = 16 * MB) -> SegmentHeader:
    return SegmentHeader(timeline, LSN.parse(start), SYSTEM, size)


@pytest.mark.parametrize("timeline", [1, 2])
def test_the_first_segment_after_a_switch_may_say_the_parent(timeline: int) -> None:
    check_segment("000000020000000000000003", header(timeline), 16 * MB)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (header(start="0/4000000"), "timeline 2 and LSN 0/4000000"),
        (header(start="1/3000000"), "timeline 2 and LSN 1/3000000"),
        (header(timeline=3), "timeline 3 and LSN 0/3000000"),
        (header(start="0/3000000", size=64 * MB), "timeline 2 and LSN 0/3000000"),
    ],
)
def test_another_segment_under_this_name_bad(found: SegmentHeader, says: str) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        check_segment("000000020000000000000003", found, found.segment_size)
    expected = LSN(3 * found.segment_size)
    assert str(caught.value) == (
        'WAL segment "000000020000000000000003" holds another segment\n'
        f"DETAIL: Its first page says {says}; the name says timeline 2 and LSN {expected}."
    )


@pytest.mark.parametrize("length", [0, 16 * MB - 1, 16 * MB + 1, 8 * MB, 32 * MB])
def test_a_segment_of_the_wrong_length_bad(length: int) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        check_segment("000000020000000000000003", header(), length)
    assert str(caught.value) == (
        'WAL segment "000000020000000000000003" has the wrong length\n'
        f"DETAIL: It has {length} bytes; a segment of this cluster has 16777216."
    )
