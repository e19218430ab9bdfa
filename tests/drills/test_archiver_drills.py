"""The archiver on real servers: killed, stormed, stopped, promoted. No acknowledged segment is ever missing."""

from __future__ import annotations

import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from pgproof.gaps.check import check_wal
from pgproof.wal.archive import find_key
from tests.drills.damage import answer
from tests.servers.postgres import Source, now
from tests.wal.spooled import processes, until


def acknowledged(source: Source) -> list[str]:
    """The files that PostgreSQL was told are archived and still has."""
    status = source.data / "pg_wal" / "archive_status"
    return sorted(path.name.removesuffix(".done") for path in status.glob("*.done"))


def assert_archived(source: Source) -> list[str]:
    """Every acknowledged file that is still there is in the archive, byte for byte."""
    names = acknowledged(source)
    for name in names:
        path = source.data / "pg_wal" / name
        if path.exists():
            assert b"".join(source.archive.open(find_key(source.archive, name))) == path.read_bytes(), name
    return names


def newest_commit(source: Source) -> datetime | None:
    return check_wal(source.cluster, source.archive, now=now()).newest_commit


def storm(source: Source, count: int) -> None:
    """Finish many segments in a row, each with a row."""
    with source.connect() as connection:
        for number in range(count):
            connection.execute("INSERT INTO t VALUES (%s)", (number,))
            connection.execute("SELECT pg_switch_wal()")


def test_storm_of_switches(any_source: Source) -> None:
    source = any_source
    source.sql("CREATE TABLE t (g int)")
    record = source.backup()
    storm(source, 60)
    source.archive_now()
    found = check_wal(source.cluster, source.archive, now=now(), content=True)
    assert found.ok, found.as_dict()
    assert found.report.segments >= 60
    assert_archived(source)
    assert len(processes(source.root)) == 1
    assert (
        answer(source, "restore", "main", "--to", str(source.root / "copy"), "--backup", record.label)[0] == 0
    )
    with source.copy(source.root / "copy") as connection:
        assert connection.execute("SELECT count(*), sum(g) FROM t").fetchone() == (60, 1770)


def test_everything_is_killed_again_and_again(source: Source) -> None:
    """The pusher, the command, the server: whatever dies, the next one goes on."""
    source.sql("CREATE TABLE t (g int)")
    source.backup()
    written = 0
    for turn in range(6):
        storm(source, 15)
        written += 15
        for process in processes(source.root):
            os.kill(process, signal.SIGKILL)
        if turn % 2:
            source.server.stop("immediate")
            source.server.start()
            source.server.wait_ready()
    source.archive_now()
    assert_archived(source)
    assert check_wal(source.cluster, source.archive, now=now(), content=True).ok
    assert answer(source, "restore", "main", "--to", str(source.root / "copy"))[0] == 0
    with source.copy(source.root / "copy") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (written,)


def test_a_server_that_stops_takes_its_last_segment_along(source: Source) -> None:
    """At a shutdown PostgreSQL archives what it has; the pusher does not outlive the server for long."""
    source.sql("CREATE TABLE t (g int)")
    source.archive_now()
    newest = source.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")[0][0]
    source.sql("INSERT INTO t VALUES (1)")
    started = time.monotonic()
    source.server.stop("fast")
    assert time.monotonic() - started < 20
    assert newest in acknowledged(source)  # XLOG_SWITCH at the end of a shutdown of an archiving server
    assert_archived(source)
    until(lambda: not processes(source.root), 10, "the pusher ends with the server")


def test_the_servers_log_does_not_wait_for_the_pusher(source: Source) -> None:
    """A background process that held the log's pipe would keep the collector, and its file, alive."""
    source.set(logging_collector="on", log_directory=str(source.root / "logs"))
    source.archive_now()
    assert processes(source.root)
    (collector,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and b"logger" in _command(entry) and str(source.server.pid) == _parent(entry)
    ]
    pusher = processes(source.root)
    os.kill(pusher[0], signal.SIGSTOP)  # it could not end by itself now
    try:
        source.server.stop("fast")
        until(lambda: not Path(f"/proc/{collector}").exists(), 5, "the collector has ended")
    finally:
        os.kill(pusher[0], signal.SIGCONT)


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def _parent(entry: Path) -> str:
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def test_an_idle_server_archives_its_last_commit(source: Source) -> None:
    source.sql("CREATE TABLE t (g int)")
    source.backup()
    source.sql("ALTER SYSTEM SET archive_timeout = 1")
    source.sql("SELECT pg_reload_conf()")
    before = source.sql("SELECT clock_timestamp()")[0][0]
    source.sql("INSERT INTO t VALUES (42)")
    until(lambda: (newest_commit(source) or before) > before, 30, "the commit is in the repository")
    source.server.stop("immediate")
    assert answer(source, "restore", "main", "--to", str(source.root / "copy"))[0] == 0
    with source.copy(source.root / "copy") as connection:
        assert connection.execute("SELECT g FROM t").fetchall() == [(42,)]


def test_a_standby_is_promoted_while_the_source_archives(source: Source) -> None:
    """Both archive to one place for a while: two timelines, and each segment of both is there."""
    source.sql("CREATE TABLE t (g int)")
    source.backup()
    words = ["restore", "main", "--to", str(source.root / "standby"), "--standby", "--take-over"]
    assert answer(source, *words)[0] == 0
    source.archive_now()
    archiving = {"archive_mode": "on", "archive_command": source.archive_command}
    standby = source.start_copy(source.root / "standby", "standby", **archiving)
    try:
        standby.wait(standby.accepts, 30, "to follow")
        storm(source, 5)
        import psycopg

        with psycopg.connect(f"{standby.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")
            storm(source, 5)
            connection.execute("INSERT INTO t VALUES (1000)")
            name = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
            assert name is not None and name[0].startswith("00000002")
            query = "SELECT coalesce(last_archived_wal >= %s, false) FROM pg_stat_archiver"
            until(lambda: (connection.execute(query, name).fetchone() or [False])[0], 30)
        source.archive_now()
    finally:
        standby.stop("fast")
    assert_archived(source)
    found = check_wal(source.cluster, source.archive, now=now(), content=True)
    assert not found.report.gaps, found.as_dict()
    assert {window.timeline for window in found.report.windows} == {1, 2}
    for timeline, rows in (("1", 10), ("2", 6)):
        target = source.root / f"copy-{timeline}"
        assert answer(source, "restore", "main", "--to", str(target), "--target-timeline", timeline)[0] == 0
        with source.copy(target) as connection:
            count = connection.execute("SELECT count(*), bool_or(g = 1000) FROM t").fetchone()
        assert count is not None
        assert (count[1] or False) == (timeline == "2")
        assert count[0] >= rows - 5


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which makes fsync fail, is not installed")
@pytest.mark.parametrize("failing", ["every", "some"])
def test_a_store_that_fails(source: Source, failing: str) -> None:
    """The disk gives I/O errors on every fsync, or on every third: the archiver asks again until all is stored."""
    source.sql("CREATE TABLE t (g int)")
    when = "1+" if failing == "every" else "3+3"
    command = source.archive_command.removeprefix("exec ")
    source.backup()
    source.write_config("wal.linger = 0")  # strace ends when everything that it traces has ended
    faulty = f"exec strace -qq -f -o /dev/null -e trace=fsync -e inject=fsync:error=EIO:when={when} {command}"
    source.set(archive_command=faulty)
    storm(source, 6)
    if failing == "every":
        until(lambda: source.sql("SELECT failed_count > 0 FROM pg_stat_archiver")[0][0], 30, "it fails")
    assert_archived(source)
    source.set(archive_command=source.archive_command)
    source.archive_now()
    assert_archived(source)
    assert check_wal(source.cluster, source.archive, now=now(), content=True).ok
