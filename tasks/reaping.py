"""The task of the reaper: what is dead is marked crashed, which frees its slots and lets its alert go out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import httpx
from prefect import task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Crashed

from pgproof.errors import TransientError
from tasks.life import Patience, Silent, lives, silent_runs
from tasks.retries import HOUR, RETRY, settings
from tasks.slots import free_slots
from tasks.work import now

_LOOKS = 6  # looks at a silent run while it is watched
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True)
class Reaped:
    """What was mended: names of runs, and the limits that were full for nobody."""

    runs: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()


@task(**settings("reap dead runs", HOUR), **RETRY)
def reap_runs(pool: str, patience: Patience) -> Reaped:
    """Mark a pool's dead runs crashed, and free slots that nobody holds; it can be tried again at any point."""
    own = flow_run.id
    return reap(pool, patience, get_run_logger(), now, UUID(own) if own else None)


def reap(
    pool: str,
    patience: Patience,
    log: Log,
    clock: Callable[[], datetime],
    but: UUID | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Reaped:
    """Find the silent runs of a pool, watch them, and mark crashed what stays silent.

    Args:
        pool: the work pool; no other's runs are touched.
        patience: how long a run may be silent.
        log: told of every run and slot.
        clock: the time, aware.
        but: a run to leave alone, the one that reaps.
        wait: between two looks.

    Raises:
        TransientError: the server does not answer, or did not take every state; the next try does the rest.
    """
    with _answering() as client:
        silent = silent_runs(client, pool, clock(), patience, but)
        dead = _watch(client, silent, patience, clock, wait)
        done = tuple(one.name for one in dead if crash(client, one, log))
        slots = tuple(free_slots(client, pool))
    for slot in slots:
        log.warning("freed the concurrency limit of %s: no run holds it", slot)
    if len(done) < len(dead):
        raise TransientError(f"could not mark {len(dead) - len(done)} dead runs crashed")
    return Reaped(done, slots)


def _watch(
    client: SyncPrefectClient,
    silent: list[Silent],
    patience: Patience,
    clock: Callable[[], datetime],
    wait: Callable[[float], None],
) -> list[Silent]:
    """Those that show no sign of life while they are watched."""
    seconds = max((one.heartbeat for one in silent), default=0.0) * patience.watch
    for _ in range(_LOOKS if silent else 0):
        wait(seconds / _LOOKS)
        silent = [one for one in silent if not lives(client, one, clock())]
    return silent


def crash(client: SyncPrefectClient, one: Silent, log: Log) -> bool:
    """Mark one run; what the server refuses for one is no reason to leave the others.

    Args:
        client: of the server.
        one: the run, which is dead.
        log: told of it.

    Returns:
        whether the server took it.
    """
    message = f"reaped: it was {one.kind} and gave no sign of life since {one.since:%F %T%z}"
    try:
        client.set_flow_run_state(one.run, Crashed(message=message), force=True)
    except httpx.HTTPError as error:
        log.warning("could not mark run %s crashed: %s", one.name, error)
        return False
    log.warning("run %s is marked crashed: %s", one.name, message)
    return True


@contextlib.contextmanager
def _answering() -> Iterator[SyncPrefectClient]:
    """A client of this run's server, with its faults as ours, so that the task is tried again."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPError as error:
        raise TransientError("could not use the Prefect server", f"{error}") from error
