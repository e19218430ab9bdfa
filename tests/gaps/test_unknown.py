"""What a gap check cannot find out is a finding: a primary that archives nothing here, a clock that was set back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgproof.gaps.check import check_wal
from pgproof.gaps.doubts import doubts_of
from pgproof.gaps.gap import check_gaps
from pgproof.gaps.lag import Lag, Newest, _why_unknown
from tests.conftest import MAJORS
from tests.drills.damage import answer
from tests.restore.test_futures import on, promoted_clone
from tests.retention.archives import NOON, entry
from tests.servers.postgres import Source, installed, now, running_source
from tests.wal.listings import catalog, listing
from tests.wal.listings import source as facts_of


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def primary(request: pytest.FixtureRequest) -> Iterator[Source]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        source.archive_now()
        yield source


def checked(source: Source) -> tuple[int, dict[str, Any]]:
    code, out, err = answer(source, "wal", "check", "main", "--json")
    assert out, err
    return code, json.loads(out)


@pytest.mark.parametrize(
    "settings",
    [
        {"archive_mode": "off"},
        {"archive_mode": "on", "archive_command": ""},
        {"archive_command": "/bin/true"},
    ],
    ids=["off", "empty", "true"],
)
def test_a_failover_to_a_server_that_archives_nothing_here(primary: Source, settings: dict[str, str]) -> None:
    """The first line must not be "no gap", nor the exit code 0, however little is known."""
    with promoted_clone(primary, **settings) as new:
        dsn = (
            f"host={primary.root}/s,{new.socket} user=pgproof dbname=postgres target_session_attrs=read-write"
        )
        primary.server.stop("immediate")
        try:
            primary.write_config(dsn=dsn)
            new.wait(lambda: _writable(new.dsn), 30, "to be promoted")
            for _ in range(3):
                on(new, "INSERT INTO t VALUES (2)", "SELECT pg_switch_wal()")
            on(new, "INSERT INTO t VALUES (3)")
            code, found = checked(primary)
            page = answer(primary, "wal", "check", "main")[1]
            fleet = answer(primary, "fleet")[0]
        finally:
            primary.write_config()
            primary.server.start()
            primary.server.wait_ready()
    assert (code, found["ok"], found["rpo_seconds"], fleet) == (1, False, None, 1)
    assert found["doubts"] == [
        "the source is on timeline 2, of which nothing is archived: nothing that it writes is protected here; look at "
        "archive_mode and archive_command of the new primary"
    ]
    assert page.startswith("not in order: no gap, 1 finding in all\nfinding: the source is on timeline 2, ")


def _writable(dsn: str) -> bool:
    with psycopg.connect(f"{dsn} user=postgres dbname=postgres") as connection:
        return connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,)


def test_a_clone_that_archived_here_is_a_finding() -> None:
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        source.archive_now()
        with promoted_clone(source) as clone:
            clone.wait(lambda: _writable(clone.dsn), 30, "to be promoted")
            on(clone, "INSERT INTO t VALUES (100)", "SELECT pg_switch_wal()")
            layout = source.archive.layout
            clone.wait(
                lambda: any("wal/00000002/" in i.key for i in source.archive.store.list(layout.wal)),
                60,
                "to archive",
            )
        source.sql("INSERT INTO t VALUES (2)")
        source.archive_now()
        found = check_wal(source.cluster, source.archive, now=now())
        (finding,) = found.findings
        assert finding.startswith("timeline 2, which left timeline 1 at LSN ")
        assert "has WAL here and no backup, and a restore follows timeline 1" in finding
        assert (found.timeline, found.report.gaps) == (1, ())
        source.backup()
        assert len(check_wal(source.cluster, source.archive, now=now()).findings) == 1


def test_a_source_that_did_not_answer() -> None:
    backups, found = catalog(entry("A", NOON, 3)), listing(range(3, 8))
    assert list(doubts_of(backups, found, None, "it is away", Lag())) == [
        "the source did not answer, and nobody knows what it has that is not archived: it is away"
    ]
    assert list(doubts_of(backups, found, facts_of(9), "", Lag(rpo_seconds=0.0))) == []


def test_a_clock_that_was_set_back() -> None:
    """Acknowledged commits in the open segment are not nothing because the clock says that they are to come."""
    newest, facts = Newest(NOON + timedelta(hours=2)), facts_of(9)
    reason = _why_unknown(newest, facts, NOON)
    assert reason.startswith(
        "the source's clock was set back: it says 2026-11-23 12:00:00+0000, and the newest "
    )
    lag = Lag(newest.commit, unknown=reason)
    (doubt,) = doubts_of(catalog(entry("A", NOON, 3)), listing(range(3, 9)), facts, "", lag)
    assert doubt == f"nobody knows what would be lost now: {reason}"


def test_a_source_whose_timeline_no_backup_leads_to() -> None:
    backups, found = catalog(entry("A", NOON, 3)), listing(range(3, 8), {9})
    facts = replace(facts_of(9), timeline=2)
    assert check_gaps(backups, found, facts).without_history == (2,)
