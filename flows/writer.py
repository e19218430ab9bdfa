"""One writer a cluster: a Prefect concurrency limit, besides the lease in the repository that decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

WAIT = 6 * 3600  # seconds a second writer waits for the first


def limit_name(cluster: str) -> str:
    """Name of a cluster's global concurrency limit; ``pgproof deploy`` creates it."""
    return f"pgproof-{cluster}"


@contextmanager
def one_writer(cluster: str) -> Iterator[None]:
    """Wait for the cluster's slot. Without the limit (an ad-hoc run on a bare server) the lease alone decides."""
    with concurrency(limit_name(cluster), occupy=1, timeout_seconds=WAIT, strict=False):
        yield


def ensure_limit(cluster: str) -> None:
    """Create a cluster's concurrency limit where it is missing; one writer at a time."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_name(cluster), 1)
