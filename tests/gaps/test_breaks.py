"""A spell of wal_level = minimal inside one segment: every name is there, and no recovery goes past it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.loss import losses, newest_is_lost, sentences
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.breaks import Break, first_crossed
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source

MINIMAL = {"archive_mode": "off", "wal_level": "minimal", "max_wal_senders": "0"}
REPLICA = {"archive_mode": "on", "wal_level": "replica", "max_wal_senders": "10"}


@pytest.fixture(scope="module", params=[15, 18])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    with running_source(request.param) as made:
        made.sql("CREATE TABLE t (g int)")
        made.backup()
        made.sql("INSERT INTO t VALUES (1)")
        made.archive_now()
        yield made


def check(source: Source, *, content: bool = False) -> WalCheck:
    return check_wal(source.cluster, source.archive, content=content, now=now())


def test_a_spell_of_minimal_wal(source: Source, tmp_path: Path) -> None:
    before = source.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    source.set(**MINIMAL)
    source.sql("INSERT INTO t VALUES (2)")
    assert any("runs with wal_level = minimal" in finding for finding in check(source).findings)
    source.set(**REPLICA)
    source.sql("INSERT INTO t VALUES (3)")
    source.archive_now()
    words = ["restore", "main", "--to"]

    # by names there is nothing to see, and a server refuses it
    assert check(source).ok
    data = tmp_path / "early"
    assert answer(source, *words, str(data))[0] == 0
    copy = source.start_copy(data)
    try:
        assert copy._process is not None
        assert copy._process.wait(60) != 0
    finally:
        copy.stop("immediate")
    assert "wal_level=minimal" in copy.log.read_text()  # in quotes from PostgreSQL 18 on

    # the records tell, each time, and the names know it from then on
    for content in (True, True, False):
        found = check(source, content=content)
        (broken,) = found.report.breaks
        assert str(broken) in found.findings
        assert not found.report.damaged
        (window,) = found.report.windows
        assert (window.end, window.broken_by) == (broken.lsn, broken.segment)
        assert newest_is_lost(found.report)
        assert sentences(losses(found.report))[0].endswith(
            f" ends at {broken.segment}, in which wal_level became minimal."
        )

    # so that a plan refuses to cross it, and takes the backup that lies behind it
    code, _, err = answer(source, *words, str(tmp_path / "x"), "--dry-run")
    assert (code, err.splitlines()[0]) == (1, f"pgproof: {broken}")
    assert answer(source, *words, str(tmp_path / "x"), "--dry-run", "--target-lsn", before)[0] == 0
    record = source.backup()
    code, out, err = answer(source, *words, str(tmp_path / "x"), "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["backup"] == record.label
    found = check(source, content=True)
    assert found.report.breaks == (broken,)
    assert not newest_is_lost(found.report)


def test_a_break_counts_on_its_own_timeline_alone() -> None:
    size = 1 << 20
    one = Break(WalSegment(1, 9, size), LSN(9 * size + 100))
    left = TimelineHistory.parse(2, f"1\t{LSN(5 * size)}\t")
    assert first_crossed([one], TimelineHistory(1), LSN(3 * size), LSN(20 * size)) == one
    assert first_crossed([one], TimelineHistory(1), LSN(one.lsn + 1), LSN(20 * size)) is None
    assert first_crossed([one], TimelineHistory(1), LSN(3 * size), one.lsn) is None
    assert first_crossed([one], left, LSN(3 * size), LSN(20 * size)) is None
