"""What would be lost now, and what else keeps an archive from being in order: quiet, slots, copies, the archiver."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from pgproof.commands.console import Session
from pgproof.gaps.check import WalCheck, _stalled, check_wal
from pgproof.gaps.copies import CopyCheck
from pgproof.gaps.gap import GapReport
from pgproof.gaps.lag import Newest, _age
from pgproof.gaps.loss import newest_is_lost
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ArchiverFacts, read_facts
from pgproof.postgres.slots import Slot
from pgproof.repository.repository import create_repository
from pgproof.timelines.lsn import LSN
from tests.drills.damage import answer
from tests.retention.archives import NOON, store_proof
from tests.servers.postgres import Source, now
from tests.wal.listings import name, source

REPORT = GapReport(0, 0, None, None, (), ())


def check(source: Source) -> WalCheck:
    session = Session.start(str(source.config_path), True)
    return check_wal(source.cluster, source.archive, now=now(), copies=session.copies(source.cluster))


class TestAge:
    """Only the source's clock, and unknown rather than below zero."""

    facts, since = source(9), NOON - timedelta(seconds=60)

    def test_age_of_the_newest_commit(self) -> None:
        newest = Newest(NOON - timedelta(seconds=30))
        assert _age(newest, self.facts, self.since, caught_up=False) == 30
        assert _age(newest, self.facts, self.since, caught_up=True) == 0
        assert _age(Newest(), self.facts, self.since, caught_up=False) == 60  # no commit behind the backup
        assert _age(Newest(fault="it is damaged"), self.facts, self.since, caught_up=False) is None

    def test_a_clock_that_went_back(self) -> None:
        assert _age(Newest(NOON + timedelta(hours=1)), self.facts, self.since, caught_up=False) is None

    def test_no_transaction_ended_since(self) -> None:
        newest, quiet = NOON - timedelta(hours=3), 744
        at = replace(self.facts, next_xid=(7 << 32) + 744)
        assert _age(Newest(newest, quiet), at, self.since, caught_up=False) == 0
        assert (
            _age(Newest(newest, quiet), replace(at, next_xid=(7 << 32) + 745), self.since, caught_up=False)
            == 10800
        )
        assert _age(Newest(newest, None), at, self.since, caught_up=False) == 10800


def test_rpo() -> None:
    breached = WalCheck(REPORT, rpo_seconds=301.0, rpo_target=300)
    assert (breached.rpo_breached, breached.ok) == (True, False)
    assert breached.findings == ("RPO breached: 301 s of commits would be lost now, the target is 300 s",)
    assert WalCheck(REPORT, rpo_seconds=300.0, rpo_target=300).ok
    assert not WalCheck(REPORT, doubts=("nobody knows what would be lost now",), rpo_target=300).ok


class TestStalled:
    """Finished segments that wait for longer than the grace; never a burst of a moment."""

    report = replace(REPORT, in_flight=3)
    facts = replace(source(9), settings={"archive_mode": "on", "archive_command": "x"})

    def archiver(self, ready: int | None, since: float, last: float) -> str:
        stats = ArchiverFacts(
            name(3), NOON - timedelta(seconds=last), None, None, ready, NOON - timedelta(seconds=since)
        )
        return _stalled(self.report, replace(self.facts, archiver=stats), 60)

    def test_files_wait(self) -> None:
        assert self.archiver(2, 61, 900) == (
            "the archiver stands still: 2 WAL files wait since 2026-11-23 11:58:59+0000; 3 segments are in flight"
        )

    def test_a_burst_after_a_quiet_time(self) -> None:
        assert self.archiver(2, 59, 900) == ""

    def test_a_role_that_may_not_look_at_the_files(self) -> None:
        assert self.archiver(None, 0, 61) == (
            "the archiver stands still: nothing was archived since 2026-11-23 11:58:59+0000; 3 segments are in flight"
        )
        assert self.archiver(None, 0, 59) == ""

    def test_one_segment_is_always_in_flight(self) -> None:
        assert _stalled(replace(REPORT, in_flight=1), source(9), 60) == ""

    def test_no_archiving_at_all(self) -> None:
        assert _stalled(self.report, source(9), 60) == (
            "the source does not archive (archive_mode, archive_command): 3 segments are in flight"
        )

    def test_a_standby_leaves_it_to_its_primary(self) -> None:
        assert _stalled(self.report, source(9, in_recovery=True), 60) == ""


def test_a_quiet_source_has_lost_nothing(shared: Source) -> None:
    """Its own records lie behind the archive's end, and no transaction ended after the newest archived commit."""
    shared.sql("INSERT INTO t VALUES (1)")
    shared.sql("CHECKPOINT")  # writes which transactions run: none
    shared.archive_now(commit=False)
    shared.sql("SELECT pg_log_standby_snapshot()")
    found = check(shared)
    assert found.report.lag is not None and found.report.lag > 40
    assert (found.rpo_seconds, found.lag_seconds) == (0.0, 0.0)
    shared.sql("INSERT INTO t VALUES (2)")
    time.sleep(0.05)
    found = check(shared)
    assert found.rpo_seconds is not None and found.rpo_seconds > 0.05
    assert found.lag_seconds == found.rpo_seconds


def test_a_gap_counts_as_lost_although_newer_wal_is_archived(source: Source) -> None:
    source.sql("CREATE TABLE t (g int)")
    source.backup()
    source.sql("INSERT INTO t VALUES (1)")
    first = source.archive_now()
    source.sql("INSERT INTO t VALUES (2)")
    lost = source.archive_now()
    time.sleep(0.2)
    source.sql("INSERT INTO t VALUES (3)")
    source.archive_now()
    source.stored(lost).unlink()
    found = check(source)
    assert [str(gap) for gap in found.report.gaps] == [lost]
    assert found.report.windows[0].to_time == found.newest_commit
    assert found.rpo_seconds is not None and found.rpo_seconds > 0.2
    assert found.lag_seconds is not None and found.lag_seconds < found.rpo_seconds
    assert first < lost


def test_a_gap_whose_only_way_round_is_a_failed_backup(source: Source) -> None:
    """What was committed since the gap is lost as far as we know, and the flow takes a new backup."""
    source.sql("CREATE TABLE t (g int)")
    first = source.backup()
    source.sql("INSERT INTO t VALUES (1)")
    source.archive_now()
    lost = source.archive_now()
    time.sleep(1)
    failed = source.backup()
    source.sql("INSERT INTO t VALUES (2)")
    source.archive_now()
    source.stored(lost).unlink()
    found = check(source)
    assert found.rpo_seconds is not None and found.rpo_seconds < 1
    assert not newest_is_lost(found.report)

    store_proof(source.archive, failed.label, now(), "not equal")
    time.sleep(0.1)
    found = check(source)
    assert found.newest_commit is not None and found.newest_commit < failed.stopped_at
    assert found.rpo_seconds is not None and found.rpo_seconds > 1
    assert newest_is_lost(found.report)
    assert not found.report.unusable  # the older one still reaches to the gap
    code, out, _ = answer(source, "wal", "check", "main")
    assert code == 1
    assert "its last drill failed" in out

    store_proof(source.archive, first.label, now(), "not equal")
    found = check(source)
    assert (found.rpo_seconds, found.newest_commit) == (None, None)
    reason = f"backup {failed.label}: its last drill failed"
    assert f"no recovery window can be relied on: {reason}" in found.findings


def test_slots(shared: Source) -> None:
    shared.sql("SELECT pg_create_physical_replication_slot('pgproof', true)")
    shared.sql("SELECT pg_create_physical_replication_slot('standby')")
    try:
        found = check(shared)
        out = answer(shared, "wal", "check", "main")[1]
    finally:
        shared.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    assert found.ok
    ours, other = found.slots
    assert (ours.name, ours.active, ours.wal_status) == ("pgproof", False, "reserved")
    assert ours.restart_lsn is not None and ours.lag is not None and ours.lag >= 0
    assert other == Slot("standby", False, None, None, None, None)
    assert found.as_dict()["slots"][1]["restart_lsn"] is None
    assert "slot: pgproof (wal receive): nobody reads from it, " in out
    assert "slot: standby: nobody reads from it, keeps no WAL, WAL not reserved\n" in out


@pytest.mark.parametrize("status", ["lost", "unreserved"])
def test_a_slot_that_falls_behind(status: str) -> None:
    ours, other = (Slot(name, False, LSN(1), 9, status, 0) for name in ("pgproof", "standby"))
    found = WalCheck(REPORT, slots=(ours, other), slot="pgproof")
    assert found.findings == (ours.fault,)
    assert found.notes == (other.fault,)
    assert ours.fault.startswith('slot "pgproof" is ')


def test_slot_that_the_server_has_given_up(source: Source) -> None:
    source.set(max_slot_wal_keep_size="1MB", max_wal_size="2MB", min_wal_size="2MB")
    source.backup()
    source.sql("SELECT pg_create_physical_replication_slot('pgproof', true)")
    for _ in range(8):
        source.archive_now()
    source.sql("CHECKPOINT")
    found = check(source)
    assert found.findings == ('slot "pgproof" is lost: the server has removed WAL that its reader needs',)


def test_copies(source: Source) -> None:
    extra = f'[repositories.second]\nurl = "file://{source.root}/second"\n[repositories.third]\nurl = "file://{source.root}/third"\n'
    source.backup()
    source.archive_now()
    lost, last = source.archive_now(), source.archive_now()
    source.write_config(
        cluster='copies = ["second", "third"]\nwal.push_timeout = "1s"\ntargets.rpo = "2s"', extra=extra
    )
    create_repository(source.config.repositories["second"])
    shutil.copytree(source.repository_path / "main", f"{source.root}/second/main")
    found = check(source)
    second, third = found.copies
    assert (second.lacks, second.error, second.fault) == ((), "", "")
    assert third.error.startswith(f'there is no repository at "file://{source.root}/third"')
    assert third.fault in found.findings

    create_repository(source.config.repositories["third"])
    copy = source.root / "second"
    (copy / source.stored(lost).relative_to(source.repository_path)).unlink()
    (copy / source.stored(last).relative_to(source.repository_path)).unlink()
    for segment in (lost, last):
        os.utime(source.stored(segment))
    second = check(source).copies[0]
    assert ([str(gap) for gap in second.lacks], second.overdue) == ([f"{lost} to {last} (2 segments)"], False)
    old = time.time() - 60
    for segment in (lost, last):
        os.utime(source.stored(segment), (old, old))
    code, out, _ = answer(source, "wal", "check", "main")
    assert code == 1
    assert f'finding: copy "second" lacks {lost} to {last} (2 segments)\n' in out
    assert f"copy: second: lacks 2 segments, first {lost}\n" in out

    shutil.copytree(source.repository_path / "main", copy / "main", dirs_exist_ok=True)
    source.stored(lost).unlink()
    second = check(source).copies[0]
    assert [str(gap) for gap in second.fills] == [lost]
    assert CopyCheck("x", error="why").as_dict()["error"] == "why"


def test_another_system_identifier_under_the_same_name(shared: Source) -> None:
    shared.write_config(cluster=f"system_identifier = {shared.archive.system_identifier}")
    shared.repository.store.put("main/42/wal/x", b"x")
    try:
        found = check(shared)
    finally:
        shared.write_config()
        shutil.rmtree(shared.repository_path / "main" / "42")
    assert found.ok
    assert found.notes == (
        "another system identifier has objects under this name, which were not looked at: 42; "
        "pgproof list NAME says how they go",
    )


def test_missing_history_file(source: Source) -> None:
    """Without it no recovery finds the way to the timeline, however whole its WAL is."""
    source.backup()
    source.archive_now()
    with source.away():
        (source.data / "standby.signal").touch()
    with connect(source.cluster) as connection:
        standby = read_facts(connection)
    assert (standby.in_recovery, standby.timeline) == (True, 1)
    assert check(source).ok
    source.sql("SELECT pg_promote()")
    source.archive_now()
    with connect(source.cluster) as connection:
        promoted = read_facts(connection)
    assert (promoted.in_recovery, promoted.timeline) == (False, 2)
    found = check(source)
    assert found.ok, found.findings
    assert found.report.windows[-1].timeline == 2
    source.stored("00000002.history").unlink()
    found = check(source)
    assert found.report.without_history == (2,)
    assert (
        "the history file of timeline 2 is missing: no recovery begins on it or finds the way to it"
        in found.findings
    )
