"""One writer a cluster: a Prefect concurrency limit, besides the lease in the repository that decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from pgproof.errors import LeaseHeld

WAIT = 6 * 3600  # seconds a second writer waits for the first
_LEASE = 60.0  # seconds after which the turn of a run that was killed ends by itself; the least that Prefect allows


def limit_name(cluster: str) -> str:
    """Name of a cluster's global concurrency limit; ``pgproof deploy`` creates it."""
    return f"pgproof-{cluster}"


@contextmanager
def one_writer(cluster: str, wait: float = WAIT) -> Iterator[None]:
    """Wait for the cluster's turn.

    Without the limit (an ad-hoc run on a bare server), and while the Prefect server is away, the lease in the
    repository decides alone.

    Args:
        cluster: its name.
        wait: seconds.

    Raises:
        LeaseHeld: another run had its turn all the time.
    """
    turn = _take_turn(cluster, wait)
    try:
        yield
    finally:
        if turn is not None:
            _end_turn(turn)


def _take_turn(cluster: str, wait: float) -> AbstractContextManager[None] | None:
    turn = concurrency(
        limit_name(cluster), occupy=1, timeout_seconds=wait, strict=False, lease_duration=_LEASE
    )
    try:
        _say_who_waits(cluster)
        turn.__enter__()
    except TimeoutError as error:
        raise LeaseHeld(
            f'cluster "{cluster}" had no turn for this run',
            f"Another run of it worked for {wait:.0f} s.",
            f"prefect gcl inspect {limit_name(cluster)}; the flow reap frees the turn of a run that died",
        ) from error
    except (httpx.HTTPError, ConcurrencySlotAcquisitionError) as error:
        get_run_logger().warning(
            "could not ask for the turn of %s: its lease decides alone (%s)", cluster, error
        )
        return None
    return turn


def _say_who_waits(cluster: str) -> None:
    """A run that waits looks like one that hangs."""
    try:
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name(limit_name(cluster))
    except ObjectNotFound:
        return
    if limit.active_slots >= limit.limit:
        get_run_logger().info(
            "another run writes to the repository of %s: this one waits for its turn", cluster
        )


def _end_turn(turn: AbstractContextManager[None]) -> None:
    """Give the turn back; a server that is away takes it back by itself, when its lease is over."""
    try:
        turn.__exit__(None, None, None)
    except (httpx.HTTPError, ConcurrencySlotAcquisitionError) as error:
        get_run_logger().warning("could not give the turn back: it ends by itself (%s)", error)


def ensure_limit(cluster: str) -> None:
    """Create a cluster's concurrency limit where it is missing; one writer at a time."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_name(cluster), 1)
