"""Work queues: each cluster has one of its name in the work pool that takes its runs.

A queue says in its description whose runs it has, and by that it is known as ours. ``prefect deploy`` would make a
queue by itself, without one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from deployments.block_clusters import reference
from deployments.server import server

_BY = "; made by pgproof deploy"


@dataclass(frozen=True)
class IdleQueue:
    """A work queue of ours that nothing uses any more.

    Args:
        id: of the queue.
        name: of the queue, and of its cluster.
        pool: its work pool.
        runs: of it that have not ended, and for which it stays.
    """

    id: UUID
    name: str
    pool: str
    runs: int = 0

    @property
    def title(self) -> str:
        return f"work queue {self.name} of work pool {self.pool}"


def description_of(cluster: str, config: str) -> str:
    """What a queue says of itself.

    Args:
        cluster: whose runs it has.
        config: what their flows get: a path of pgproof.toml, or a block.
    """
    return f"The runs of cluster {cluster} of {config}{_BY}"


def ensure_queues(pool: str, clusters: Mapping[str, str]) -> None:
    """Make the work queue of each cluster where it is missing; of one that is there only the description is ours.

    A description that somebody wrote stays, and such a queue is never removed.

    Args:
        pool: name of the work pool, which is there.
        clusters: name to what its flows get as ``config``.

    Raises:
        AuthenticationFailed, TransientError: the server did not take them.
    """
    with server() as client:
        from prefect.exceptions import ObjectAlreadyExists

        from tasks.deployed import pages

        there = {queue.name: queue for queue in pages(client.read_work_queues, work_pool_name=pool)}
        for cluster, config in clusters.items():
            wanted, queue = description_of(cluster, config), there.get(cluster)
            if queue is None:
                with contextlib.suppress(ObjectAlreadyExists):
                    client.create_work_queue(cluster, description=wanted, work_pool_name=pool)
            elif queue.description != wanted and (not queue.description or queue.description.endswith(_BY)):
                client.update_work_queue(queue.id, description=wanted)


def find_idle(config: str | None, gone: Collection[UUID] = ()) -> list[IdleQueue]:
    """The queues of ours for which no deployment is left, whoever made it.

    Args:
        config: path of the pgproof.toml that they were made for; None for blocks.
        gone: deployments that count as removed already, with the runs that are scheduled.

    Raises:
        AuthenticationFailed, TransientError: the server did not answer.
    """
    with server() as client:
        from tasks.deployed import pages

        used = {one.work_queue_id for one in pages(client.read_deployments) if one.id not in gone}
        return [
            IdleQueue(queue.id, queue.name, pool, len(_unfinished(client, queue.id, gone)))
            for pool, queue in _ours(client, config)
            if queue.id not in used
        ]


def remove_idle(idle: Sequence[IdleQueue]) -> None:
    """Remove queues that have no run.

    Args:
        idle: of ``find_idle``.
    """
    with server() as client:
        from prefect.exceptions import ObjectNotFound

        for one in idle:
            if not one.runs:
                with contextlib.suppress(ObjectNotFound):  # somebody else was quicker
                    client.delete_work_queue_by_id(one.id)


def _ours(client: Any, config: str | None) -> Iterator[tuple[str, Any]]:
    from tasks.deployed import pages

    for pool in pages(client.read_work_pools):
        for queue in pages(client.read_work_queues, work_pool_name=pool.name):
            if queue.description == description_of(queue.name, config or reference(queue.name)):
                yield pool.name, queue


def _unfinished(client: Any, queue: UUID, gone: Collection[UUID]) -> list[Any]:
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import TERMINAL_STATES

    from tasks.deployed import pages

    wanted = filters.WorkQueueFilter(id=filters.WorkQueueFilterId(any_=[queue]))
    ended = filters.FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))
    state = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=ended))
    runs = pages(client.read_flow_runs, work_queue_filter=wanted, flow_run_filter=state)
    return [run for run in runs if not (run.deployment_id in gone and run.state.is_scheduled())]
