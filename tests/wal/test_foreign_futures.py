"""The WAL of another future under the right names: two servers that went on from one data directory, in one archive.

Each segment ends with ``pg_switch_wal``, so that no record crosses a border: only the address that the first record of
a segment gives for the one before it tells that the two do not belong together.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from pgproof.timelines.segment import WalSegment
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source
from tests.wal.files import MB
from tests.wal.real import Wal

SEGMENTS = 9  # more than a window of a check


@dataclass
class Futures:
    """One future of a source up to timeline 2, archived; and the segments of another one, by number."""

    wal: Wal
    other: dict[int, bytes]

    def mixed(self, directory: Path, numbers: set[int]) -> Wal:
        """The archive in a directory of its own, these segments of timeline 1 from the other future."""
        wal = self.wal.copy(directory)
        for segment in wal.segments:
            if segment.timeline == 1 and segment.number in numbers:
                wal.replace(segment, self.other[segment.number])
        return wal


def _write(connection: psycopg.Connection[object], text: str) -> None:
    connection.execute("INSERT INTO t VALUES (%s)", (text,))
    connection.execute("SELECT pg_switch_wal()")


@pytest.fixture(scope="module")
def futures() -> Iterator[Futures]:
    with running_source(17, autovacuum="off", checkpoint_timeout="1h") as source:
        source.sql("CREATE TABLE t (v text)")
        source.archive_now()
        with source.away():
            shutil.copytree(source.data, source.root / "other")
        record = source.backup()
        with source.connect() as connection:
            for _ in range(SEGMENTS):
                _write(connection, "one future")
        source.archive_now()
        _promote(source)
        other = source.start_copy(source.root / "other", "other", wal_keep_size="64MB")
        try:
            other.wait_ready()
            with psycopg.connect(f"{other.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
                for _ in range(SEGMENTS + 8):
                    _write(connection, "another future, which is longer")
        finally:
            other.stop("fast")
        wal = Wal.of(source, MB)
        first = record.first_segment.number
        wal.segments = [segment for segment in wal.segments if segment.number >= first]
        content = {
            int(path.name[8:16], 16) * 4096 + int(path.name[16:], 16): path.read_bytes()
            for path in (source.root / "other" / "pg_wal").glob("0" * 7 + "1" + "?" * 16)
        }
        yield Futures(wal, content)


def _promote(source: Source) -> None:
    """A restored copy opens at the end of the archive, the start of a segment, and archives on timeline 2."""
    source.server.stop("fast")
    data = source.root / "successor"
    code, _, err = answer(source, "restore", "main", "--to", str(data), "--take-over")
    assert code == 0, err
    settings = {"archive_mode": "on", "archive_command": source.archive_command}
    successor = source.start_copy(data, "successor", **settings)
    source.server.stop("fast")
    source.server = successor
    successor.wait((data / "pg_wal" / "00000002.history").exists, 30, "to be promoted")
    source.write_config(dsn=f"host={source.root}/s-successor user=pgproof dbname=postgres")
    successor.wait_ready()
    for _ in range(2):
        source.archive_now()


def test_one_future_is_in_order(futures: Futures, tmp_path: Path) -> None:
    wal = futures.wal.copy(tmp_path)
    assert wal.damaged() == []
    assert {segment.timeline for segment in wal.segments} == {1, 2}


def test_another_future_is_found_wherever_it_begins(futures: Futures, tmp_path: Path) -> None:
    """At each border in turn: a window of the check begins at every eighth."""
    numbers = sorted(s.number for s in futures.wal.segments if s.timeline == 1)
    found = {}
    for place in range(2, len(numbers) - 1):
        directory = tmp_path / str(place)
        wal = futures.mixed(directory, set(numbers[place:]))
        wal.segments = [segment for segment in wal.segments if segment.timeline == 1]
        found[place] = wal.damaged()
        shutil.rmtree(directory)
    assert found == {
        place: [WalSegment(1, numbers[place] - 1, MB).name, WalSegment(1, numbers[place], MB).name]
        for place in found
    }


def test_another_future_is_found_across_a_fork(futures: Futures, tmp_path: Path) -> None:
    numbers = {segment.number for segment in futures.wal.segments if segment.timeline == 1}
    wal = futures.mixed(tmp_path, numbers)
    last = WalSegment(1, max(numbers), MB)
    assert wal.damaged() == [last.name, last.next().on(2).name]
