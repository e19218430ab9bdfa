"""What is gone: deployments of clusters that pgproof.toml does not have any more.

Ours are those that carry the tag ``pgproof`` and were deployed from this very pgproof.toml, or from a block; what
another pgproof.toml deployed to the same server is not ours to remove.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from deployments.server import server

_PAGE = 200
TAG = "pgproof"


@dataclass(frozen=True)
class Gone:
    """A deployment of a cluster that is gone."""

    id: UUID
    name: str
    cluster: str


def find_gone(clusters: Collection[str], config: str | None) -> list[Gone]:
    """The deployments that were made from a configuration for clusters that it does not have any more.

    Args:
        clusters: names of those that it has.
        config: path of pgproof.toml; None for blocks.

    Raises:
        AuthenticationFailed, TransientError: the server did not answer.
    """
    found: list[Gone] = []
    with server() as client:
        from prefect.client.schemas import filters

        ours = filters.DeploymentFilter(tags=filters.DeploymentFilterTags(all_=[TAG]))
        for offset in range(0, 1_000_000, _PAGE):
            page = client.read_deployments(deployment_filter=ours, limit=_PAGE, offset=offset)
            for one in page:
                cluster = one.parameters.get("cluster")
                given = one.parameters.get("config")
                from_here = given == (config or f"block:pgproof-cluster/{cluster}")
                if isinstance(cluster, str) and from_here and cluster not in clusters:
                    found.append(Gone(one.id, one.name, cluster))
            if len(page) < _PAGE:
                break
    return found


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
        for cluster in sorted({one.cluster for one in gone}):
            with contextlib.suppress(ObjectNotFound):
                client.delete_global_concurrency_limit_by_name(limit_name(cluster))
