"""A receiver at work for the tests, in this process or one of its own, and what it stored compared with the source."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgproof.commands.wal_receive import archives_of
from pgproof.repository.repository import Archive
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import list_wal
from pgproof.wal.parts import list_parts
from pgproof.wal.receiving.events import ReceiveEvent
from pgproof.wal.receiving.receive import Receiver, ReceiveRequest, ReceiveResult
from tests.servers.postgres import PGPROOF, PROJECT, Source, running_source

MB = 1 << 20


@contextmanager
def unarchived_source(major: int = 17) -> Iterator[Source]:
    """Without archive_command: what is in the repository was received. pg_wal keeps all, to compare with."""
    with running_source(major, archive_mode="off", wal_keep_size="512MB") as source:
        source.write_config(cluster='wal.partial_interval = "1s"')
        yield source


def wait(look: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """Look again until there is something."""
    end = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, what
        time.sleep(0.05)


@dataclass
class Running:
    """A receiver in a thread of this process."""

    events: list[ReceiveEvent] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    result: ReceiveResult | None = None
    error: BaseException | None = None

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def texts(self, kind: str) -> list[str]:
        return [event.text for event in self.events if event.kind == kind]

    def wait_for(self, kind: str, count: int = 1, timeout: float = 30) -> ReceiveEvent:
        def look() -> list[ReceiveEvent]:
            assert self.error is None, self.error
            found = [event for event in self.events if event.kind == kind]
            return found if len(found) >= count else []

        found: list[ReceiveEvent] = wait(look, f"no {kind} in {self.events}", timeout)
        return found[-1]


def request(source: Source, **options: Any) -> ReceiveRequest:
    config, cluster = source.config, source.cluster
    options = {"slot": cluster.wal.slot, "synchronous": cluster.wal.synchronous, **options}
    directory = config.state / "receive" / cluster.name
    return ReceiveRequest(cluster, archives_of(config, cluster), directory, **options)


@contextmanager
def receiving(source: Source, **options: Any) -> Iterator[Running]:
    """A receiver for the time of a block; it must end cleanly."""
    running = Running()
    receiver = Receiver(request(source, **options), running.events.append, running.stop)

    def work() -> None:
        try:
            running.result = receiver.run()
        except BaseException as error:
            running.error = error

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert running.error is None, running.error


def receive_until(source: Source, lsn: LSN, **options: Any) -> tuple[ReceiveResult, list[ReceiveEvent]]:
    """Receive until everything before an LSN is stored."""
    events: list[ReceiveEvent] = []
    result = Receiver(request(source, until=lsn, seconds=60, **options), events.append).run()
    assert result.written >= lsn, events
    return result, events


@contextmanager
def process(source: Source, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which is killed at the end if it still runs."""
    command = [*PGPROOF, "--config", str(source.config_path), "wal", "receive", "main", "--json", *words]
    log = open(source.root / "receive.log", "a+")
    running = subprocess.Popen(
        command, stdout=log, stderr=log, text=True, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        log.close()


def logged(source: Source) -> list[dict[str, Any]]:
    """The events of every process so far."""
    lines = (source.root / "receive.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def wait_connected(source: Source, before: int = 0) -> None:
    """Wait for one more connection of a process than there were."""
    wait(lambda: sum(event["event"] == "connected" for event in logged(source)) > before, "not connected")


def flushed(source: Source) -> LSN:
    """Where the source's WAL ends."""
    return LSN.parse(source.sql("SELECT pg_current_wal_flush_lsn()")[0][0])


def confirmed(source: Source, slot: str = "pgproof") -> LSN:
    """Up to where the server was told that WAL is durable."""
    rows = source.sql("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s", slot)
    return LSN.parse(rows[0][0])


def fill(source: Source, kilobytes: int = 100) -> None:
    """Write so much WAL."""
    source.sql(f"SELECT pg_logical_emit_message(true, 'test', repeat('x', {kilobytes << 10}))")


def switch(source: Source) -> WalSegment:
    """Write a little, and end the segment."""
    fill(source, 20)
    return WalSegment.parse(source.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0], MB)


def stored(archive: Archive, timeline: int = 1) -> dict[WalSegment, bytes]:
    """What a repository has of a timeline: whole segments, and the longest part of those that are not whole."""
    listing = list_wal(archive, MB)
    found: dict[WalSegment, bytes] = {}
    for part in list_parts(archive, timeline):
        content = b"".join(archive.open(part.key))
        assert len(content) == MB and not content[part.end :].strip(b"\0")
        found[WalSegment.parse(part.name, MB)] = content[: part.end]
    for number in listing.numbers.get(timeline, ()):
        segment = WalSegment(timeline, number, MB)
        found[segment] = b"".join(archive.open(archive.layout.wal_file(segment.name) + ".zst"))
    return found


def assert_stored(
    source: Source,
    upto: LSN,
    *,
    first: LSN | None = None,
    timeline: int = 1,
    data: Path | None = None,
    archive: Archive | None = None,
) -> None:
    """Every byte up to an LSN is in the repository, without a hole, equal to the server's own pg_wal."""
    found = stored(archive or source.archive, timeline)
    start = min(found) if first is None else WalSegment.containing(timeline, first, MB)
    number = start.number
    while number * MB < upto:
        segment = WalSegment(timeline, number, MB)
        assert segment in found, f"{segment} is missing, up to {upto}"
        wanted = min(upto - segment.start, MB)
        assert len(found[segment]) >= wanted, f"{segment} has {len(found[segment])} of {wanted}"
        disk = (data or source.data) / "pg_wal" / segment.name
        assert found[segment] == disk.read_bytes()[: len(found[segment])], f"{segment} differs"
        number += 1
