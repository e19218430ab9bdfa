"""Retries: the class of an error decides whether trying again may help."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
from prefect.cache_policies import NO_CACHE
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import exponential_backoff

from pgproof.errors import PgproofError, TransientError

HOUR = 3600.0
_PASSING = (OSError, psycopg.OperationalError, httpx.TransportError)


def may_help(task: Any, run: Any, state: Any) -> bool:
    """Prefect's ``retry_condition_fn``: a TransientError is tried again, a PermanentError never.

    What is not ours (a connection that broke in the middle of a query, a Prefect server that is away) is tried
    again, too; a task that took all of its time is not.
    """
    error = state.result(raise_on_failure=False)  # raised, it would gain a traceback of its own
    if isinstance(error, PgproofError):
        return isinstance(error, TransientError)
    return isinstance(error, _PASSING) and not isinstance(error, TaskRunTimeoutError)  # an OSError to Python


# 10, 20 and 40 s with jitter: long enough for a restarted server or a passing fault of a store
RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_help,
}


def settings(name: str, timeout: float) -> dict[str, Any]:
    """What our tasks have in common: a run has the task's name, and nothing is taken from a cache.

    Args:
        name: as the UI shows it.
        timeout: seconds.
    """
    return {"name": name, "task_run_name": name, "cache_policy": NO_CACHE, "timeout_seconds": timeout}
