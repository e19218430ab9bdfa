"""Which errors are tried again: the class alone decides."""

from __future__ import annotations

import httpx
import psycopg
import pytest
from prefect import flow, task
from prefect.task_engine import TaskRunTimeoutError

from pgproof import errors
from pgproof.errors import PermanentError, PgproofError, TransientError
from tasks.retries import RETRY, settings
from tests.flows.runs import run

OURS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PgproofError) and kind is not PgproofError
]


def attempts(error: Exception) -> int:
    tried = []

    @task(**settings("raise", 60), **{**RETRY, "retry_delay_seconds": 0})
    def fail() -> None:
        tried.append(error)
        raise error

    @flow
    def failing() -> None:
        fail()

    done = run(failing)
    assert type(error).__name__ in done.message
    assert done.attempts == {"raise": len(tried)}
    return len(tried)


@pytest.mark.usefixtures("prefect")
@pytest.mark.parametrize("kind", [TransientError, PermanentError])
def test_what_a_run_does(kind: type[PgproofError]) -> None:
    assert attempts(kind("a fact")) == (4 if kind is TransientError else 1)


class _State:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def result(self, raise_on_failure: bool = True) -> Exception:
        assert not raise_on_failure
        return self.error


@pytest.mark.parametrize("kind", OURS)
def test_every_error_of_ours(kind: type[PgproofError]) -> None:
    helps = RETRY["retry_condition_fn"](None, None, _State(kind("a fact")))
    assert helps == issubclass(kind, TransientError)
    assert helps != issubclass(kind, PermanentError)


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (psycopg.OperationalError("the connection broke"), True),
        (ConnectionResetError(104, "reset"), True),
        (httpx.ConnectError("the Prefect server is away"), True),
        (psycopg.errors.UndefinedTable("a mistake"), False),
        (ValueError("a mistake"), False),
        (TaskRunTimeoutError("24 hours are over"), False),
    ],
)
def test_errors_of_others(error: Exception, helps: bool) -> None:
    assert RETRY["retry_condition_fn"](None, None, _State(error)) is helps


@pytest.mark.usefixtures("prefect")
def test_a_task_that_took_all_of_its_time_is_not_tried_again() -> None:
    import time

    @task(**settings("wait", 0.2), **{**RETRY, "retry_delay_seconds": 0})
    def wait() -> None:
        for _ in range(100):  # interrupted between two: the alarm belongs to pytest-timeout
            time.sleep(0.05)

    @flow
    def waiting() -> None:
        wait()

    done = run(waiting)
    assert done.attempts == {"wait": 1}
    assert done.task_runs["wait"].state_name == "TimedOut"


def test_the_delays_grow() -> None:
    delays = RETRY["retry_delay_seconds"](RETRY["retries"])
    assert delays == [10, 20, 40]
