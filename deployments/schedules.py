"""Staggered schedules: when each flow of a cluster runs, unless ``[clusters.NAME.schedules]`` says otherwise.

Every time is derived from a hash of the cluster's name: ten clusters do not start at once, and a cluster keeps its
times whatever becomes of the others. A drill follows two hours after the backup that it proves, pruning three hours
after the drill, so that it can count on the proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.versions import INCREMENTAL_BACKUP
from pgproof.schedule import Schedule

_DAY = 24 * 60
SPREAD = 180  # minutes after midnight in which the daily backups begin
_GAP_CHECK, _RECEIVE = 300, 60  # seconds
# What never runs by itself unless it is asked to: the steps of the chain have schedules of their own
_OFF = ("protect",)


@dataclass(frozen=True)
class Incremental:
    """Whether a source can make incremental backups.

    Args:
        possible: None when it could not be asked.
        reason: why not, or why nobody knows.
    """

    possible: bool | None
    reason: str = ""


def ask_incremental(cluster: ClusterConfig) -> Incremental:
    """Ask the source: PostgreSQL 17 with ``summarize_wal`` can; a source that does not answer is no error here."""
    try:
        with connect(cluster) as connection:
            major = connection.info.server_version // 10000
            if major < INCREMENTAL_BACKUP:
                return Incremental(False, f"PostgreSQL {major} cannot make them")
            row: Any = connection.execute("SHOW summarize_wal").fetchone()
    except PgproofError as error:
        return Incremental(None, error.fact)
    return Incremental(row[0] == "on", "" if row[0] == "on" else "summarize_wal is off")


def staggered(cluster: str) -> dict[str, Schedule]:
    """The schedule of each slug, from the cluster's name alone.

    Args:
        cluster: its name.
    """
    number = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8])
    start, weekday = number % SPREAD, number // SPREAD % 7
    return {
        "base-backup": _daily(start),
        "incremental": Schedule(cron=f"{(start + 30) % 60} * * * *"),  # half an hour off the full one
        "wal-gap-check": Schedule(interval=_GAP_CHECK),
        "restore-validation": _daily(start + 120),
        "oldest-proof": _daily(start + 420, str(weekday)),
        "retention-pruning": _daily(start + 300),
        "protect": _daily(start),
        "wal-receive": Schedule(interval=_RECEIVE),
    }


def _daily(minute: int, weekday: str = "*") -> Schedule:
    minute %= _DAY
    return Schedule(cron=f"{minute % 60} {minute // 60} * * {weekday}")


def schedule_entry(cluster: ClusterConfig, slug: str, active: Mapping[str, bool]) -> dict[str, Any]:
    """One schedule as prefect.yaml has it.

    One that is off keeps its time, so that it can be switched on in the UI.

    Args:
        cluster: with what pgproof.toml says.
        slug: which one.
        active: of the slugs that do not depend on pgproof.toml alone.
    """
    asked: Schedule | None = getattr(cluster.schedules, slug.replace("-", "_"), None)  # wal-receive has none
    derived = staggered(cluster.name)[slug]
    chosen = asked if asked is not None and not (asked.auto or asked.off) else derived
    runs = active.get(slug, slug not in _OFF) if asked is None or asked.auto else not asked.off
    entry: dict[str, Any] = {"slug": slug, "timezone": cluster.schedules.timezone, "active": runs}
    if chosen.cron is not None:
        return {**entry, "cron": chosen.cron}
    assert chosen.interval is not None
    return {**entry, "interval": chosen.interval, "anchor_date": _anchor(cluster.name, chosen.interval)}


def _anchor(cluster: str, interval: int) -> str:
    """A moment that the runs count from: within one interval of midnight, by the cluster's name."""
    number = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8])
    second = number % min(interval, 86400)
    return f"2026-01-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}+00:00"
