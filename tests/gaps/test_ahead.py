"""An archive ahead of its source: a source that was set back to a copy of its data directory, and no false alarm."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgproof.gaps.ahead import ahead_of_source
from pgproof.gaps.check import check_wal
from pgproof.postgres.facts import ServerFacts
from pgproof.wal.archive import WalListing
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source
from tests.wal.listings import listing, source
from tests.wal.test_received_parts import part, with_parts

AHEAD = "the archive is ahead of its source"


@pytest.fixture(scope="module")
def set_back() -> Iterator[Source]:
    """A source with a backup and three more archived segments, set back to a copy of its files from before those."""
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
        source.backup()
        copy = source.root / "snapshot"
        with source.away():
            shutil.copytree(source.data, copy, symlinks=True)
        for number in range(3):
            source.sql(f"INSERT INTO t VALUES ({100 + number})")
            source.archive_now()
        assert check_wal(source.cluster, source.archive).ok
        with source.away():
            shutil.rmtree(source.data)
            copy.rename(source.data)
        yield source


def test_it_is_a_finding_everywhere(set_back: Source) -> None:
    code, out, _ = answer(set_back, "wal", "check", "main")
    assert code == 1
    assert out.splitlines()[0] == "not in order: no gap, 1 finding in all"
    assert f"finding: {AHEAD}: on timeline 1 it ends at LSN " in out
    assert "source: it writes before the end of the archive, which is of another future" in out
    assert "lost if the source died now" not in out
    code, out, _ = answer(set_back, "fleet")
    assert (code, f"main: {AHEAD}" in out) == (1, True)
    code, out, _ = answer(set_back, "objectives", "main")
    assert (code, f"what would be lost now is not known: {AHEAD}" in out) == (1, True)
    code, out, _ = answer(set_back, "doctor", "main")
    assert (code, AHEAD in out, "because of WAL position" in out) == (1, True, True)


def test_the_runbook_gives_it_a_timeline_of_its_own(set_back: Source) -> None:
    """The older state is wanted: the commands of docs/runbooks/wal-gap.md."""
    source = set_back
    source.server.stop("immediate")
    (source.data / "standby.signal").touch()
    source.server.start()
    source.server.wait_ready()
    source.sql("SELECT pg_promote()")
    assert source.sql("SELECT pg_is_in_recovery()") == [(False,)]
    source.sql("INSERT INTO t VALUES (200)")
    source.archive_now()
    source.backup()
    found = check_wal(source.cluster, source.archive)
    assert (found.ahead, found.findings, found.timeline) == ("", (), 2)
    assert answer(source, "restore", "main", "--to", str(source.root / "to"), "--dry-run")[0] == 0


def ahead(found: WalListing, first: ServerFacts | None, later: ServerFacts | None = None) -> bool:
    return AHEAD in ahead_of_source(found, first, lambda: later or first)


def test_what_is_ahead() -> None:
    assert ahead(listing(range(3, 8)), source(6.2))
    assert ahead(with_parts(listing(range(3, 6)), part(6, 0.9)), source(6.2))
    assert ahead(listing(range(3, 8), range(5, 9), t2="1 5.5"), source(6.5, timeline=2))


@pytest.mark.parametrize(
    ("found", "first", "later"),
    [
        (listing(range(3, 8)), source(8), None),  # just switched
        (listing(range(3, 8)), source(6.2), source(8.1)),  # two segments were pushed while we looked
        (listing(range(3, 8)), source(6.2), source(6.2, in_recovery=True)),  # it is demoted just now
        (listing(range(3, 8)), source(6.2, in_recovery=True), None),  # a standby may lag
        (listing(range(3, 8)), None, None),  # it does not answer
        (listing(range(3, 8)), source(5.6, timeline=2), None),  # just promoted: no history is archived yet
        (listing(range(3, 8), t2="1 5.5"), source(5.6, timeline=2), None),  # the old primary went on after the fork
        (with_parts(listing(range(3, 6)), part(6, 0.5)), source(6.5), None),  # received up to the last byte
        (listing(), source(3.1), None),
    ],
)  # fmt: skip
def test_what_is_not(found: WalListing, first: ServerFacts | None, later: ServerFacts | None) -> None:
    assert not ahead(found, first, later)


def test_a_source_that_goes_away_meanwhile() -> None:
    assert ahead_of_source(listing(range(3, 8)), source(6.2), lambda: None) == ""


def test_the_text() -> None:
    text = ahead_of_source(listing(range(3, 8)), source(6.25), lambda: replace(source(6.25)))
    assert re.match(
        rf"{AHEAD}: on timeline 1 it ends at LSN 0/800000, and the source writes at LSN 0/640000\.", text
    )
