"""A slot is a place within a concurrency limit; one that nobody holds any more keeps the next run waiting for ever.

The server keeps who holds a slot in memory, unless it is told otherwise: after its restart the slot of a run that
died meanwhile is taken and has no holder whose lease could end.
"""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from tasks.life import unfinished

_OURS = "pgproof-"  # flows.writer.limit_name
_DEPLOYMENT = "deployment:"


def free_slots(client: SyncPrefectClient, pool: str) -> list[str]:
    """Empty the limits of which every slot is taken and whose deployment or cluster has no unfinished run.

    The limits are read before the runs: a full limit lets nobody in meanwhile, so that whoever holds a slot of it is
    among the runs.

    Args:
        client: of the server.
        pool: the work pool whose deployments are looked at.

    Returns:
        the names of the limits.
    """
    full = [limit for limit in _limits(client) if limit["active_slots"] >= max(limit["limit"], 1)]
    if not full:
        return []
    runs, deployments, freed = unfinished(client), _deployments(client, pool), []
    for limit in full:
        if _is_ours(limit, deployments) and not any(_may_hold(run, limit, deployments) for run in runs):
            client.request(
                "PATCH",
                "/v2/concurrency_limits/{id_or_name}",
                path_params={"id_or_name": limit["id"]},
                json={"active_slots": 0},
            )
            freed.append(deployments.get(limit["id"], limit["name"]))
    return freed


def _limits(client: SyncPrefectClient) -> list[dict[str, Any]]:
    body = {"limit": 200}
    found: list[dict[str, Any]] = client.request("POST", "/v2/concurrency_limits/filter", json=body).json()
    return found


def _deployments(client: SyncPrefectClient, pool: str) -> dict[str, str]:
    """Limit to the identifier of the deployment that it belongs to."""
    body = {"work_pools": {"name": {"any_": [pool]}}, "limit": 200}
    found = client.request("POST", "/deployments/filter", json=body).json()
    limits = {one["id"]: one.get("global_concurrency_limit") for one in found}
    return {limit["id"]: deployment for deployment, limit in limits.items() if limit}


def _is_ours(limit: dict[str, Any], deployments: dict[str, str]) -> bool:
    return limit["id"] in deployments or str(limit["name"]).startswith(_OURS)


def _may_hold(run: FlowRun, limit: dict[str, Any], deployments: dict[str, str]) -> bool:
    """Whether a run may hold a slot: one of the deployment, or of the cluster, wherever it was started."""
    if (deployment := deployments.get(limit["id"])) is not None:
        return str(run.deployment_id) == deployment
    cluster = limit["name"].removeprefix(_OURS)
    return bool(run.parameters.get("cluster", cluster) == cluster)
