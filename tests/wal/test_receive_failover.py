"""A failover while WAL is received: the rest of the old timeline, then the new one, without a hole."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pgproof.postgres.server import LocalServer
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.wal.archive import list_wal
from tests.drills.damage import answer
from tests.servers.postgres import Source
from tests.wal.receiving import (
    MB,
    assert_stored,
    confirmed,
    fill,
    flushed,
    receive_until,
    receiving,
    switch,
    wait,
)
from tests.wal.recovering import base_backup, recovered


@pytest.fixture
def source(any_unarchived: Source) -> Source:
    any_unarchived.sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    # before any base backup, so that the repository gets all WAL that one needs
    done = answer(any_unarchived, "wal", "receive", "main", "--create-slot")
    assert done == (0, 'replication slot "pgproof" made\n', "")
    return any_unarchived


@contextmanager
def standby_of(source: Source, name: str = "standby", dsn: str = "", **more: str) -> Iterator[LocalServer]:
    """A streaming standby beside the source, of the server at the DSN."""
    data = source.root / name
    dsn = dsn or source.dsn()
    command = [str(source.bin / "pg_basebackup"), "-D", str(data), "-d", dsn, "-R", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True)
    settings = {"archive_mode": "off", "wal_keep_size": "512MB", "wal_retrieve_retry_interval": "100ms"}
    standby = source.start_copy(data, name, **{**settings, **more})
    try:
        standby.wait_ready()
        yield standby
    finally:
        standby.stop("immediate")


def sql(server: LocalServer, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(f"{server.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def caught_up(source: Source, standby: LocalServer) -> None:
    end = flushed(source)
    wait(
        lambda: LSN.parse(str(sql(standby, "SELECT pg_last_wal_replay_lsn()::text")[0][0])) >= end,
        "the standby does not catch up",
    )


def end_of(server: LocalServer) -> LSN:
    return LSN.parse(str(sql(server, "SELECT pg_current_wal_flush_lsn()::text")[0][0]))


def fork_of(standby: LocalServer) -> LSN:
    text = (standby.data / "pg_wal" / "00000002.history").read_text()
    return LSN.parse(text.split()[1])


def test_following_a_failover(source: Source) -> None:
    """The DSN names both servers; the receiver finds the new primary by itself."""
    base = base_backup(source)
    with standby_of(source) as standby:
        source.write_config(
            cluster='wal.partial_interval = "1s"',
            dsn=f"host={source.root}/s,{standby.socket} user=pgproof dbname=postgres target_session_attrs=primary",
        )
        with receiving(source) as running:
            running.wait_for("connected")
            first = confirmed(source)
            source.sql("INSERT INTO t SELECT generate_series(1, 20000)")
            end = flushed(source)
            wait(lambda: confirmed(source) >= end, "not confirmed")
            caught_up(source, standby)
            source.server.stop("immediate")
            sql(standby, "SELECT pg_promote()")
            sql(standby, "INSERT INTO t SELECT generate_series(20001, 40000)")
            running.wait_for("timeline", timeout=60)
            end = end_of(standby)
            query = "SELECT restart_lsn::text FROM pg_replication_slots"
            wait(lambda: LSN.parse(str(sql(standby, query)[0][0])) >= end, "not confirmed", 60)
        assert "hole" not in running.kinds()
        fork = fork_of(standby)
        assert_stored(source, fork, first=first, timeline=1)
        assert_stored(source, end, first=fork, timeline=2, data=standby.data)
        listing = list_wal(source.archive, MB)
        assert listing.histories[2].path == (1, 2)
    with recovered(source, base, source.archive) as connection:
        assert connection.execute("SELECT count(*), max(id) FROM t").fetchone() == (40000, 40000)


def test_the_server_that_is_followed_is_promoted(source: Source) -> None:
    """A receiver of a standby: its own timeline ends under its hands."""
    with standby_of(source) as standby:
        source.write_config(
            cluster='wal.partial_interval = "1s"',
            dsn=f"host={standby.socket} user=pgproof dbname=postgres",
        )
        with receiving(source) as running:
            running.wait_for("connected")
            for _ in range(3):
                switch(source)
            fill(source, 300)
            caught_up(source, standby)
            sql(standby, "SELECT pg_promote()")
            event = running.wait_for("timeline")
            fork = fork_of(standby)
            assert event.text == f"timeline 1 ended at {fork}; going on with timeline 2"
            sql(standby, "INSERT INTO t SELECT generate_series(1, 30000)")
            end = end_of(standby)
            query = "SELECT restart_lsn::text FROM pg_replication_slots"
            wait(lambda: LSN.parse(str(sql(standby, query)[0][0])) >= end, "not confirmed")
        assert "disconnected" not in running.kinds()
        assert "hole" not in running.kinds()
        assert_stored(source, fork, timeline=1)
        assert_stored(source, end, first=fork, timeline=2, data=standby.data)


def test_a_standby_that_lacked_the_newest_wal_takes_over(source: Source) -> None:
    """What was received of the old timeline after the fork is of another future: it stays, and the new is whole."""
    base = base_backup(source)
    with standby_of(source) as standby:
        with receiving(source) as running:
            running.wait_for("connected")
            source.sql("INSERT INTO t SELECT generate_series(1, 1000)")
            caught_up(source, standby)
            standby.stop("fast")
            source.sql("INSERT INTO t SELECT generate_series(1001, 30000)")
            lost = flushed(source)
            wait(lambda: confirmed(source) >= lost, "not confirmed")
        source.server.stop("immediate")
        (standby.data / "postgresql.auto.conf").write_text("")
        standby.start()
        standby.wait_ready()
        sql(standby, "SELECT pg_promote()")
        sql(standby, "INSERT INTO t SELECT generate_series(50001, 52000)")
        end, fork = end_of(standby), fork_of(standby)
        assert fork < lost
        source.write_config(
            cluster='wal.partial_interval = "1s"',
            dsn=f"host={standby.socket} user=pgproof dbname=postgres",
        )
        result, events = receive_until(source, end)
        assert result.timeline == 2 and result.holes == (), events
        assert_stored(source, lost, timeline=1)
        assert_stored(source, end, first=fork, timeline=2, data=standby.data)
    with recovered(source, base, source.archive) as connection:
        row = connection.execute("SELECT count(*), max(id) FROM t").fetchone()
        assert row == (3000, 52000)


def test_two_failovers_within_one_segment(source: Source) -> None:
    """The last server has the segment of the second timeline only as ``.partial``; its own copy holds all of it."""
    base = base_backup(source)
    archiving = {"archive_mode": "on", "archive_command": "/bin/true"}
    with (
        standby_of(source, **archiving) as one,
        standby_of(
            source, "other", f"host={one.socket} port={one.port} user=postgres dbname=postgres", **archiving
        ) as two,
    ):
        switch(source)
        source.sql("INSERT INTO t VALUES (1)")
        receive_until(source, flushed(source))
        caught_up(source, two)
        source.server.stop("immediate")
        sql(one, "SELECT pg_promote()")
        sql(one, "INSERT INTO t VALUES (2)")
        end = end_of(one)
        replayed = "SELECT pg_last_wal_replay_lsn()::text"
        wait(lambda: LSN.parse(str(sql(two, replayed)[0][0])) >= end, "the second standby does not follow")
        one.stop("immediate")
        sql(two, "SELECT pg_promote()")
        wait(lambda: sql(two, "SELECT pg_is_in_recovery()") == [(False,)], "not promoted")
        sql(two, "CHECKPOINT")
        history = TimelineHistory.parse(3, (two.data / "pg_wal" / "00000003.history").read_text())
        assert len({fork.lsn // MB for fork in history.forks}) == 1
        assert len(list((two.data / "pg_wal").glob("00000002*.partial"))) == 1
        sql(two, "ALTER SYSTEM SET synchronous_standby_names = 'pgproof'")
        sql(two, "SELECT pg_reload_conf()")
        source.write_config(
            cluster='wal.partial_interval = "1s"',
            dsn=f"host={two.socket} user=pgproof dbname=postgres",
        )
        with receiving(source, synchronous=True) as running:
            running.wait_for("connected")
            sql(two, "INSERT INTO t VALUES (3)")
            end = end_of(two)
            query = "SELECT restart_lsn::text FROM pg_replication_slots WHERE active"
            wait(lambda: LSN.parse(str(sql(two, query)[0][0])) >= end, "not confirmed")
        assert "hole" not in running.kinds()
        assert running.kinds().count("timeline") == 1
        assert_stored(source, end, first=history.forks[0].lsn, timeline=3, data=two.data)
    with recovered(source, base, source.archive) as connection:
        assert connection.execute("SELECT array_agg(id ORDER BY id) FROM t").fetchone() == ([1, 2, 3],)
