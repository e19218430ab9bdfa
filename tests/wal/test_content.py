"""Archived WAL read page by page and record by record: real segments, harmed in every way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.timelines.segment import WalSegment
from pgproof.wal.content import ContentReport
from tests.repository.conftest import recipient_of
from tests.servers.postgres import installed, running_source
from tests.wal.files import MB, OTHER
from tests.wal.real import Wal

BLOCK = 8192


def fill(source: object, rounds: int = 3) -> None:
    """Segments that records run across, one record of several segments, and segments that were switched."""
    source.sql("CREATE TABLE t (g int, v text)")  # type: ignore[attr-defined]
    for _ in range(rounds):
        source.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 6000) g")  # type: ignore[attr-defined]
    source.sql("SELECT pg_logical_emit_message(false, 'large', repeat('x', 2500000))")  # type: ignore[attr-defined]
    for _ in range(2):
        source.archive_now()  # type: ignore[attr-defined]


@pytest.fixture(scope="module", params=[15, 17, 18])
def shared(request: pytest.FixtureRequest) -> Iterator[Wal]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        fill(source)
        yield Wal.of(source, MB)


@pytest.fixture
def wal(shared: Wal, tmp_path: Path) -> Wal:
    return shared.copy(tmp_path)


def used(wal: Wal, segment: WalSegment) -> int:
    """How many bytes of a segment are WAL; the rest is what a switch left empty."""
    return len(wal.content(segment).rstrip(b"\0"))


def switched(wal: Wal) -> WalSegment:
    return next(s for s in wal.segments if used(wal, s) < MB - 2 * BLOCK)


def whole(wal: Wal) -> list[WalSegment]:
    """Segments in a row that are full of records, each running into the next."""
    full = [s for s in wal.segments if used(wal, s) > MB - 64]
    return full[1:4]


def test_nothing_is_wrong(wal: Wal) -> None:
    assert len(wal.segments) >= 8
    found = wal.check()
    assert found == ContentReport((), found.read, 0, True, found.read * MB)
    assert found.read >= len(wal.segments)


def test_pages_alone_where_no_program_is(wal: Wal) -> None:
    wal.bin = None
    found = wal.check()
    assert (found.damaged, found.crc, found.read) == ((), False, len(wal.segments))


@pytest.mark.parametrize(
    "offset", [0, 2, 4, 8, 13, 16, 24, 32, 36, BLOCK, BLOCK + 2, BLOCK + 4, BLOCK + 9, BLOCK + 16]
)
def test_bit_of_a_page_header(wal: Wal, offset: int) -> None:
    victim = whole(wal)[1]
    wal.flip(victim, offset)
    assert victim.name in wal.damaged()
    if offset % BLOCK != 16 and offset % BLOCK != 2:  # what goes on from the page before only the chain tells
        wal.bin = None
        assert wal.damaged() == [victim.name]


def test_property_every_flipped_bit_of_a_stored_object_is_found(shared: Wal, tmp_path: Path) -> None:
    wal = shared.copy(tmp_path)
    dice = random.Random(7)
    victim = whole(wal)[1]
    path = wal.path(victim)
    healthy = path.read_bytes()
    wal.segments = [victim]
    wal.bin = None  # the codec's checksum must do
    plain, harmless = wal.content(victim), 0
    for _ in range(200):
        place = dice.randrange(len(healthy) * 8)
        content = bytearray(healthy)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        if (
            not wal.damaged()
        ):  # a match at another distance in text that repeats itself: the content is the same
            assert wal.content(victim) == plain, f"bit {place}"
            harmless += 1
    assert harmless < 20


def test_property_flipped_bits_of_records_are_found(shared: Wal, tmp_path: Path) -> None:
    """Under a checksum of its own, as a faulty memory would store it: all but the padding between records."""
    wal = shared.copy(tmp_path)
    dice = random.Random(8)
    victim = whole(wal)[1]
    before, after = whole(wal)[0], whole(wal)[2]
    wal.segments = [before, victim, after]
    healthy = wal.content(victim)
    text = [
        i
        for i in range(BLOCK, MB - BLOCK)
        if healthy[i] in b"0123456789abcdef" and healthy[i + 1] in b"0123456789abcdef"
    ]
    for place in dice.sample(text, 25):
        content = bytearray(healthy)
        content[place] ^= 1 << dice.randrange(8)
        wal.replace(victim, bytes(content))
        ((name, fault),) = wal.check(everything=True).damaged
        assert name == victim.name
        assert fault.startswith("the record at LSN ")
        assert 'pg_waldump says "incorrect resource manager data checksum in record at ' in fault


def test_record_that_crosses_a_border_damaged_before_it(wal: Wal) -> None:
    one, two = whole(wal)[:2]
    content = wal.content(one)
    wal.flip(one, len(content) - 4)
    found = dict(wal.check().damaged)
    assert list(found) == [one.name, two.name]
    assert found[one.name].endswith(f"; it reaches from {one} to {two}: one of them is damaged")


def test_record_that_crosses_a_border_damaged_behind_it(wal: Wal) -> None:
    one, two = whole(wal)[:2]
    wal.flip(two, 60)
    found = dict(wal.check().damaged)
    assert list(found) == [one.name, two.name]


def test_record_over_several_segments(wal: Wal) -> None:
    """The large message begins in one segment, fills one or two, and ends in another."""
    content = {segment: wal.content(segment) for segment in wal.segments}
    inner = next(s for s in wal.segments if content[s].count(b"x") > MB - 8000)
    wal.flip(inner, MB // 2 + 100)
    found = dict(wal.check().damaged)
    first, last = WalSegment(1, inner.number - 1, MB), WalSegment.parse(max(found), MB)
    assert list(found) == [WalSegment(1, n, MB).name for n in range(first.number, last.number + 1)]
    assert last > inner
    assert found[inner.name].endswith(f"; it reaches from {first} to {last}: one of them is damaged")


def test_anything_after_a_switch(wal: Wal) -> None:
    victim = switched(wal)
    end = used(wal, victim)
    for offset in (end + 40, end // BLOCK * BLOCK + BLOCK, end // BLOCK * BLOCK + BLOCK + 100, MB - 1):
        healthy = wal.content(victim)
        wal.flip(victim, offset)
        assert wal.damaged() == [victim.name], offset
        wal.replace(victim, healthy)
    assert wal.damaged() == []


def test_zeros_in_the_middle(wal: Wal) -> None:
    victim = whole(wal)[1]
    content = wal.content(victim)
    wal.replace(victim, content[: MB // 2] + bytes(MB // 2))
    found = dict(wal.check().damaged)
    assert victim.name in found  # by its records: by its pages it may have been switched
    wal.replace(victim, content[: MB // 2] + bytes(BLOCK) + content[MB // 2 + BLOCK :])
    fault = dict(wal.check(bin_directory=None).damaged)[victim.name]
    assert (
        fault
        == (
            f'WAL segment "{victim}" has a damaged page. The page at LSN {victim.start + MB // 2:#x} is empty'
        )
        or "is empty, and one with content follows at LSN" in fault
    )


def test_end_of_wal_is_no_damage(wal: Wal) -> None:
    """The newest segment of a dead server, pushed by hand: zeros after its last record."""
    newest = whole(wal)[1]
    wal.segments = wal.segments[: wal.segments.index(newest) + 1]
    for info in list(wal.archive.store.list(wal.archive.layout.wal)):
        name = info.key.rsplit("/", 1)[1].removesuffix(".zst")
        if name > newest.name:
            wal.archive.store.delete(info.key)
    content = wal.content(newest)
    last = content.rfind(b"\x00\x00\x00\x00", 0, MB // 2)
    assert last
    # a real end: cut at the start of a record
    start = start_of_a_record(wal, newest)
    wal.replace(newest, content[:start].ljust(MB, b"\0"))
    assert wal.damaged() == []
    # and pages of an older segment behind it, as a recycled file has them
    page = -(-start // BLOCK) * BLOCK
    old = bytearray(content)
    for offset in range(0, MB, BLOCK):
        old[offset + 8 : offset + 16] = (newest.start - 4 * MB + offset).to_bytes(8, "little")
    recycled = content[:start].ljust(page, b"\0") + bytes(old[page:])
    wal.replace(newest, recycled)
    assert wal.damaged() == []
    assert wal.damaged(bin_directory=None) == []
    wal.flip(newest, start - 9)  # within the last record
    assert wal.damaged() == [newest.name]


def start_of_a_record(wal: Wal, segment: WalSegment) -> int:
    """The offset of some record in the middle of a segment, as pg_waldump tells it."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        (directory / segment.name).write_bytes(wal.content(segment))
        done = subprocess.run(
            [f"{wal.bin}/pg_waldump", "-p", text, "-s", str(segment.start), "-e", str(segment.end)],
            capture_output=True,
            text=True,
        )
    lines = done.stdout.splitlines()
    place = lines[len(lines) // 2].split("lsn: ")[1].split(",")[0]
    return int(place.split("/")[1], 16) - segment.start


@pytest.mark.parametrize("age", [False, True], ids=["plain", "encrypted"])
def test_replaced_by_something_else(
    shared: Wal, tmp_path: Path, age: bool, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPROOF_TEST_IDENTITY", identity)
    wal = shared.copy(
        tmp_path,
        compression_level=1,
        age_recipients=(recipient_of(identity),) if age else (),
        age_identity="env:PGPROOF_TEST_IDENTITY" if age else None,
    )
    victim = whole(wal)[1]
    healthy = wal.content(victim)
    others = {
        "another cluster's": healthy[:24] + OTHER.to_bytes(8, "little") + healthy[32:],
        "another segment": wal.content(whole(wal)[0]),
        "half": healthy[: MB // 2],
        "more": healthy + healthy,
        "zeros": bytes(MB),
        "nothing": b"",
    }
    faults = {}
    for what, content in others.items():
        wal.replace(victim, content)
        faults[what] = dict(wal.check(everything=True).damaged)[victim.name]
        wal.replace(victim, healthy)
    name, system = victim.name, wal.archive.system_identifier
    assert faults == {
        "another cluster's": f'WAL segment "{name}" belongs to another cluster. '
        f"Its system identifier is {OTHER}; the archive's is {system}.",
        "another segment": f'WAL segment "{name}" holds another segment. Its first page says timeline 1 '
        f"and LSN {whole(wal)[0].start}; the name says timeline 1 and LSN {victim.start}.",
        "half": f'WAL segment "{name}" has the wrong length. '
        "It has 524288 bytes; a segment of this cluster has 1048576.",
        "more": f'WAL segment "{name}" has the wrong length. '
        "It has 2097152 bytes; a segment of this cluster has 1048576.",
        "zeros": f'WAL segment "{name}" does not start with a WAL page. '
        "Its first bytes are 00000000000000000000000000000000.",
        "nothing": f'WAL segment "{name}" is too short. It has 0 bytes where its header alone has 40.',
    }
    assert wal.damaged() == []


def test_segment_of_a_larger_size(shared: Wal, tmp_path: Path) -> None:
    wal = shared.copy(tmp_path)
    victim = whole(wal)[1]
    content = wal.content(victim)
    wal.replace(victim, content[:32] + (16 * MB).to_bytes(4, "little") + content[36:])
    assert dict(wal.check().damaged)[victim.name] == (
        f'WAL segment "{victim}" has another segment size. '
        "Its first page says 16777216 bytes; this cluster has 1048576."
    )


@pytest.mark.parametrize("size", [16, 64])
def test_larger_segments(size: int, tmp_path: Path) -> None:
    with running_source(17, segment_size=size, max_wal_size="256MB") as source:
        source.sql("CREATE TABLE t AS SELECT g, repeat(md5(g::text), 30) v FROM generate_series(1, 40000) g")
        source.archive_now()
        source.archive_now()
        wal = Wal.of(source, size * MB).copy(tmp_path)
    found = wal.check()
    assert (found.damaged, found.crc) == ((), True)
    victim = max(wal.segments, key=lambda segment: len(wal.content(segment).rstrip(b"\0")))
    wal.flip(victim, wal.content(victim).find(b"0123456789abcdef"[:1], size * MB // 4))
    assert victim.name in wal.damaged()
