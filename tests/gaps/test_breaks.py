"""A spell of wal_level = minimal inside one segment: every name is there, and no recovery goes past it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.loss import losses, newest_is_lost, sentences
from pgproof.postgres.programs import account, as_account
from pgproof.restore import procedure
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import list_wal
from pgproof.wal.breaks import Break, first_crossed
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, now, running_source

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

    # by names there is nothing to see, the WAL tells a plan, and a server refuses it
    assert check(source).ok
    data = tmp_path / "early"
    code, _, err = answer(source, *words, str(data))
    assert (code, data.exists()) == (1, False)
    assert "from there on the server ran with wal_level = minimal" in err.splitlines()[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(procedure, "AT_ONCE", 0)  # with so much WAL a plan does not read it
        code, out, err = answer(source, *words, str(data))
    assert code == 0, err
    assert "of WAL will be read while the files are extracted" in " ".join(out.split())
    assert "from there on the server ran with wal_level = minimal" in " ".join(out.split())
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


@pytest.fixture(scope="module", params=[15, 18])
def reset(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source whose WAL was begun anew, so that no name is missing."""
    if reason := installed(request.param):
        pytest.skip(reason)
    settings = {"wal_recycle": "off", "autovacuum": "off", "checkpoint_timeout": "1h"}
    with running_source(request.param, **settings) as made:
        made.sql("CREATE TABLE t (g int)")
        made.backup()
        made.sql("INSERT INTO t VALUES (1)")
        made.archive_now()
        made.server.stop("immediate")
        reset_wal(made)
        made.server.start()
        made.server.wait_ready()
        made.sql("INSERT INTO t VALUES (2)")
        made.archive_now()
        yield made


def reset_wal(source: Source) -> None:
    """Have new WAL begin with the segment after the newest one that is archived."""
    newest = list_wal(source.archive, 1 << 20).newest(1)
    assert newest is not None
    (source.data / "postmaster.pid").unlink(missing_ok=True)
    for path in (source.data / "pg_wal").glob("?" * 24):  # else it begins behind them, and a name is missing
        if path.name > newest.name:
            path.unlink()
    program = [source.bin / "pg_resetwal", "-f", "-l", newest.next().name, "-D", source.data]
    subprocess.run(
        program,
        check=True,
        capture_output=True,
        **as_account(account(None)),  # type: ignore[call-overload]
    )


def test_wal_that_was_begun_anew(reset: Source, tmp_path: Path) -> None:
    """A server would open at the break, without an error and without what was committed since."""
    assert not check(reset).findings
    words = ["restore", "main", "--to", str(tmp_path / "x"), "--dry-run"]
    code, _, err = answer(reset, *words)
    fact = err.splitlines()[0]
    assert (code, fact.endswith(": pg_resetwal began new WAL there")) == (1, True), err
    found = check(reset, content=True)
    (broken,) = found.report.breaks
    assert fact == f"pgproof: {broken}"
    assert not found.report.damaged
    assert sentences(losses(found.report))[0].endswith(" with which pg_resetwal began new WAL.")
    assert not check(reset).ok  # the names know it from then on
    assert answer(reset, *words, "--target-lsn", str(LSN(broken.lsn - 64)))[0] == 0
    record = reset.backup()
    code, out, err = answer(reset, *words, "--json")
    assert (code, json.loads(out)["backup"]) == (0, record.label), err


def test_a_break_counts_on_its_own_timeline_alone() -> None:
    size = 1 << 20
    one = Break(WalSegment(1, 9, size), LSN(9 * size + 100))
    left = TimelineHistory.parse(2, f"1\t{LSN(5 * size)}\t")
    assert first_crossed([one], TimelineHistory(1), LSN(3 * size), LSN(20 * size)) == one
    assert first_crossed([one], TimelineHistory(1), LSN(one.lsn + 1), LSN(20 * size)) is None
    assert first_crossed([one], TimelineHistory(1), LSN(3 * size), one.lsn) is None
    assert first_crossed([one], left, LSN(3 * size), LSN(20 * size)) is None
