"""A heartbeat is what a run's engine sends while it lives; ``reap`` tells by it which runs are dead."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from prefect import flow_engine
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings

OFTEN = 30  # seconds; the least that Prefect takes, whose default is six times as long


def improve() -> None:
    """Let runs of flows send heartbeats often, and end without waiting for the thread that sends them.

    Often, whatever environment the worker has: no run can be given one (``deployments/work_pools``).

    That thread sleeps a second at a time, and Prefect waits for it at the end of every flow that is not async, so
    that each run took a second more. Async flows do not wait; this asks the same of ours. A Prefect that does it in
    another way is left as it is: tests/trouble tells when that costs the second again.
    """
    own = getattr(flow_engine, "_send_heartbeats", None)
    if own is None or isinstance(own, functools.partial):
        return
    if "join_on_exit" in inspect.signature(own).parameters:
        flow_engine._send_heartbeats = functools.partial(_beating, own)


@contextlib.contextmanager
def _beating(own: Callable[..., AbstractContextManager[None]], engine: Any, **_: Any) -> Iterator[None]:
    """Prefect's own, which looks up how often when it begins; whoever set that himself has his way."""
    is_set = "heartbeat_frequency" in get_current_settings().flows.model_fields_set
    with contextlib.ExitStack() as stack:
        with temporary_settings({} if is_set else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: OFTEN}):
            stack.enter_context(own(engine, join_on_exit=False))
        yield
