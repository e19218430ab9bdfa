"""The timeline changes while a standby is backed up: a whole backup of the new one, or an error that says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from pgproof.backups.base_backup import take_backup
from pgproof.backups.record import BackupRecord
from pgproof.errors import TransientError
from pgproof.postgres.server import LocalServer
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source
from tests.wal.receiving import wait
from tests.wal.test_receive_failover import caught_up, sql, standby_of


@pytest.fixture
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql("CREATE TABLE t AS SELECT g, repeat('x', 1000) AS v FROM generate_series(1, 20000) g")
        yield made


def taken(source: Source, server: LocalServer, meanwhile: Callable[[], None]) -> BackupRecord:
    """A backup of a server; something happens when some of it was read, and it goes on when that is over."""
    source.write_config(dsn=f"host={server.socket} port={server.port} user=pgproof dbname=postgres")
    lock, done = threading.Lock(), threading.Event()

    def progress(_: int) -> None:
        with lock:
            if not done.is_set():
                done.set()
                meanwhile()

    record = take_backup(source.cluster, source.repository, now, progress=progress)
    assert done.is_set()
    return record


def promote(server: LocalServer) -> None:
    sql(server, "SELECT pg_promote()")
    wait(lambda: sql(server, "SELECT pg_is_in_recovery()") == [(False,)], "not promoted")


def test_the_standby_itself_is_promoted(source: Source) -> None:
    with standby_of(source) as standby:
        caught_up(source, standby)
        with pytest.raises(TransientError) as caught:
            taken(source, standby, lambda: promote(standby))
    assert caught.value.fact == (
        "could not finish the backup: the standby was promoted, from timeline 1 to timeline 2"
    )
    assert not list(source.repository_path.rglob("base-*"))


def test_the_server_that_it_follows_is_promoted(source: Source) -> None:
    """Its WAL begins on the old timeline and ends on the new one: it waited for files that no server ever archives."""
    archiving = {"archive_mode": "on", "archive_command": source.archive_command}
    with (
        standby_of(source, "next", **archiving) as upstream,
        standby_of(source, "cascade", f"host={upstream.socket} user=postgres") as standby,
    ):

        def failover() -> None:
            source.archive_now()
            caught_up(source, standby)
            source.server.stop("fast")
            promote(upstream)
            sql(upstream, "INSERT INTO t VALUES (0)")
            sql(upstream, "CHECKPOINT")
            sql(upstream, "SELECT pg_switch_wal()")
            wait(lambda: sql(standby, "SELECT count(*) FROM t WHERE g = 0") == [(1,)], "does not follow")
            sql(standby, "CHECKPOINT")

        try:
            with pytest.raises(TransientError) as caught:
                taken(source, standby, failover)
            assert caught.value.fact == (
                "could not finish the backup: the standby went over from timeline 1 to timeline 2"
            )
            assert not list(source.repository_path.rglob("base-*"))
            again = take_backup(source.cluster, source.repository, now)
        finally:
            source.server.start()
        assert again.timeline == 2
    data = source.root / "restored"
    code, out, err = answer(source, "restore", "main", "--to", str(data), "--target-timeline", "2")
    assert code == 0, out + err
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (20001,)
