"""The drill benchmark measures what it says: its tables, its chunks, its figures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.holding import counted, fenced
from benchmarks.phases import Drilled, table
from benchmarks.reading import COUNT, FINGERPRINT, MD5, md5_of, reading
from benchmarks.shop import KINDS, Shop, create
from tests.servers.postgres import Source, running_source

ROWS = 300


@pytest.fixture(scope="module")
def filled() -> Iterator[Source]:
    with running_source(17) as source:
        for kind in KINDS:
            create(source, kind, ROWS)
        yield source


def test_rows_take_what_is_said(filled: Source) -> None:
    """A page more or less for each partition and index, as the tables are small."""
    for kind in KINDS:
        oids = "SELECT oid FROM pg_class WHERE relkind = 'r' AND relname ~ %s"
        rows, size = filled.sql(
            f"SELECT (SELECT count(*) FROM {kind.name}), sum(pg_total_relation_size(oid))::bigint FROM ({oids}) found",
            f"^{kind.name}(_[0-9]+)?$",
        )[0]
        assert rows == ROWS
        assert size == pytest.approx(ROWS * kind.bytes_per_row, rel=0.3, abs=9 * 6 * 8192)


def test_every_reader_reads_all(filled: Source) -> None:
    sections = reading(Shop(filled, 1), 1)
    assert [section.title for section in sections] == [f"Reading a table, {kind.title}" for kind in KINDS]
    for section in sections:
        assert [series.name for series in section.series] == [FINGERPRINT, COUNT, MD5]
        assert all(series.values and not series.failure for series in section.series)
        assert section.notes[0].startswith("300 rows in ")


def test_chunks_are_the_whole(filled: Source) -> None:
    with filled.connect() as connection:
        rows = connection.execute("SELECT t::text FROM narrow t ORDER BY id").fetchall()
        texts = [row[0] for row in rows]
        kind = KINDS[0]
        assert md5_of(connection, kind, ROWS, ROWS) == [digest(texts)]
        assert md5_of(connection, kind, ROWS, 200) == [digest(texts[:200]), digest(texts[200:])]


def digest(texts: list[str]) -> str:
    return hashlib.md5("".join(texts).encode()).hexdigest()


def test_snapshots_are_held_and_tables_are_read_under_them(filled: Source) -> None:
    held = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgproof' AND backend_xmin IS NOT NULL"
    with fenced(Shop(filled, 1)):
        assert filled.sql(held) == [(6,)]
    before = scans(filled)
    with counted(Shop(filled, 1), 1):
        assert filled.sql(held)[0][0] >= 7
    assert filled.sql(held) == [(0,)]
    assert scans(filled) > before


def scans(source: Source) -> int:
    """Sequential scans of a table; those of a session count at the latest when it ends."""
    return int(source.sql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'narrow'")[0][0])


def test_a_drill_by_phase() -> None:
    proof: dict[str, Any] = {
        "phases": {"fence": 2.0, "extract": 1.0, "replay": 0.5},
        "restored_bytes": 300_000_000,
        "wal_bytes": 50_000_000,
        "rto_seconds": 1.5,
        "tables": [{"source_rows": 1000}, {"source_rows": 500}],
    }
    slower = {**proof, "phases": {"fence": 4.0, "extract": 2.0, "replay": 0.5}, "rto_seconds": 2.5}
    text = table([Drilled(proof, 5.0), Drilled(slower, 9.0)], 600_000_000)
    assert text.splitlines()[2:] == [
        "`pgproof drill`, 2 of them: 300 MB of backup, 50 MB of WAL, 2 tables with 1,500 rows. MB/s are of the backup, "
        "of the WAL, or of the 600 MB of databases with their indexes.",
        "",
        "| phase | seconds | min to max | MB/s | what happens |",
        "|---|---:|---:|---:|---|",
        "| fence | 3.00 | 2.00 to 4.00 | 200 | snapshots held: the exact cut is found, catalogs and tables are read |",
        "| extract | 1.50 | 1.00 to 2.00 | 200 | the backup's files are fetched, checked and put in place |",
        "| replay | 0.50 | 0.50 to 0.50 | 100 | it replays WAL, to targets and to the cut |",
        "| the rest | 2.00 | 1.50 to 2.50 |  | start of the command, plans, Great Expectations, the evidence |",
        "| whole | 7.00 | 5.00 to 9.00 |  | from the command's start to its end |",
        "| RTO | 2.00 | 1.50 to 2.50 |  | of it: what a recovery takes |",
    ]
