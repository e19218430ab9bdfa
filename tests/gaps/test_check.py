"""The gap check as a whole: archive, catalog and a real source looked at together."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta

import pytest

from pgproof.errors import WrongSystem
from pgproof.gaps.check import WalCheck, check_wal
from pgproof.repository.repository import Archive
from pgproof.retention.expire import gather_facts
from pgproof.retention.plan import plan_expire
from pgproof.wal.archive import list_wal
from tests.drills.damage import answer
from tests.servers.postgres import Source, now


def check(source: Source, **options: bool) -> WalCheck:
    return check_wal(source.cluster, source.archive, now=now(), **options)


def fails_at(source: Source, name: str) -> None:
    query = "SELECT last_failed_wal = %s AND last_failed_time > last_archived_time FROM pg_stat_archiver"
    source.server.wait(lambda: source.sql(query, name)[0][0], 60, "to fail")


def test_idle_source_loses_nothing(shared: Source) -> None:
    for _ in range(3):  # the server may write a record of its own in between
        shared.archive_now()
        committed = now()
        found = check(shared, content=True)
        if found.report.lag == 0:
            break
    assert found.ok
    assert (found.report.in_flight, found.report.lag, found.rpo_seconds) == (0, 0, 0.0)
    assert found.newest_commit is not None
    assert committed - timedelta(seconds=30) < found.newest_commit <= committed
    assert found.report.damaged == ()
    assert sum(run.count for run in found.report.needed) >= 2


def test_what_is_not_archived_yet_is_in_flight(shared: Source) -> None:
    shared.archive_now()
    shared.sql("INSERT INTO t VALUES (1)")
    found = check(shared)
    assert found.ok
    assert found.report.in_flight == 1
    assert found.report.lag is not None
    assert 40 < found.report.lag < 1 << 20
    assert found.rpo_seconds is not None
    assert 0 < found.rpo_seconds < 60


def test_source_that_is_gone(shared: Source) -> None:
    shared.write_config(dsn="host=/nowhere user=pgproof dbname=postgres")
    try:
        found = check(shared, content=True)
    finally:
        shared.write_config()
    assert found.findings == (
        f"the source did not answer, and nobody knows what it has that is not archived: {found.source_error}",
    )
    assert found.source_error.startswith('could not connect to cluster "main": connection is bad: ')
    assert (found.report.in_flight, found.report.lag, found.rpo_seconds) == (0, None, None)
    assert found.newest_commit is not None
    assert found.report.windows


def test_invariant_6_source_of_another_system_identifier(shared: Source) -> None:
    archive = Archive(shared.repository, shared.repository.archive("main", 42).layout)
    with pytest.raises(WrongSystem):
        check_wal(shared.cluster, archive)


def test_archive_without_any_backup(shared: Source) -> None:
    """WAL alone: nothing can be recovered, and nothing is called a gap; that must not look like an archive in order."""
    path = shared.repository_path / shared.archive.layout.backups.rstrip("/")
    path.rename(shared.root / "aside")
    try:
        found = check(shared)
        code, out, _ = answer(shared, "wal", "check", "main")
    finally:
        (shared.root / "aside").rename(path)
    assert found.findings == ("there is no backup: nothing can be recovered from WAL alone",)
    assert found.report.windows == ()
    assert (code, out.splitlines()[0]) == (1, "nothing can be recovered: there is no backup")
    assert found.report.segments > 0


def test_a_failing_archiver_is_not_in_order(shared: Source) -> None:
    """Segments are pushed several at once: a newer one is there, and one that the archiver fails at is not."""
    path = shared.repository_path / shared.archive.layout.backups.rstrip("/")
    command = shared.archive_command
    shared.set(archive_command="/bin/false")
    try:
        shared.sql("SELECT pg_current_xact_id()")
        failing = shared.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        shared.sql("SELECT pg_current_xact_id()")
        newer = shared.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        fails_at(shared, failing)
        assert shared.run("wal", "push", str(shared.data / "pg_wal" / newer)).returncode == 0
        stored = shared.stored(failing)  # by the background process, which takes all that is ready
        shared.server.wait(stored.exists, 60, "to be pushed")
        path.rename(shared.root / "aside")
        stored.rename(shared.root / "segment")
        lacking = answer(shared, "wal", "check", "main")[1]
        (shared.root / "segment").rename(stored)
        pushed = answer(shared, "wal", "check", "main")[1]
    finally:
        (shared.root / "aside").rename(path)
        shared.set(archive_command=command)
        shared.archive_now()
    for out in (lacking, pushed):
        assert f"finding: the archiver is failing: {failing} failed at " in out
        assert "the archive has all of it" not in out
    assert "source: 1 segment in flight, " in lacking


def test_what_retention_removed_is_no_gap(source: Source) -> None:
    """An old backup that is kept keeps its own WAL; what lies between it and the windows has expired."""
    source.write_config(
        cluster='retention.wal_window = "0s"\nretention.daily = 1\nretention.weekly = 0\nretention.monthly = 0'
    )
    old = source.backup()
    source.sql("CREATE TABLE t (g int)")
    removed = [source.archive_now() for _ in range(3)]
    for _ in range(2):
        time.sleep(1.05)
        newest = source.backup()
    archive = source.archive
    assert answer(source, "hold", "main", old.label, "--reason", "the auditor")[0] == 0
    expired = answer(source, "expire", "main")
    assert expired[0] == 0, expired

    listing = list_wal(archive, 1 << 20)
    assert old.first_segment in listing
    assert not {int(name[8:], 16) for name in removed} & set(listing.numbers[1])
    found = check(source)
    assert found.ok, found.report.gaps
    first, *others = found.report.windows
    assert (first.backup, first.expired, first.broken_by, first.end) == (
        old.label,
        True,
        None,
        old.last_segment.end,
    )
    assert not any(window.expired for window in others)
    code, out, _ = answer(source, "wal", "check", "main")
    assert code == 0
    assert "older: WAL after it is expired" in out
    source.server.stop("fast")
    assert check_wal(source.cluster, archive).report.ok  # without anybody's clock

    source.stored(newest.first_segment.name).unlink()  # but a window that retention promises is one
    found = check(source)
    assert [str(gap) for gap in found.report.gaps] == [newest.first_segment.name]
    facts = gather_facts(archive, source.cluster.retention, now())
    assert plan_expire(facts).remove_wal == ()


def test_content_of_what_no_recovery_needs_is_not_read(source: Source) -> None:
    """Damage before the oldest backup is no finding: nothing would ever read it."""
    name = source.archive_now()
    source.backup()
    path = source.stored(name)
    shutil.copy(path, source.root / "kept")
    path.write_bytes(b"x")
    assert check(source, content=True).ok
