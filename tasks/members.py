"""A member is a cluster of the fleet, with the deployment of ``protect`` that a Prefect server has for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse

from tasks.deployed import read_deployed
from tasks.retries import HOUR, RETRY, settings
from tasks.work import is_block, read_config

FLOW = "protect"
_HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
_OTHERWISE = 180.0  # seconds: Prefect's own default


@dataclass(frozen=True)
class Member:
    """One cluster of the fleet.

    Args:
        cluster: its name.
        config: what its flows get: a path of pgproof.toml, or a block; None is the default.
        deployed: whether the server has a deployment of it.
        pool: work pool of that deployment.
        queue: work queue of that deployment.
        heartbeat: seconds between the heartbeats of its runs, as the deployment says.
    """

    cluster: str
    config: str | None = None
    deployed: bool = False
    pool: str = ""
    queue: str = ""
    heartbeat: float = _OTHERWISE

    @property
    def deployment(self) -> str:
        return f"{FLOW}/{self.cluster}"


@task(**settings("find the fleet", HOUR), **RETRY)
def find_members(clusters: Sequence[str], config: str | None = None) -> list[Member]:
    """The clusters of the fleet, each with its deployment.

    Args:
        clusters: names; none is every cluster of the configuration.
        config: path of pgproof.toml; empty for the clusters that are kept in blocks.

    Raises:
        ConfigError: a value of the configuration is wrong, or it has no cluster of a name.
    """
    with get_client(sync_client=True) as client:
        deployed = {one.name: one for one in read_deployed(client, FLOW)}
    if config == "":
        known = [name for name, one in deployed.items() if is_block(one.parameters.get("config"))]
        names = list(clusters) or sorted(known)
    else:
        read = read_config(config)
        names = [read.cluster(name).name for name in clusters] or list(read.clusters)
    return [_member(name, deployed.get(name), config) for name in dict.fromkeys(names)]


def _member(name: str, deployment: DeploymentResponse | None, config: str | None) -> Member:
    if deployment is None:
        return Member(name, config or None)
    variables: dict[str, Any] = deployment.job_variables or {}
    beats = (variables.get("env") or {}).get(_HEARTBEAT, _OTHERWISE)
    return Member(
        name,
        deployment.parameters.get("config") or config or None,
        True,
        deployment.work_pool_name or "",
        deployment.work_queue_name or "",
        float(beats),
    )
