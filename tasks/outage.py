"""An outage is a time in which the Prefect server does not answer; what is done for recovery goes on meanwhile.

What is only shown there waits a while for its end, and is then left out with a warning: a backup that is complete in
the repository must not become a failed run because nobody could be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.logging import get_run_logger

PATIENCE = 150.0  # seconds; a server that is restarted, or a minute's outage, costs nothing
_LONGEST = 15.0  # seconds between two tries
_T = TypeVar("_T")


def away(error: BaseException) -> bool:
    """Whether an error says that the server is not there, or not well: no connection, or an answer of 5xx."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def through_outage(
    what: str,
    call: Callable[[], _T],
    patience: float = PATIENCE,
    wait: Callable[[float], None] = time.sleep,
) -> _T | None:
    """Call the server, again and again while it is away; None when it stays away.

    Args:
        what: is left out then, for the warning.
        call: asks the server.
        patience: seconds in all.
        wait: between two tries.
    """
    end, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            return call()
        except httpx.HTTPError as error:
            if not away(error):
                raise
            if time.monotonic() + pause > end:
                get_run_logger().warning("the Prefect server is away: %s is left out (%s)", what, error)
                return None
        wait(pause)
        pause = min(2 * pause, _LONGEST)
