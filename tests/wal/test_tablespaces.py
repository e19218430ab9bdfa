"""CREATE TABLESPACE in real WAL, at page and segment borders: found, contained, and read by pg_waldump afterwards."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.beside import FilesBeside
from pgproof.wal.crc import crc32c
from pgproof.wal.tablespaces import TablespaceRecord, contain, contain_directory, tablespace_records
from tests.servers.postgres import Source, installed, running_source
from tests.wal.borders import PAGE, SIZE, Made, Maker

# how many bytes of the record are on one side of the border
SHORT_CUTS = (8, 16, 24, 32, 40, 48)
LONG_CUTS = (24, 32, 40, 296)


@pytest.fixture(scope="module", params=(15, 17, 18), ids=lambda major: f"pg{major}")
def maker(request: pytest.FixtureRequest) -> Iterator[Maker]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(
        request.param, archive_mode="off", wal_keep_size="1GB", checkpoint_timeout="1h", max_wal_size="1GB"
    ) as source:
        source.sql("CHECKPOINT")
        yield Maker(source)


def copied(made: Made, directory: Path, *segments: WalSegment) -> Path:
    directory.mkdir()
    for segment in segments:
        shutil.copy(made.directory / segment.name, directory / segment.name)
    return directory


def dumped(source: Source, directory: Path, first: WalSegment, end: int | None = None) -> tuple[str, str]:
    """The records of tablespaces as pg_waldump shows them, and what it says at the end."""
    command = [source.bin / "pg_waldump", "-p", directory, "-t", "1", "-s", str(first.start)]
    command += ["-e", str(LSN(end))] if end else []
    done = subprocess.run(
        [*map(str, command), "--rmgr=Tablespace"], capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


def assert_contained(maker: Maker, made: Made, tmp_path: Path) -> None:
    source, first = maker.source, made.segment
    both = [s for s in (first, first.next()) if (made.directory / s.name).exists()]
    directory = copied(made, tmp_path / "wal", *both)
    assert made.record in contain_directory(directory)
    out, err = dumped(source, directory, first, both[-1].end)
    (line,) = [line for line in out.splitlines() if f"CREATE {made.record.oid} " in line]
    assert line.endswith(f'desc: CREATE {made.record.oid} ""')
    assert LSN.parse(line.split("lsn: ")[1].split(",")[0]) == made.record.lsn
    assert "error" not in err or "got 0" in err, err  # the end of WAL, after the switch
    # each altered for itself, as they come to a standby, is the same
    for segment in both:
        before = copied(made, tmp_path / f"alone-{segment.name}", segment)
        contain(before / segment.name, FilesBeside(made.directory, segment))
        assert (before / segment.name).read_bytes() == (directory / segment.name).read_bytes()
    changed = sum(
        one != other
        for segment in both
        for one, other in zip(
            (made.directory / segment.name).read_bytes(), (directory / segment.name).read_bytes(), strict=True
        )
    )
    others = len(out.splitlines()) - 1
    assert 1 < changed <= 5 * (1 + others)
    assert contain_directory(directory) == [
        TablespaceRecord(record.lsn, record.oid, "" if record.path is not None else None)
        for record in contain_directory(directory)
    ]


@pytest.mark.parametrize("cut", SHORT_CUTS)
def test_a_record_across_segments(maker: Maker, cut: int, tmp_path: Path) -> None:
    made = maker.at(cut, border=SIZE)
    assert made.segment.end - made.record.lsn == cut
    assert_contained(maker, made, tmp_path)


@pytest.mark.parametrize("cut", LONG_CUTS)
def test_a_record_with_a_long_path_across_segments(maker: Maker, cut: int, tmp_path: Path) -> None:
    assert_contained(maker, maker.at(cut, border=SIZE, long="-" + "l" * 240), tmp_path)


@pytest.mark.parametrize("cut", (8, 16, 24, 32))
def test_a_record_across_pages(maker: Maker, cut: int, tmp_path: Path) -> None:
    made = maker.at(cut, border=PAGE)
    assert -made.record.lsn % PAGE == cut
    assert_contained(maker, made, tmp_path)


@pytest.mark.parametrize("cut", SHORT_CUTS)
def test_a_record_whose_end_is_not_there_yet_is_taken_away(maker: Maker, cut: int, tmp_path: Path) -> None:
    made = maker.at(cut, border=SIZE)
    segment = made.segment
    directory = copied(made, tmp_path / "wal", segment)
    original = (directory / segment.name).read_bytes()
    assert made.record not in contain_directory(directory)
    content = (directory / segment.name).read_bytes()
    if cut < 24:  # all that is altered of it lies in the next segment
        assert content == original
        return
    assert content == original[:-cut] + bytes(cut)
    _, err = dumped(maker.source, directory, segment)
    assert "error in WAL record at" in err and "got 0" in err


def test_what_only_looks_like_a_record_is_left_alone(maker: Maker, tmp_path: Path) -> None:
    source = maker.source
    maker.create("")
    record = maker.made().record
    content = (source.data / "pg_wal" / WalSegment.containing(1, record.lsn, SIZE).name).read_bytes()
    start = record.lsn % SIZE
    copy = content[start : start + content[start]]
    with source.connect() as connection:
        for shift in range(8):
            connection.execute(
                "SELECT pg_logical_emit_message(false, 'p', %s::bytea)", (bytes(shift) + copy + bytes(64),)
            )
        (name,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
    segment = WalSegment.parse(name, SIZE)
    directory = copied(Made(source.data / "pg_wal", record), tmp_path / "wal", segment)
    before = (directory / name).read_bytes()
    expected = [record] if record.lsn >= segment.start else []
    assert before.count(copy) == 8 + len(expected)
    assert contain_directory(directory) == expected
    assert (directory / name).read_bytes().count(copy) == 8


def test_a_drop_is_found(maker: Maker) -> None:
    source = maker.source
    maker.create("")
    record = maker.made().record
    source.sql(f"DROP TABLESPACE s{maker.count:04}")
    wal = source.data / "pg_wal"
    segment = WalSegment.parse(source.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0], SIZE)
    found = tablespace_records((wal / segment.name).read_bytes(), FilesBeside(wal, segment))
    assert (found[-1].oid, found[-1].path) == (record.oid, None)


def test_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    assert crc32c(b"") == 0
