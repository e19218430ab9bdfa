"""A burst is some candidate fences of several databases, taken as nearly at once as can be; the best is kept.

A session sees one database, but its snapshot speaks of the transactions of all of them. So two snapshots of
different databases that are the same text have the same cut: no transaction ended between them. The databases are
asked at the same moment, and asked again at once when they answered differently.
"""

from __future__ import annotations

import select
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from pgproof.timelines.lsn import LSN
from pgproof.validation.fences.cut import Cut, Snapshot, find_cut
from pgproof.wal.records import CommitRecord

_TRIES = 40  # for one snapshot of all databases, about a millisecond each
_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SNAPSHOT = b"SELECT pg_catalog.pg_current_snapshot()::text"


@dataclass
class Candidate:
    """One open transaction whose snapshot may become the fence of its database."""

    database: str
    connection: psycopg.Connection
    snapshot: Snapshot
    cut: Cut | None = None

    @property
    def lsn(self) -> LSN | None:
        """Of the cut; None when it is not exact, or not looked for yet."""
        return self.cut.lsn if self.cut else None

    @property
    def reason(self) -> str:
        """Why it is not exact."""
        return self.cut.reason if self.cut else ""


def take_snapshots(connections: Sequence[psycopg.Connection]) -> list[Snapshot]:
    """A snapshot of each of several databases, all of them the same where that can be had; they stay open.

    Args:
        connections: to different databases, outside a transaction.

    Raises:
        psycopg.Error: a connection broke.
    """
    for left in reversed(range(_TRIES)):
        _ask_all(connections, _BEGIN)  # takes no snapshot yet
        seen = _ask_all(connections, _SNAPSHOT)
        if len(set(seen)) == 1 or not left:
            break
        _ask_all(connections, b"ROLLBACK")
    return [Snapshot.parse(text) for text in seen]


def _ask_all(connections: Sequence[psycopg.Connection], query: bytes) -> list[str]:
    """The first value that each answers; none waits for another."""
    for connection in connections:
        connection.pgconn.send_query(query)
        connection.pgconn.flush()
    return [_answer(connection) for connection in connections]


def _answer(connection: psycopg.Connection) -> str:
    libpq, value = connection.pgconn, b""
    failure: psycopg.Error | None = None
    while True:
        while libpq.is_busy():  # get_result would wait too, but deaf to signals
            select.select([libpq.socket], [], [])
            libpq.consume_input()
        if (result := libpq.get_result()) is None:
            break
        if result.status == ExecStatus.TUPLES_OK:
            value = result.get_value(0, 0) or b""
        elif result.status != ExecStatus.COMMAND_OK:
            failure = failure or error_from_result(result)
    if failure is not None:
        raise failure
    return value.decode()


def waiting_commits(connection: psycopg.Connection) -> frozenset[int]:
    """The 32-bit xids of commits that wait for a synchronous standby: in WAL, and seen by nobody.

    Needs pg_monitor; without it, and for COMMIT PREPARED, the drill finds them in the copy.
    """
    rows = connection.execute(
        """SELECT backend_xid::text::bigint FROM pg_catalog.pg_stat_activity
            WHERE wait_event = 'SyncRep' AND backend_xid IS NOT NULL"""
    ).fetchall()
    return frozenset(row[0] for row in rows)


def find_cuts(
    candidates: Iterable[Candidate], commits: Sequence[CommitRecord], waiting: Collection[int] = ()
) -> int:
    """Give each candidate its cut; how many of them are exact.

    Args:
        candidates: with their snapshots.
        commits: in WAL order.
        waiting: what ``waiting_commits`` told after the snapshots. A commit of those that is not in this WAL was
            written before it, and so before what the snapshots see.
    """
    missing = set(waiting) - {record.xid for record in commits if record.committed} if waiting else set()
    known: dict[Snapshot, Cut] = {}
    exact = 0
    for candidate in candidates:
        snapshot = candidate.snapshot
        if snapshot not in known:
            unseen = sorted(xid for xid in missing if not snapshot.sees(xid))
            known[snapshot] = _waits(unseen[0]) if unseen else find_cut(snapshot, commits)
        candidate.cut = known[snapshot]
        exact += candidate.cut.exact
    return exact


def _waits(xid: int) -> Cut:
    return Cut(
        None,
        f"transaction {xid} committed before the WAL of the fence, and still waits for a synchronous standby to be "
        "seen",
    )


def choose(burst: Mapping[str, Sequence[Candidate]]) -> dict[str, Candidate]:
    """For each database an exact candidate, so that there are as few cuts as possible, and early ones.

    Args:
        burst: database to candidates, each with its cut.

    Returns:
        database to candidate, without the databases that have no exact one.
    """
    by_lsn: dict[LSN, dict[str, Candidate]] = {}
    for database, candidates in burst.items():
        for candidate in candidates:
            if candidate.lsn is not None:
                by_lsn.setdefault(candidate.lsn, {}).setdefault(database, candidate)
    chosen: dict[str, Candidate] = {}
    while by_lsn:
        best = max(by_lsn, key=lambda lsn: (len(by_lsn[lsn].keys() - chosen.keys()), -lsn))
        chosen = by_lsn.pop(best) | chosen
    return {database: chosen[database] for database in burst if database in chosen}


def cuts_of(candidates: Iterable[Candidate]) -> list[LSN]:
    """The different cuts of exact candidates, in order."""
    return sorted({candidate.lsn for candidate in candidates if candidate.lsn is not None})
