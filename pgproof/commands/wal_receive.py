"""``wal receive``: a service that tells what it does, one line an event, and ends cleanly on SIGTERM."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pgproof.commands.console import Session
from pgproof.config import ClusterConfig, Config, RepositoryConfig
from pgproof.errors import UsageError
from pgproof.postgres.names import json_bytes
from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.streaming import create_slot, drop_slot
from pgproof.quantity import parse_duration
from pgproof.repository.opening import impatient
from pgproof.repository.repository import Archive, open_repository
from pgproof.visible import continued, visible
from pgproof.wal.receiving.events import ReceiveEvent
from pgproof.wal.receiving.receive import OpenArchive, Receiver, ReceiveRequest, ReceiveResult
from pgproof.wording import counted, size

_SLOT = re.compile(r"[a-z0-9_]{1,63}")


def receive(session: Session, name: str, slot: str | None, seconds: str | None, synchronous: bool) -> int:
    """Receive until a signal comes or the time is over; 1 when there was a hole."""
    cluster = session.cluster(name)
    request = ReceiveRequest(
        cluster,
        archives_of(session.config, cluster),
        session.config.state / "receive" / cluster.name,
        _slot(cluster, slot),
        synchronous or cluster.wal.synchronous,
        None if seconds is None else parse_duration(seconds),
    )
    with _stopped_by_signals() as stop:
        result = Receiver(request, _show_line if session.json else _show_text, stop).run()
    end = ReceiveEvent("stopped", describe(result), result.as_dict())
    (_show_line if session.json else _show_text)(end)
    return 1 if result.holes else 0


def change_slot(session: Session, name: str, slot: str | None, *, make: bool) -> int:
    """Make or remove the slot."""
    cluster = session.cluster(name)
    slot = _slot(cluster, slot)
    with ReplicationConnection(cluster) as connection:
        (create_slot if make else drop_slot)(connection, slot)
    done = "made" if make else "removed"
    session.show(
        {"slot": slot, done: True}, lambda console: console.print(f'replication slot "{slot}" {done}')
    )
    return 0


def archives_of(config: Config, cluster: ClusterConfig) -> dict[str, OpenArchive]:
    """How each repository of a cluster is opened; its own first."""
    repositories = {cluster.repository: config.repository_of(cluster), **config.copies_of(cluster)}
    return {name: _opener(found, cluster.name) for name, found in repositories.items()}


def describe(result: ReceiveResult) -> str:
    """What a run came to, in a line."""
    if not result.timeline:
        return "stopped; the server was not reached"
    holes = f"; {counted(len(result.holes), 'hole')}" if result.holes else ""
    stored = "all of it stored" if result.stored >= result.written else f"stored up to {result.stored}"
    return f"stopped; received timeline {result.timeline} up to {result.written}, {stored}{holes}"


def _opener(repository: RepositoryConfig, cluster: str) -> OpenArchive:
    def open_archive(system: int) -> Archive:
        return open_repository(impatient(repository)).archive(cluster, system)

    return open_archive


def _slot(cluster: ClusterConfig, given: str | None) -> str:
    slot = given or cluster.wal.slot
    if not _SLOT.fullmatch(slot):
        raise UsageError(
            f'invalid slot name "{slot}"', "A name has up to 63 lower-case letters, digits and underscores."
        )
    return slot


def _show_text(happened: ReceiveEvent) -> None:
    lag = happened.values.get("lag_bytes")
    behind = f" ({size(lag)} behind)" if lag else ""
    sys.stderr.write(f"pgproof: {continued(happened.text)}{behind}\n")
    sys.stderr.flush()


def _show_line(happened: ReceiveEvent) -> None:
    sys.stdout.write(visible(json_bytes(happened.as_dict(), default=str).decode()) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process as it would have."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Callable[..., Any] | int | None] = {}

    def set_stop(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        before[number] = signal.signal(number, set_stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
