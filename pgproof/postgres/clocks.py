"""Clocks: how far this machine's is from a server's."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from pgproof.postgres.facts import read_clock


def clock_skew(connection: psycopg.Connection, clock: Callable[[], float] = time.time) -> float:
    """How many seconds the server's clock is ahead at least: it was read some time between two looks at ours.

    Args:
        connection: to the server.
        clock: of this machine, seconds since the epoch.
    """
    before = clock()
    server = read_clock(connection).now.timestamp()
    return server - min(max(server, before), clock())
