"""Targets found in real archived WAL, also where a record lies across the border of two segments."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgproof.errors import ObjectMissing
from pgproof.restore.locate import WalReader
from pgproof.timelines.segment import WalSegment
from pgproof.wal.records import CommitRecord, RestorePoint
from tests.servers.postgres import Source

SIZE = 1 << 20


def go_to_the_end_of_a_segment(source: Source) -> None:
    """Write until less than a restore point's record is left of the segment."""
    with source.connect() as connection:

        def left() -> int:
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
            assert row is not None
            return SIZE - int(row[0]) % SIZE

        def write(size: int) -> None:
            connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('m', %s))", (size,))

        write(max(left() - 20_000, 1))
        while left() > 8_000:
            write(4_000)
        while left() > 90:
            write(max(1, min(left() - 140, 2_000)))


def test_a_restore_point_across_the_border_of_two_segments(source: Source) -> None:
    source.archive_now()
    go_to_the_end_of_a_segment(source)
    lsn = source.sql("SELECT pg_create_restore_point('on the border')::text")[0][0]
    first = WalSegment.parse(source.sql("SELECT pg_walfile_name(%s)", lsn)[0][0], SIZE)
    newest = WalSegment.parse(source.archive_now(), SIZE)
    reader = WalReader(source.archive, source.bin)
    segments = [WalSegment(1, number, SIZE) for number in range(first.number - 1, newest.number + 1)]

    def alone(segment: WalSegment) -> list[str]:
        found = reader.records(segment, rmgrs=("XLOG",))
        return [record.name for record in found if isinstance(record, RestorePoint)]

    assert [alone(segment) for segment in segments] == [[] for _ in segments], "it lies in one segment"
    located = reader.locate_record(segments, "name", "on the border")
    assert located is not None
    border = located.lsn // SIZE
    assert located.lsn % SIZE > SIZE - 100
    assert border in {segment.number for segment in segments}
    assert reader.locate_record(segments, "name", "nowhere") is None
    hole = [segment for segment in segments if segment.number != border + 1]
    assert reader.locate_record(hole, "name", "on the border") is None


def test_commits_by_time_and_number(source: Source) -> None:
    source.sql("CREATE TABLE t (g int)")
    names, xids, times = [], [], []
    for row in range(6):
        source.sql("SELECT pg_sleep(0.01)")
        if row not in (2, 3):  # two segments hold no commit of ours
            xids.append(source.sql("INSERT INTO t VALUES (%s) RETURNING xmin::text", row)[0][0])
            times.append(source.sql("SELECT clock_timestamp()")[0][0])
        names.append(source.archive_now())
    segments = [WalSegment.parse(name, SIZE) for name in names]
    reader = WalReader(source.archive, source.bin)
    for xid, segment in zip(xids, [segments[0], segments[1], segments[4], segments[5]], strict=True):
        located = reader.locate_record(segments, "xid", xid)
        assert located is not None
        assert segment.start < located.lsn < segment.end
        wide = str(int(xid) + (1 << 32))  # with its epoch, as pg_current_xact_id() shows it
        assert reader.locate_record(segments, "xid", wide) == located
    every = [commit for segment in segments for commit in reader.commits(segment)]
    for time in (*times, every[0].time, every[-2].time):
        assert time is not None
        later = [commit for commit in every if commit.time is not None and commit.time > time]
        located = reader.locate_time(segments, time)
        assert located is not None
        assert (located.lsn, located.time) == (later[0].lsn, later[0].time)
    last = every[-1].time
    assert last is not None
    assert reader.locate_time(segments, last) is None
    assert reader.locate_time([], last) is None
    before = reader.locate_time(segments, last - timedelta(days=1))
    assert before is not None
    assert before.lsn == every[0].lsn
    newest = reader.newest_commit(reversed(segments))
    assert isinstance(newest, CommitRecord)
    assert newest == every[-1]
    with pytest.raises(ObjectMissing):
        reader.commits(segments[-1].next().next())
