"""A heartbeat is what a run's engine sends while it lives; ``reap`` tells by it which runs are dead."""

from __future__ import annotations

import functools
import inspect

from prefect import flow_engine


def leave_at_once() -> None:
    """Let a flow end without waiting for the thread that sends its heartbeats.

    That thread sleeps a second at a time, and Prefect waits for it at the end of every flow that is not async, so
    that each run took a second more. Async flows do not wait; this asks the same of ours. A Prefect that does it in
    another way is left as it is: tests/trouble tells when that costs the second again.
    """
    own = getattr(flow_engine, "_send_heartbeats", None)
    if own is None or isinstance(own, functools.partial):
        return
    if "join_on_exit" in inspect.signature(own).parameters:
        flow_engine._send_heartbeats = functools.partial(own, join_on_exit=False)
