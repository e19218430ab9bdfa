"""Replication slots that go while WAL is received, and two receivers at once: an error or recovery, never a hole."""

from __future__ import annotations

import threading

import psycopg

from pgproof.timelines.lsn import LSN
from pgproof.wal.archive import list_wal
from tests.servers.postgres import Source
from tests.wal.receiving import (
    MB,
    assert_stored,
    confirmed,
    fill,
    flushed,
    receiving,
    switch,
    wait,
)


def test_two_receivers_of_one_repository(unarchived: Source) -> None:
    """On two hosts, each with a slot of its own: the same bytes come twice, in any order."""
    source = unarchived
    text = source.config_path.read_text()
    with receiving(source, slot="one") as one:
        one.wait_for("connected")
        first = confirmed(source, "one")
        source.config_path.write_text(text.replace("/state", "/elsewhere"))
        with receiving(source, slot="two") as two:
            two.wait_for("connected")
            for _ in range(12):
                fill(source, 300)
                switch(source)
            fill(source, 50)
            end = flushed(source)
            for slot in ("one", "two"):
                wait(lambda slot=slot: confirmed(source, slot) >= end, f"{slot} has not confirmed")
            assert_stored(source, end, first=first)
        fill(source, 50)
        end = flushed(source)
        wait(lambda: confirmed(source, "one") >= end, "one goes on alone")
    for running in (one, two):
        assert not {"trouble", "hole", "disconnected"} & set(running.kinds()), running.events
    assert_stored(source, end, first=first)


def dropped(source: Source) -> None:
    """Somebody ends the receiver's connection and drops its slot before it is back."""
    with source.connect() as connection:
        for _ in range(1000):
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active"
            )
            try:
                connection.execute("SELECT pg_drop_replication_slot('pgproof')")
            except psycopg.errors.ObjectInUse:
                continue
            return
    raise AssertionError("the slot cannot be dropped")


def test_a_slot_that_is_dropped_while_it_is_read(unarchived: Source) -> None:
    source = unarchived
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            switch(source)

    writer = threading.Thread(target=write)
    with receiving(source) as running:
        running.wait_for("connected")
        first = confirmed(source)
        writer.start()
        running.wait_for("segment", 3)
        dropped(source)
        running.wait_for("connected", 2)
        running.wait_for("segment", 6)
        stop.set()
        writer.join()
        end = flushed(source)
        wait(lambda: confirmed(source) >= end, "not confirmed")
    assert running.texts("slot") == ['made replication slot "pgproof"'] * 2
    assert running.result is not None
    assert running.result.holes == ()
    assert_stored(source, end, first=first)


def test_a_slot_that_the_server_invalidates_while_it_is_read(source: Source) -> None:
    """The repository is away, so that nothing is confirmed; what was received meanwhile is on the receiver's disk."""
    source.set(archive_mode="off", max_slot_wal_keep_size="2MB", max_wal_size="3MB", min_wal_size="2MB")
    with receiving(source) as running:
        running.wait_for("connected")
        first = confirmed(source)
        switch(source)
        running.wait_for("segment")
        away = source.root / "away"
        source.repository_path.rename(away)
        source.repository_path.write_text("no directory")
        for _ in range(8):
            switch(source)
        running.wait_for("trouble")
        source.sql("CHECKPOINT")
        assert source.sql("SELECT wal_status FROM pg_replication_slots") == [("lost",)]
        running.wait_for("disconnected")
        for _ in range(8):
            switch(source)
            source.sql("CHECKPOINT")
        source.repository_path.unlink()
        away.rename(source.repository_path)
        running.wait_for("connected", 2)
        switch(source)
        end = flushed(source)
        running.wait_for("recovered", timeout=60)
        wait(lambda: _confirms(source, end), f"not confirmed: {running.events}", 60)
        assert source.sql("SELECT wal_status FROM pg_replication_slots") == [("reserved",)]
    assert running.result is not None
    numbers = list(list_wal(source.archive, MB).numbers[1])
    missing = [n for n in range(first // MB, end // MB) if n not in numbers]
    told = {n for hole in running.result.holes for n in range(hole.first // MB, -(-hole.end // MB))}
    assert set(missing) <= told, (running.events, missing)


def _confirms(source: Source, end: LSN) -> bool:
    rows = source.sql("SELECT restart_lsn::text FROM pg_replication_slots WHERE restart_lsn IS NOT NULL")
    return bool(rows) and LSN.parse(rows[0][0]) >= end
