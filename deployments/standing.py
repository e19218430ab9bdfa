"""What stands: our deployments on the Prefect server, as they are before a deploy."""

from __future__ import annotations

from typing import Any

Title = tuple[str, str]  # flow and name of a deployment, as the server knows them


def by_title(client: Any) -> dict[Title, Any]:
    """Every deployment of ours by its flow and name.

    Args:
        client: of the server.
    """
    from tasks.deployed import read_deployed

    return {title_of(one.entrypoint, one.name): one for one in read_deployed(client) if one.entrypoint}


def title_of(entrypoint: str, name: str) -> Title:
    """Flow and name of a deployment.

    Args:
        entrypoint: where its flow is, as in ``flows/base_backup.py:base_backup``.
        name: its name.
    """
    return entrypoint.rpartition(":")[2].replace("_", "-"), name
