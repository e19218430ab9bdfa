"""A replication slot makes the server keep WAL until its reader has it; one that fell behind is of no use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.timelines.lsn import LSN


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical slot, as ``pg_replication_slots`` shows it.

    Args:
        name: of the slot.
        active: somebody reads from it now.
        restart_lsn: the oldest WAL that it keeps; None when it keeps none.
        lag: bytes from there to the server's position.
        wal_status: reserved, extended, unreserved or lost.
        safe_wal_size: bytes that can still be written before it may be lost; None without a limit.
    """

    name: str
    active: bool
    restart_lsn: LSN | None
    lag: int | None
    wal_status: str | None
    safe_wal_size: int | None

    @property
    def fault(self) -> str:
        """Why its reader will miss WAL, or may at any moment; empty when it will not."""
        if self.wal_status == "lost":
            return f'slot "{self.name}" is lost: the server has removed WAL that its reader needs'
        if self.wal_status == "unreserved":
            return f'slot "{self.name}" is about to be lost: WAL that its reader needs goes at the next checkpoint'
        return ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "active": self.active,
            "restart_lsn": str(self.restart_lsn) if self.restart_lsn is not None else None,
            "lag": self.lag,
            "wal_status": self.wal_status,
            "safe_wal_size": self.safe_wal_size,
        }


def read_slots(connection: psycopg.Connection) -> tuple[Slot, ...]:
    """Every physical replication slot of a server, a standby's own ones when it is in recovery."""
    rows = connection.execute(
        """WITH position (lsn) AS (
               SELECT CASE WHEN pg_is_in_recovery()
                           THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                           ELSE pg_current_wal_lsn() END)
           SELECT slot_name, active, restart_lsn::text, (lsn - restart_lsn)::bigint, wal_status, safe_wal_size
             FROM pg_replication_slots, position WHERE slot_type = 'physical' ORDER BY slot_name"""
    ).fetchall()
    return tuple(
        Slot(
            name, active, LSN.parse(lsn) if lsn else None, None if lag is None else max(0, lag), status, safe
        )
        for name, active, lsn, lag, status, safe in rows
    )
