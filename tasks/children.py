"""A child is a run of another deployment that a run has started; its key finds it again, so that none is started twice.

The key is made of the parent's identifier, the cluster and the number of the attempt: a parent that is tried again asks
for the same keys, and gets the children that it had.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.states import Cancelling

_PAGE = 200  # what the server gives at once
_ENDABLE = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED)


def key_of(parent: str, cluster: str, attempt: int) -> str:
    """The idempotency key of a child.

    Args:
        parent: identifier of the run that starts it.
        cluster: its name.
        attempt: 1 for the first.
    """
    return f"pgproof-fleet-{parent}-{cluster}-{attempt}"


def start_child(
    client: SyncPrefectClient, deployment: str, cluster: str, key: str, parameters: dict[str, Any]
) -> FlowRun:
    """Start a run of a deployment, or find the one that was started with this key; it is not waited for.

    It is looked for first because ``run_deployment`` makes a task run in the parent for each call, also when the
    server answers with a run that is there already.

    Args:
        client: of the server.
        deployment: flow and name.
        cluster: its name.
        key: idempotency key, of ``key_of``.
        parameters: besides those of the deployment.

    Raises:
        ObjectNotFound: there is no such deployment.
    """
    wanted = filters.FlowRunFilter(idempotency_key=filters.FlowRunFilterIdempotencyKey(any_=[key]))
    for run in client.read_flow_runs(flow_run_filter=wanted, limit=1):
        return run
    started: Any = run_deployment(
        deployment,
        parameters=parameters,
        timeout=0,
        idempotency_key=key,
        flow_run_name=f"protect {cluster}",
    )
    found: FlowRun = started
    return found


def read_runs(client: SyncPrefectClient, runs: Collection[UUID]) -> dict[UUID, FlowRun]:
    """The runs as they are now; one that was deleted is not among them.

    Args:
        client: of the server.
        runs: their identifiers, no more than a page of them.
    """
    if not runs:
        return {}
    wanted = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=list(runs)))
    return {run.id: run for run in client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE)}


def cancel_children(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """Prefect's ``on_cancellation``: whoever cancels the parent means its children, too.

    A parent that died cancels nothing: its children do their work without it.

    Args:
        flow, state: of the parent, as Prefect gives them.
        flow_run: the parent.
    """
    types = filters.FlowRunFilterStateType(any_=list(_ENDABLE))
    wanted = filters.FlowRunFilter(
        parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[flow_run.id]),
        state=filters.FlowRunFilterState(type=types),
    )
    with get_client(sync_client=True) as client:
        for child in client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE):
            with contextlib.suppress(
                httpx.HTTPError
            ):  # one that cannot be told is no reason to leave the others
                client.set_flow_run_state(
                    child.id, Cancelling(message="the run that started it was cancelled")
                )
