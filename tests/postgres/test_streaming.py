"""Streaming replication, read from real servers: every byte equal to the server's own pg_wal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgproof.errors import ObjectMissing, PrivilegeMissing, ServerNotReady, SlotInUse
from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.streaming import (
    Keepalive,
    StreamEnd,
    WalData,
    WalStream,
    create_slot,
    drop_slot,
    history_of_server,
    read_segment,
    read_slot,
)
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from tests.deployments.upped import until
from tests.servers.postgres import Source, running_source

MB = 1 << 20


@contextmanager
def connection(source: Source) -> Iterator[ReplicationConnection]:
    with ReplicationConnection(source.cluster) as made:
        yield made


def finish_segment(source: Source) -> WalSegment:
    """Write something, and end the segment that it is in."""
    source.sql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 20000))")
    name = source.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    return WalSegment.parse(name, MB)


def on_disk(source: Source, segment: WalSegment) -> bytes:
    return (source.data / "pg_wal" / segment.name).read_bytes()


@pytest.fixture(scope="module")
def shared() -> Iterator[Source]:
    with running_source(17, wal_keep_size="64MB") as source:
        yield source


def test_a_whole_segment_of_every_version(any_source: Source) -> None:
    any_source.set(wal_keep_size="64MB")
    segments = [finish_segment(any_source) for _ in range(4)]
    with connection(any_source) as used:
        for segment in segments:  # one connection, one after the other
            assert read_segment(used, segment) == on_disk(any_source, segment)
        create_slot(used, "one")
        slot = read_slot(used, "one")
        assert slot is not None and slot.restart_lsn is not None and slot.timeline == 1
        drop_slot(used, "one")
        assert read_slot(used, "one") is None


def test_a_segment_that_is_not_whole_yet(shared: Source) -> None:
    end = LSN.parse(shared.sql("SELECT pg_current_wal_flush_lsn()")[0][0])
    segment = WalSegment.containing(1, end, MB)
    with connection(shared) as used, pytest.raises(ObjectMissing) as caught:
        read_segment(used, segment)
    assert caught.value.fact == f'cluster "main" does not have WAL segment "{segment}" whole'
    assert caught.value.detail.startswith("Its WAL ends at ")


def test_a_segment_that_the_server_removed(source: Source) -> None:
    first = finish_segment(source)
    for _ in range(3):
        finish_segment(source)
    last = finish_segment(source)
    source.archive_now()
    source.sql("CHECKPOINT")
    source.sql("CHECKPOINT")
    assert not (source.data / "pg_wal" / first.name).exists()
    with connection(source) as used:
        with pytest.raises(ObjectMissing) as caught:
            read_segment(used, first)
        assert str(caught.value) == (
            'cluster "main" does not have the WAL that was asked for\n'
            f"DETAIL: ERROR: requested WAL segment {first} has already been removed"
        )
        source.sql("SELECT 1")
        newest = WalSegment.containing(1, used.identify_system().flush_lsn, MB)
        assert newest.number > last.number  # and the connection can still be used


def test_a_timeline_that_never_was(shared: Source) -> None:
    segment = finish_segment(shared).on(7)
    with connection(shared) as used, pytest.raises(ObjectMissing) as caught:
        read_segment(used, segment)
    assert caught.value.detail.endswith("on timeline 1.")


def test_stream_from_the_middle_of_a_segment_and_stop(shared: Source) -> None:
    segment = finish_segment(shared)
    start = LSN(segment.start + 8192 * 3 + 17)
    with connection(shared) as used:
        stream = WalStream(used, start, 1)
        received, position = b"", start
        while position < segment.end:
            message = stream.receive(10)
            if isinstance(message, WalData):
                assert message.start == position
                received, position = received + message.data, message.end
        stream.stop()
        assert received[: segment.end - start] == on_disk(shared, segment)[start - segment.start :]
        assert used.identify_system().timeline == 1
        assert history_of_server(used, 1).path == (1,)


def test_what_is_confirmed_reaches_the_slot(shared: Source) -> None:
    segment = finish_segment(shared)
    with ReplicationConnection(shared.cluster, application_name="watcher") as used:
        create_slot(used, "confirmed")
        stream = WalStream(used, segment.next().start, 1, "confirmed")
        shared.sql("SELECT pg_logical_emit_message(true, 'test', 'x')")
        message = stream.receive(10)
        while not isinstance(message, WalData):
            message = stream.receive(10)
        stream.confirm(message.end, message.start + 8, time.time())
        query = "SELECT restart_lsn::text, active FROM pg_replication_slots WHERE slot_name = 'confirmed'"
        expected = (str(LSN(message.start + 8)), True)
        end = time.monotonic() + 10
        while shared.sql(query)[0] != expected:
            assert time.monotonic() < end, shared.sql(query)
            time.sleep(0.05)
        found = shared.sql(
            "SELECT write_lsn::text, flush_lsn::text FROM pg_stat_replication WHERE application_name = 'watcher'"
        )
        assert found == [(str(message.end), str(LSN(message.start + 8)))]

        with connection(shared) as other, pytest.raises(SlotInUse) as caught:
            WalStream(other, segment.next().start, 1, "confirmed")
        assert caught.value.fact == 'could not use the replication slot of cluster "main"'
        assert 'replication slot "confirmed" is active for PID' in caught.value.detail
        stream.stop()
        drop_slot(used, "confirmed")


def test_an_idle_server_says_that_it_lives(source: Source) -> None:
    source.sql("CHECKPOINT")
    source.set(wal_sender_timeout="500ms")
    with connection(source) as used:
        server = used.identify_system()
        stream = WalStream(used, server.flush_lsn, 1)
        found: list[object] = []
        end = time.monotonic() + 20
        while time.monotonic() < end and not any(
            isinstance(m, Keepalive) and m.reply_requested for m in found
        ):
            found.append(stream.receive(0.2))
        assert any(isinstance(message, Keepalive) and message.reply_requested for message in found)
        assert None in found


def streams(states: list[tuple[Any, ...]]) -> bool:
    return states == [("streaming",)]


def test_a_server_that_shuts_down_ends_the_stream(source: Source) -> None:
    with connection(source) as used:
        server = used.identify_system()
        stream = WalStream(used, server.flush_lsn, 1)
        stream.confirm(server.flush_lsn, server.flush_lsn, time.time())
        # a sender that has not begun yet is ended as any session is
        states = until(lambda: source.sql("SELECT state FROM pg_stat_replication"), streams, 30)
        assert streams(states)

        stopping = threading.Thread(target=source.server.stop, args=("fast",))
        stopping.start()
        message, end = stream.receive(1), time.monotonic() + 30
        while not isinstance(message, StreamEnd) and time.monotonic() < end:
            if isinstance(message, WalData):
                stream.confirm(message.end, message.end, time.time())
            message = stream.receive(1)
        stopping.join()
        assert message == StreamEnd()


def test_slots_and_what_the_server_says_of_them(shared: Source) -> None:
    with connection(shared) as used:
        create_slot(used, "twice")
        with pytest.raises(ServerNotReady) as caught:
            create_slot(used, "twice")
        assert str(caught.value) == (
            'CREATE_REPLICATION_SLOT is not possible on cluster "main" now\n'
            'DETAIL: ERROR: replication slot "twice" already exists\nHINT: SELECT * FROM pg_replication_slots'
        )
        drop_slot(used, "twice")
        with pytest.raises(ServerNotReady) as missing:
            drop_slot(used, "twice")
        assert missing.value.detail == 'ERROR: replication slot "twice" does not exist'
        with pytest.raises(ServerNotReady):
            WalStream(used, used.identify_system().flush_lsn, 1, "twice")


def test_a_role_without_replication(shared: Source) -> None:
    shared.sql("CREATE ROLE plain LOGIN")
    with pytest.raises(PrivilegeMissing):
        ReplicationConnection(shared.cluster, f"host={shared.root}/s user=plain dbname=postgres")
