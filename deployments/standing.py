"""What stands: our deployments on the Prefect server, as they are before a deploy.

Ours are those that carry the tag ``pgproof``, whoever deployed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TAG = "pgproof"
_PAGE = 200
Title = tuple[str, str]  # flow and name of a deployment, as the server knows them


def read_standing(client: Any) -> Iterator[Any]:
    """Every deployment of ours.

    Args:
        client: of the server.
    """
    from prefect.client.schemas import filters

    ours = filters.DeploymentFilter(tags=filters.DeploymentFilterTags(all_=[TAG]))
    for offset in range(0, 1_000_000, _PAGE):
        page = client.read_deployments(deployment_filter=ours, limit=_PAGE, offset=offset)
        yield from page
        if len(page) < _PAGE:
            return


def by_title(client: Any) -> dict[Title, Any]:
    """Every deployment of ours by its flow and name.

    Args:
        client: of the server.
    """
    return {title_of(one.entrypoint, one.name): one for one in read_standing(client) if one.entrypoint}


def title_of(entrypoint: str, name: str) -> Title:
    """Flow and name of a deployment.

    Args:
        entrypoint: where its flow is, as in ``flows/base_backup.py:base_backup``.
        name: its name.
    """
    return entrypoint.rpartition(":")[2].replace("_", "-"), name
