"""What is gone: deployments of clusters that pgproof.toml does not have any more.

Ours are those that carry the tag ``pgproof`` and were deployed from this very pgproof.toml; what another one deployed
to the same server is not ours to remove.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from deployments.server import server
from pgproof.config import Config

_PAGE = 200
TAG = "pgproof"


@dataclass(frozen=True)
class Gone:
    """A deployment of a cluster that is gone."""

    id: UUID
    name: str
    cluster: str


def find_gone(config: Config) -> list[Gone]:
    """The deployments that were made from a configuration for clusters that it does not have any more.

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
                from_here = one.parameters.get("config") == str(config.path)
                if isinstance(cluster, str) and from_here and cluster not in config.clusters:
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
