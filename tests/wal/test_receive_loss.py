"""What is left when the source is lost: every row that was acknowledged, from what was received alone."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgproof.errors import ServerUnreachable
from pgproof.repository.repository import create_repository
from pgproof.wal.parts import list_parts
from pgproof.wal.receiving.receive import Receiver
from tests.servers.postgres import Source
from tests.wal.receiving import (
    assert_stored,
    confirmed,
    fill,
    flushed,
    process,
    receiving,
    request,
    switch,
    wait,
    wait_connected,
)
from tests.wal.recovering import base_backup, recovered


@pytest.fixture
def source(unarchived: Source) -> Source:
    unarchived.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    return unarchived


class Writer:
    """Commits rows one after the other, and knows which were acknowledged."""

    def __init__(self, source: Source, synchronous_commit: str = "on") -> None:
        self.acknowledged = 0
        self._source, self._level = source, synchronous_commit
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _write(self) -> None:
        try:
            with psycopg.connect(self._source.dsn(), autocommit=True) as connection:
                connection.execute(f"SET synchronous_commit = {self._level}".encode())
                while True:
                    connection.execute(
                        "INSERT INTO t VALUES (%s, repeat('v', 200))", (self.acknowledged + 1,)
                    )
                    self.acknowledged += 1
        except psycopg.Error:  # the server was killed
            return


def test_rows_after_a_restore_from_parts(source: Source) -> None:
    """Seconds are lost, not a segment: what is confirmed is there."""
    base = base_backup(source)
    with receiving(source) as running:
        running.wait_for("connected")
        source.sql("INSERT INTO t SELECT g, 'v' FROM generate_series(1, 5000) g")
        end = flushed(source)
        wait(lambda: confirmed(source) >= end, "not confirmed")
        source.server.stop("immediate")
    assert len(list_parts(source.archive)) == 1
    with recovered(source, base, source.archive) as connection:
        assert connection.execute("SELECT count(*), max(id) FROM t").fetchone() == (5000, 5000)


@pytest.mark.parametrize("level", ["remote_write", "on"])
def test_synchronous_every_acknowledged_commit_is_there(source: Source, level: str) -> None:
    """The receiver is killed, the source is lost at once: its disk has every acknowledged commit, RPO 0."""
    base = base_backup(source)
    source.write_config(cluster='wal.partial_interval = "1h"\nwal.synchronous = true')
    with process(source) as running:
        wait_connected(source)
        source.set(synchronous_standby_names="pgproof")
        wait_connected(source, 1)
        with Writer(source, level) as writer:
            wait(lambda: writer.acknowledged > 500, "too few commits")
            running.kill()
            running.wait()
            time.sleep(0.5)
            stuck = writer.acknowledged
            time.sleep(1)
            assert writer.acknowledged == stuck  # without the receiver no commit returns
            source.server.stop("immediate")
    # a new run on the same machine, whose server never answers again, stores what its disk holds
    with pytest.raises(ServerUnreachable):
        Receiver(request(source, seconds=3), lambda event: None).run()
    with recovered(source, base, source.archive) as connection:
        row = connection.execute("SELECT count(*), max(id) FROM t").fetchone()
    assert row is not None and row[0] == row[1]
    assert stuck <= row[0] <= stuck + 1  # one was on its way


def test_a_synchronous_receiver_is_seen_as_one(source: Source) -> None:
    source.set(synchronous_standby_names="pgproof")
    with receiving(source, synchronous=True) as running:
        running.wait_for("connected")
        query = "SELECT sync_state, flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication"
        wait(lambda: source.sql(query) == [("sync", True)], "not synchronous")
        begin = time.monotonic()
        for number in range(100):
            source.sql("INSERT INTO t VALUES (%s, 'v')", number)
        assert time.monotonic() - begin < 30
        source.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
        source.sql("SELECT pg_reload_conf()")


def with_a_copy(source: Source, quorum: int) -> None:
    """A second repository."""
    source.write_config(
        cluster=f'wal.partial_interval = "1s"\nwal.quorum = {quorum}\ncopies = ["copy"]',
        extra=f'[repositories.copy]\nurl = "file://{source.root}/second"',
    )
    create_repository(source.config.repositories["copy"])


@pytest.mark.parametrize("quorum", [0, 1])
def test_two_repositories_one_of_them_away(source: Source, quorum: int) -> None:
    """With every one wanted nothing is confirmed meanwhile; with a quorum of one it is, and the other catches up."""
    with_a_copy(source, quorum)
    second = source.root / "second"
    with receiving(source) as running:
        running.wait_for("connected")
        first = confirmed(source)
        switch(source)
        running.wait_for("segment", 2)
        second.rename(source.root / "away")
        second.write_text("no directory")
        stuck = confirmed(source)
        for _ in range(4):
            switch(source)
        end = flushed(source)
        running.wait_for("trouble")
        if quorum:
            wait(lambda: confirmed(source) >= end, "not confirmed")
            assert_stored(source, end, first=first)
        else:
            time.sleep(2)
            assert confirmed(source) < end
            assert confirmed(source) - stuck <= 1 << 20
        second.unlink()
        (source.root / "away").rename(second)
        running.wait_for("recovered", timeout=60)
        wait(lambda: confirmed(source) >= end, "not confirmed", 60)
    assert running.result is not None and running.result.stored >= end
    for opened in request(source).archives.values():
        assert_stored(source, end, first=first, archive=opened(source.archive.system_identifier))


def test_the_lag_of_the_slot_is_reported(source: Source) -> None:
    source.write_config(cluster='wal.partial_interval = "0s"')
    with receiving(source) as running:
        running.wait_for("connected")
        fill(source, 700)
        switch(source)
        switch(source)
        running.wait_for("segment", 2)
        lags = [event.values["lag_bytes"] for event in running.events if event.kind == "segment"]
        query = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots"
        assert all(0 <= lag < 4 << 20 for lag in lags) and max(lags) > 0
        wait(lambda: source.sql(query)[0][0] < 1 << 20, "the slot stays behind")
        assert "part" not in running.kinds()
