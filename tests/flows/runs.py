"""A flow run as the Prefect server knows it: its state, task runs, artifacts and logs."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, TaskRun

_THREADS = ThreadPoolExecutor(4)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Run:
    """A finished run, with everything that the server holds of it."""

    state: State[Any]
    flow_run: FlowRun
    task_runs: dict[str, TaskRun]
    artifacts: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return self.flow_run.name

    @property
    def tasks(self) -> list[str]:
        """Names of the task runs in the order of their start."""
        return list(self.task_runs)

    @property
    def attempts(self) -> dict[str, int]:
        return {name: run.run_count for name, run in self.task_runs.items()}

    @property
    def message(self) -> str:
        return self.state.message or ""

    def artifact(self, key: str) -> str:
        return str(self.artifacts[key]["data"])

    def logs(self) -> str:
        """All that was logged; logs come in batches, the last one of a run says that it finished."""
        with get_client(sync_client=True) as client:
            return until(lambda: _logs(client, self.flow_run.id), lambda text: "Finished in state" in text)


def run(flow: Any, *arguments: Any, **parameters: Any) -> Run:
    """Run a flow to its end, whatever that is."""
    return look(flow(*arguments, **parameters, return_state=True))


def start(flow: Any, *arguments: Any, **parameters: Any) -> Future[Run]:
    """Run a flow in a thread, with the settings of this one."""
    context = contextvars.copy_context()
    return _THREADS.submit(context.run, run, flow, *arguments, **parameters)


def look(state: State[Any]) -> Run:
    """What the server has of a run that has ended; task runs reach it as events, a moment later."""
    identifier = state.state_details.flow_run_id
    assert identifier is not None
    none_came = time.monotonic() + 3  # a flow may fail before its first task
    with get_client(sync_client=True) as client:
        task_runs = until(
            lambda: task_runs_of(client, identifier),
            lambda runs: (
                all(r.state is not None and r.state.is_final() for r in runs)
                and (bool(runs) or time.monotonic() > none_came)
            ),
        )
        artifacts = client.request(
            "POST",
            "/artifacts/filter",
            json={"artifacts": {"flow_run_id": {"any_": [str(identifier)]}}, "sort": "CREATED_DESC"},
        ).json()
        return Run(
            state,
            client.read_flow_run(identifier),
            {task_run.name: task_run for task_run in task_runs},
            # without a key: of a result; the newest of a key counts
            {artifact["key"]: artifact for artifact in reversed(artifacts) if artifact["key"]},
        )


def running(name: str, started: float) -> list[TaskRun]:
    """The task runs of this name that started after a moment of ``time.time()``."""
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(
            task_run_filter=filters.TaskRunFilter(name=filters.TaskRunFilterName(any_=[name]))
        )
    return [r for r in found if r.start_time is not None and r.start_time.timestamp() >= started]


def task_runs_of(client: SyncPrefectClient, flow_run: UUID) -> list[TaskRun]:
    wanted = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run]))
    found = client.read_task_runs(flow_run_filter=wanted)
    return sorted(found, key=lambda task_run: (task_run.start_time is None, task_run.start_time))


def events_of(cluster: str) -> list[dict[str, Any]]:
    """The newest events of a cluster that have reached the server, oldest first; 50 are the most that it gives out."""
    wanted = {"event": {"prefix": ["pgproof."]}, "resource": {"id": [f"pgproof.cluster.{cluster}"]}}
    body = {"filter": {**wanted, "order": "DESC"}, "limit": 50}
    with get_client(sync_client=True) as client:
        events: list[dict[str, Any]] = client.request("POST", "/events/filter", json=body).json()["events"]
    return events[::-1]


def _logs(client: SyncPrefectClient, flow_run: UUID) -> str:
    wanted = filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[flow_run]))
    return "\n".join(log.message for log in client.read_logs(log_filter=wanted))


def until(look: Callable[[], _T], wanted: Callable[[_T], bool], timeout: float = 30) -> _T:
    """Look again until it is as wanted; the last look is given back in any case."""
    end = time.monotonic() + timeout
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > end:
            return seen
        time.sleep(0.1)
