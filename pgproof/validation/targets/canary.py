"""A canary is a commit whose fate in the copy tells where recovery stopped; it needs no table and no privilege."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from pgproof.timelines.lsn import LSN
from pgproof.validation.fences.cut import Snapshot
from pgproof.wal.records import CommitRecord

_PLANTED = 3
_FUTURE = (
    psycopg.errors.InvalidParameterValue
)  # "transaction ID ... is in the future" (TransactionIdInRecentPast)


def plant_canaries(connection: psycopg.Connection) -> None:
    """Commit some transactions that do nothing but take an xid, so that an idle source has targets between them.

    Not where commits wait for synchronous standbys: these do not wait, so that a snapshot would see them and not
    see one that waits since before, and no cut would be exact.
    """
    standbys: Any = connection.execute("SHOW synchronous_standby_names").fetchone()
    for _ in range(0 if standbys[0] else _PLANTED):
        connection.execute("SELECT pg_current_xact_id()")


def look_for(connection: psycopg.Connection, canaries: Iterable[CommitRecord]) -> dict[LSN, bool]:
    """Which canaries are committed (``pg_xact_status``); one of which the copy no longer knows is left out.

    Args:
        connection: to the copy, in autocommit.
        canaries: not further than 2^31 xids from what runs there.
    """
    row: Any = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
    snapshot = Snapshot.parse(row[0])
    found = {}
    for canary in canaries:
        wide = str(snapshot.widen(canary.xid))
        try:
            status: Any = connection.execute("SELECT pg_xact_status(%s::xid8)", (wide,)).fetchone()
        except _FUTURE:
            found[canary.lsn] = False
            continue
        if status[0] is not None:
            found[canary.lsn] = status[0] == "committed"
    return found
