"""What one run of the fleet left on a Prefect server: its children, its card, its event."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from prefect.client.schemas import filters
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun

from deployments.descent import descendants
from tests.deployments.upped import until
from tests.trouble.plant import Plant

HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"


def children(plant: Plant, parent: UUID) -> list[FlowRun]:
    """The runs that a run of the fleet has started, in the order of their start."""
    wanted = filters.FlowRunFilter(
        parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[parent]),
    )
    with plant.client() as client:
        found = client.read_flow_runs(flow_run_filter=wanted)
    return sorted(found, key=lambda run: str(run.created))


def states(plant: Plant, parent: UUID) -> list[tuple[str, str]]:
    """Cluster and state of each child."""
    return [(str(run.parameters["cluster"]), str(run.state_name)) for run in children(plant, parent)]


def wait_for_child(plant: Plant, parent: UUID, state: str, count: int = 1) -> list[FlowRun]:
    """The children in a state, once there are so many."""

    def look() -> list[FlowRun]:
        return [run for run in children(plant, parent) if run.state_name == state]

    found = until(look, lambda seen: len(seen) >= count, 120, 0.5)
    assert len(found) >= count, f"{states(plant, parent)}\n{plant.logs(parent)}\n{plant.log('worker')}"
    return found


def card(plant: Plant, parent: UUID) -> str:
    """The artifact of a run."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(parent)]}, "key": {"any_": ["pgproof-fleet"]}}}
    with plant.client() as client:
        found = client.request("POST", "/artifacts/filter", json={**wanted, "sort": "CREATED_DESC"}).json()
    return str(found[0]["data"])


def event(plant: Plant, parent: UUID) -> dict[str, Any]:
    """The event of a run: its name and its payload."""

    def look() -> list[dict[str, Any]]:
        wanted = {
            "event": {"prefix": ["pgproof.fleet."]},
            "resource": {"id": ["pgproof.fleet"]},
            "related": {"id": [f"prefect.flow-run.{parent}"]},
        }
        with plant.client() as client:
            done = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 10}).json()
        found: list[dict[str, Any]] = done["events"]
        return found

    (found,) = until(look, bool, 20)
    return found


@contextlib.contextmanager
def said_to_beat(plant: Plant, names: Sequence[str], seconds: int) -> Iterator[None]:
    """Deployments whose runs are said to send a heartbeat so often, and have to wait for a worker meanwhile.

    Their runs get what the deployments say afterwards: Prefect's engine sends no heartbeat oftener than every 30 s
    (``MINIMUM_HEARTBEAT_INTERVAL``), and three of those are what a test would wait for.
    """
    with plant.client() as client:
        ours = [
            (
                client.read_deployment_by_name(f"protect/{name}"),
                client.read_work_queue_by_name(name, "pgproof"),
            )
            for name in names
        ]
        said = DeploymentUpdate(job_variables={"env": {HEARTBEAT: str(seconds)}})
        for deployment, queue in ours:
            client.update_work_queue(queue.id, is_paused=True)
            client.update_deployment(deployment.id, said)
        yield
        for deployment, queue in ours:
            client.update_deployment(deployment.id, DeploymentUpdate(job_variables=deployment.job_variables))
            client.update_work_queue(queue.id, is_paused=False)


def worker_of(plant: Plant, run: UUID) -> subprocess.Popen[bytes] | None:
    """The worker that has a run; None when it has ended."""
    process = until(lambda: plant.process_of(run), bool, 10)
    return next((worker for worker in plant.workers if process in descendants(worker.pid)), None)


def kill_machine(plant: Plant, worker: subprocess.Popen[bytes]) -> None:
    """A worker and all that it started, at once, so that nothing of it is left to tell."""
    worker.send_signal(signal.SIGSTOP)  # lest it sees how its runs end
    for process in [*descendants(worker.pid), worker.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    worker.wait(20)
    plant.workers.remove(worker)
