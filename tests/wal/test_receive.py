"""``wal receive`` on real servers: no confirmed byte is ever missing from the repository."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pgproof.errors import LeaseHeld, ServerUnreachable, SlotInUse, WrongSystem
from pgproof.timelines.segment import WalSegment
from pgproof.wal.parts import list_parts
from pgproof.wal.receiving import following
from pgproof.wal.receiving.receive import Receiver
from tests.drills.damage import answer, assert_refused
from tests.servers.postgres import Source
from tests.wal.receiving import (
    MB,
    assert_stored,
    confirmed,
    fill,
    flushed,
    logged,
    process,
    receive_until,
    receiving,
    request,
    switch,
    unarchived_source,
    wait,
    wait_connected,
)


def kept(source: Source) -> list[str]:
    """What the receiver holds on its own disk."""
    return sorted(path.name for path in (source.root / "state").rglob("0*"))


def test_bytes_are_those_of_the_source(any_unarchived: Source) -> None:
    source = any_unarchived
    with receiving(source) as running:
        running.wait_for("connected")
        first = confirmed(source)
        for _ in range(4):
            fill(source, 300)
            switch(source)
        fill(source, 50)
        end = flushed(source)
        wait(lambda: confirmed(source) >= end, f"{confirmed(source)} of {end}")
        assert_stored(source, end, first=first)
    assert running.result is not None and running.result.stored >= end
    assert running.kinds()[:2] == ["slot", "connected"]
    assert running.kinds().count("segment") >= 4 and "part" in running.kinds()
    assert_stored(source, confirmed(source), first=first)
    parts = list_parts(source.archive)
    assert len(parts) == 1  # of the current segment alone; the older ones are gone
    assert kept(source) == []


def test_an_idle_server_gets_its_last_bytes_there_and_then_nothing_is_written(unarchived: Source) -> None:
    unarchived.sql("CREATE TABLE t AS SELECT 1 AS a")
    end = flushed(unarchived)
    with receiving(unarchived) as running:
        wait(lambda: running.events and confirmed(unarchived) >= end, "not confirmed")
        unarchived.sql("CHECKPOINT")
        time.sleep(2)
        before = running.kinds().count("part")
        time.sleep(3)
        assert running.kinds().count("part") <= before + 1  # background writers log a little now and then
        assert_stored(unarchived, end)


def test_a_storm_of_switches(unarchived: Source) -> None:
    with receiving(unarchived) as running:
        running.wait_for("connected")
        first = confirmed(unarchived)
        for _ in range(60):
            last = switch(unarchived)
        wait(lambda: confirmed(unarchived) >= last.end, "not confirmed", 60)
    assert_stored(unarchived, confirmed(unarchived), first=first)
    assert kept(unarchived) == []


def test_killed_again_and_again_and_resumed_without_a_hole(unarchived: Source) -> None:
    first = None
    with unarchived.writer():
        for count in range(4):
            with process(unarchived) as running:
                wait_connected(unarchived, count)
                first = first or confirmed(unarchived)
                time.sleep(0.7 + 0.4 * count)
                running.send_signal(signal.SIGKILL)
                running.wait()
            assert_stored(unarchived, confirmed(unarchived), first=first)
    end = flushed(unarchived)
    receive_until(unarchived, end)
    assert_stored(unarchived, end, first=first)
    assert not [event for event in logged(unarchived) if event["event"] == "hole"]
    assert kept(unarchived) == []


def test_sigterm_stores_confirms_and_ends_with_0(unarchived: Source) -> None:
    unarchived.write_config(cluster='wal.partial_interval = "1h"')
    with process(unarchived) as running:
        wait_connected(unarchived)
        fill(unarchived)
        end = flushed(unarchived)
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    assert confirmed(unarchived) >= end
    assert_stored(unarchived, end)
    last = logged(unarchived)[-1]
    assert (last["event"], last["holes"], last["timeline"]) == ("stopped", [], 1)
    assert last["stored_lsn"] == last["written_lsn"]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_server_restarts(unarchived: Source, mode: str) -> None:
    with receiving(unarchived) as running:
        running.wait_for("connected")
        first = confirmed(unarchived)
        fill(unarchived, 1500)
        begin = time.monotonic()
        unarchived.server.stop(mode)
        assert time.monotonic() - begin < 20
        running.wait_for("disconnected")
        unarchived.server.start()
        unarchived.server.wait_ready()
        fill(unarchived, 1500)
        end = flushed(unarchived)
        running.wait_for("connected", 2)
        wait(lambda: confirmed(unarchived) >= end, "not confirmed")
    assert "hole" not in running.kinds()
    assert_stored(unarchived, end, first=first)


def test_a_store_that_is_away(unarchived: Source) -> None:
    """Nothing is confirmed meanwhile, the server can be stopped, and everything arrives later."""
    with receiving(unarchived) as running:
        running.wait_for("connected")
        first = confirmed(unarchived)
        switch(unarchived)
        running.wait_for("segment")
        away = unarchived.root / "away"
        unarchived.repository_path.rename(away)
        unarchived.repository_path.write_text("no directory")
        before = confirmed(unarchived)
        for _ in range(5):
            switch(unarchived)
        running.wait_for("trouble")
        time.sleep(1)
        assert confirmed(unarchived) // MB <= before // MB + 1
        stuck = confirmed(unarchived)
        begin = time.monotonic()
        unarchived.server.stop("fast")  # which waits for its receivers
        assert time.monotonic() - begin < 20
        unarchived.server.start()
        unarchived.server.wait_ready()
        assert confirmed(unarchived) == stuck
        unarchived.repository_path.unlink()
        away.rename(unarchived.repository_path)
        switch(unarchived)
        end = flushed(unarchived)
        running.wait_for("recovered", timeout=60)
        wait(lambda: confirmed(unarchived) >= end, "not confirmed", 60)
    assert_stored(unarchived, end, first=first)
    assert "hole" not in running.kinds()
    assert kept(unarchived) == []


def test_resumed_after_the_store_was_away_and_the_receiver_killed(unarchived: Source) -> None:
    """What lies on the receiver's disk is stored by the next run, without the server's help."""
    first = None
    with process(unarchived) as running:
        wait_connected(unarchived)
        first = confirmed(unarchived)
        away = unarchived.root / "away"
        unarchived.repository_path.rename(away)
        unarchived.repository_path.write_text("no directory")
        for _ in range(3):
            switch(unarchived)
        fill(unarchived, 40)
        end = flushed(unarchived)
        wait(lambda: len(kept(unarchived)) >= 4, "not on disk")
        time.sleep(0.5)
        running.kill()
        running.wait()
    unarchived.repository_path.unlink()
    away.rename(unarchived.repository_path)
    unarchived.server.stop("immediate")
    with pytest.raises(ServerUnreachable):
        Receiver(request(unarchived, seconds=3), lambda event: None).run()
    assert_stored(unarchived, end, first=first)
    assert kept(unarchived) == []


def test_two_receivers_of_one_slot(unarchived: Source) -> None:
    with receiving(unarchived) as running:
        running.wait_for("connected")
        with pytest.raises(LeaseHeld) as here:
            Receiver(request(unarchived), lambda event: None).run()
        assert here.value.fact == 'another wal receive of cluster "main" is at work on this host'
        text = unarchived.config_path.read_text()
        unarchived.config_path.write_text(text.replace("/state", "/elsewhere"))
        with pytest.raises(SlotInUse) as there:
            Receiver(request(unarchived), lambda event: None).run()
        assert there.value.fact == 'could not use the replication slot of cluster "main"'
        assert there.value.detail.startswith('ERROR: replication slot "pgproof" is active for PID ')


def test_another_system_identifier_is_refused(unarchived: Source) -> None:
    with receiving(unarchived) as running:
        running.wait_for("connected")
    with unarchived_source() as other:
        unarchived.write_config(dsn=f"host={other.root}/s user=pgproof dbname=postgres")
        with pytest.raises(WrongSystem) as caught:
            Receiver(request(unarchived, once=True), lambda event: None).run()
        assert caught.value.fact == 'server "main" belongs to another cluster'
        assert other.sql("SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_the_server_has_removed_what_is_missing(source: Source) -> None:
    """A slot that was dropped while nobody received: the hole is said loudly, and receiving goes on."""
    source.set(archive_mode="off")
    with receiving(source) as running:
        running.wait_for("connected")
        switch(source)
        last = running.wait_for("segment").values["segment"]
    source.sql("SELECT pg_drop_replication_slot('pgproof')")
    for _ in range(4):
        switch(source)
    source.sql("CHECKPOINT")
    for _ in range(4):
        switch(source)
    source.sql("CHECKPOINT")
    end = flushed(source)
    result, events = receive_until(source, end)
    assert len(result.holes) == 1
    assert result.holes[0].first >= WalSegment.parse(last, MB).end
    hole = next(event for event in events if event.kind == "hole")
    assert hole.text.startswith("HOLE: the server has removed WAL from ")
    assert_stored(source, end, first=result.holes[0].end)


def test_no_hole_where_the_server_still_has_it(unarchived: Source) -> None:
    """The slot is younger than the archive's end: receiving begins at the archive's end."""
    with receiving(unarchived) as running:
        running.wait_for("connected")
        first = confirmed(unarchived)
        switch(unarchived)
        running.wait_for("segment")
    unarchived.sql("SELECT pg_drop_replication_slot('pgproof')")
    for _ in range(4):
        switch(unarchived)
    end = flushed(unarchived)
    result, _ = receive_until(unarchived, end)
    assert result.holes == ()
    assert_stored(unarchived, end, first=first)


def test_a_slot_that_has_lost_its_wal(source: Source) -> None:
    source.set(archive_mode="off", max_slot_wal_keep_size="2MB", max_wal_size="3MB", min_wal_size="2MB")
    with receiving(source) as running:
        running.wait_for("connected")
    for _ in range(8):
        switch(source)
    source.sql("CHECKPOINT")
    assert source.sql("SELECT wal_status FROM pg_replication_slots") == [("lost",)]
    end = flushed(source)
    result, events = receive_until(source, end)
    assert [event.text for event in events if event.kind == "slot"] == [
        'made replication slot "pgproof" anew: it kept no WAL, or had lost it'
    ]
    assert len(result.holes) == 1
    assert_stored(source, end, first=result.holes[0].end)
    assert source.sql("SELECT wal_status FROM pg_replication_slots") == [("reserved",)]


def test_beside_archive_command(source: Source) -> None:
    """Both store the same bytes; whoever comes second finds them."""
    with receiving(source) as running:
        running.wait_for("connected")
        for _ in range(20):
            fill(source, 200)
            switch(source)
        last = source.archive_now()
        wait(lambda: any(last in text for text in running.texts("segment")), "not received")
        end = flushed(source)
    assert "trouble" not in running.kinds()
    assert source.sql("SELECT failed_count FROM pg_stat_archiver") == [(0,)]
    archived = source.archive_now()
    _, events = receive_until(source, WalSegment.parse(archived, MB).end)
    assert f'{archived} stored in repository "main", it was there' in [event.text for event in events]
    assert_stored(source, WalSegment.parse(last, MB).end, first=WalSegment.parse(last, MB).start)
    assert confirmed(source) >= end


def test_what_the_command_refuses(unarchived: Source) -> None:
    words = ["wal", "receive", "main"]
    assert_refused(
        unarchived,
        [*words, "--slot", "Not-A-Slot"],
        2,
        (
            'invalid slot name "Not-A-Slot"\n'
            "DETAIL: A name has up to 63 lower-case letters, digits and underscores."
        ),
    )
    assert_refused(
        unarchived,
        [*words, "--for", "soon"],
        2,
        (
            'invalid duration "soon"\n'
            'DETAIL: "soon" needs a number and a unit of s, min, h, d, such as "5min".'
        ),
    )
    assert_refused(
        unarchived,
        [*words, "--create-slot", "--drop-slot"],
        2,
        ("--create-slot and --drop-slot exclude each other\nHINT: leave out one of them"),
    )
    assert_refused(
        unarchived,
        [*words, "--drop-slot"],
        22,
        (
            'DROP_REPLICATION_SLOT is not possible on cluster "main" now\n'
            'DETAIL: ERROR: replication slot "pgproof" does not exist\nHINT: SELECT * FROM pg_replication_slots'
        ),
    )


def test_the_command_for_a_time(unarchived: Source) -> None:
    """What a person reads on stderr, and nothing on stdout."""
    fill(unarchived)
    code, out, err = answer(unarchived, "wal", "receive", "main", "--for", "2s", "--slot", "another")
    lines = err.splitlines()
    assert (code, out) == (0, "")
    assert lines[0] == 'pgproof: made replication slot "another"'
    assert lines[1].startswith("pgproof: receiving timeline 1 from 0/") and lines[1].endswith(
        'slot "another"'
    )
    assert lines[-1].startswith("pgproof: stopped; received timeline 1 up to 0/")
    assert lines[-1].endswith(", all of it stored")
    assert answer(unarchived, "wal", "receive", "main", "--slot", "another", "--drop-slot", "--json") == (
        0,
        '{\n  "slot": "another",\n  "removed": true\n}\n',
        "",
    )


def test_received_wal_of_another_cluster_is_named(unarchived: Source) -> None:
    """After initdb or pg_upgrade: it stays where it is, and somebody should look."""
    other = unarchived.root / "state" / "receive" / "main" / "7412345678901234567"
    other.mkdir(parents=True)
    (other / "000000010000000000000009").write_bytes(b"WAL")
    system = unarchived.sql("SELECT system_identifier FROM pg_control_system()")[0][0]
    unarchived.write_config(cluster=f"system_identifier = {system}")
    with receiving(unarchived) as running:
        running.wait_for("connected")
    assert running.texts("trouble") == [
        f"received WAL of system identifier 7412345678901234567 lies here and is not stored: {other}"
    ]
    assert (other / "000000010000000000000009").read_bytes() == b"WAL"


def test_a_server_that_says_nothing_any_more(unarchived: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a network swallows everything: no end of the connection is ever seen."""
    monkeypatch.setattr(following, "_SILENCE", 2.0)
    monkeypatch.setattr(following, "_STATUS_INTERVAL", 0.5)
    with receiving(unarchived) as running:
        running.wait_for("connected")
        time.sleep(4)
        assert running.kinds().count("connected") == 1  # an idle server answers
        (pid,) = unarchived.sql("SELECT pid FROM pg_stat_replication")[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            event = running.wait_for("disconnected")
            assert event.values["error"]["detail"] == "Nothing came for 2 s."
        finally:
            os.kill(pid, signal.SIGCONT)
        fill(unarchived)
        end = flushed(unarchived)
        running.wait_for("connected", 2)
        wait(lambda: confirmed(unarchived) >= end, "not confirmed")
    assert_stored(unarchived, end)
