"""What is gone: deployments of clusters that pgproof.toml does not have any more, and reapers of empty work pools.

A cluster's are gone only when they were deployed from this very pgproof.toml, or from a block; what another
pgproof.toml deployed to the same server is not ours to remove. A reaper is gone when no cluster's deployment, of
whichever pgproof.toml, is left in its work pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from deployments.block_clusters import reference
from deployments.server import server


@dataclass(frozen=True)
class Gone:
    """A deployment that nobody needs.

    Args:
        id: of the deployment.
        name: of the deployment.
        cluster: that is gone; None for the reaper of a work pool.
        pool: work pool that took its runs.
    """

    id: UUID
    name: str
    cluster: str | None
    pool: str = ""

    @property
    def owner(self) -> str:
        return self.cluster if self.cluster is not None else f"work pool {self.pool}"


def find_gone(clusters: Collection[str], config: str | None) -> list[Gone]:
    """The deployments that were made from a configuration for clusters that it does not have any more.

    Args:
        clusters: names of those that it has.
        config: path of pgproof.toml; None for blocks.

    Raises:
        AuthenticationFailed, TransientError: the server did not answer.
    """
    with server() as client:
        from tasks.deployed import read_deployed

        standing = list(read_deployed(client))
    gone = [
        Gone(one.id, one.name, one.parameters["cluster"], one.work_pool_name or "")
        for one in standing
        if isinstance(one.parameters.get("cluster"), str)
        and one.parameters.get("config") == (config or reference(one.parameters["cluster"]))
        and one.parameters["cluster"] not in clusters
    ]
    return [*gone, *_idle_reapers(standing, {one.id for one in gone})]


def _idle_reapers(standing: Sequence[Any], gone: Collection[UUID]) -> Iterator[Gone]:
    left = [one for one in standing if one.id not in gone]
    used = {one.work_pool_name for one in left if "cluster" in one.parameters}
    for one in left:
        if (one.entrypoint or "").endswith(":reap") and one.work_pool_name not in used:
            yield Gone(one.id, one.name, None, one.work_pool_name or "")


def remove_gone(gone: Sequence[Gone]) -> None:
    """Remove deployments with their scheduled runs, and their clusters' concurrency limits; backups stay.

    A run that is on its way goes on to its end.
    """
    with server() as client:
        from prefect.exceptions import ObjectNotFound

        from flows.writer import limit_name

        for one in gone:
            with contextlib.suppress(ObjectNotFound):  # somebody else was quicker
                client.delete_deployment(one.id)
        for cluster in sorted({one.cluster for one in gone if one.cluster is not None}):
            with contextlib.suppress(ObjectNotFound):
                client.delete_global_concurrency_limit_by_name(limit_name(cluster))


def alerts_left(gone: Sequence[Gone]) -> dict[str, int]:
    """How many alerts the clusters have that are gone.

    Raises:
        AuthenticationFailed, TransientError: the server did not answer.
    """
    from deployments.alerts.applying import read_ours

    clusters = {one.cluster for one in gone if one.cluster is not None}
    with server() as client:
        return {cluster: len(read_ours(client, cluster)) for cluster in sorted(clusters)}
