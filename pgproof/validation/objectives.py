"""Objectives are what recovery may cost: RTO in time and RPO in commits; here each beside what was measured.

RTO: what the newest drill took, and what a restore would take now, by forecast. RPO: the age of the newest commit that
the repository has (``pgproof.gaps.lag``). What nobody measured is not met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pgproof.backups.catalog import Catalog, read_catalog
from pgproof.config import ClusterConfig
from pgproof.errors import Finding, NoBackup, PgproofError, SeveralFutures
from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.copies import OpenCopy
from pgproof.postgres.connection import connect
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive
from pgproof.restore.destination import Destination
from pgproof.restore.locate import WalReader
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.validation.forecast import Forecast, Load, forecast
from pgproof.validation.proof import Proof
from pgproof.validation.trend import Trend, read_trend
from pgproof.wal.archive import list_for_recovery

_SIZE = "SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database WHERE datallowconn"


@dataclass(frozen=True, slots=True)
class Outlook:
    """A restore as it would be made now.

    Args:
        backup: that it would begin with; empty when there is none.
        forecast: what it would take; None when it could not be planned.
        fault: why it could not, or why it would most likely fail.
        source_bytes: size of the source's databases; None when it could not be asked.
    """

    backup: str = ""
    forecast: Forecast | None = None
    fault: str = ""
    source_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Objectives:
    """Both targets of a cluster beside what was measured.

    Args:
        at: when this was looked at.
        catalog: every backup, as it was then.
        rto: the target, seconds.
        rpo: the target, seconds.
        trend: of the last drills.
        outlook: for a restore now.
        wal: what the gap check found: how far the repository is behind.
        stale_after: seconds for which a measured recovery time is good.
    """

    at: datetime
    catalog: Catalog
    rto: float
    rpo: float
    trend: Trend
    outlook: Outlook
    wal: WalCheck
    stale_after: float

    @property
    def rto_met(self) -> bool | None:
        """Whether the newest drill and the forecast are both within the target; None when nothing was measured.

        A restore that cannot be made, or only from a backup that failed, misses every target.
        """
        newest = self.trend.newest
        if newest is None:
            return None
        if self.outlook.fault:
            return False
        if newest.rto_seconds > self.rto or (self.forecast_seconds or 0) > self.rto:
            return False
        return None if self.forecast_seconds is None else True

    @property
    def rpo_met(self) -> bool | None:
        """Whether less would be lost now than the target allows; None when it cannot be known."""
        return None if self.wal.rpo_seconds is None else not self.wal.rpo_breached

    @property
    def met(self) -> bool:
        return bool(self.rto_met) and bool(self.rpo_met)

    @property
    def forecast_seconds(self) -> float | None:
        return self.outlook.forecast.seconds if self.outlook.forecast else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the numbers."""
        newest, found = (
            self.trend.newest,
            list(self.outlook.forecast.cautions if self.outlook.forecast else ()),
        )
        slowest = self.outlook.forecast.slowest if self.outlook.forecast else 0.0
        if slowest > self.rto >= (self.forecast_seconds or 0):
            found.append("at the speed of the slowest drill the target would be missed")
        if newest is not None and (self.at - newest.at).total_seconds() > self.stale_after:
            found.append(f"the newest drill that measured a recovery time is stale, of {newest.at:%F}")
        if self.trend.unreadable:
            found.append(
                f"{len(self.trend.unreadable)} proof records cannot be read: {self.trend.unreadable[0]}"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        newest, looked = self.trend.newest, self.outlook
        return {
            "at": self.at.isoformat(),
            "met": self.met,
            "rto": {
                "target": self.rto,
                "measured": newest.rto_seconds if newest else None,
                "measured_at": newest.at.isoformat() if newest else None,
                "met": self.rto_met,
                "backup": looked.backup,
                "source_bytes": looked.source_bytes,
                "forecast": looked.forecast.as_dict() if looked.forecast else None,
                "fault": looked.fault,
                "notes": list(self.notes),
                "drills": [drill_dict(proof, self.rto) for proof in self.trend.drills],
            },
            "rpo": {
                "target": self.rpo,
                "measured": self.wal.rpo_seconds,
                "newest_commit": self.wal.newest_commit.isoformat() if self.wal.newest_commit else None,
                "met": self.rpo_met,
                "source_error": self.wal.source_error,
            },
        }


def drill_dict(proof: Proof, target: float) -> dict[str, Any]:
    """One drill of the trend, against the target of today."""
    return {
        "at": proof.at.isoformat(),
        "proof": proof.identifier,
        "backup": proof.backup,
        "verdict": proof.verdict,
        "restored_bytes": proof.restored_bytes,
        "wal_bytes": proof.wal_bytes,
        "phases": proof.phases,
        "seconds": proof.rto_seconds,
        "met": proof.rto_seconds <= target,
    }


def measure_objectives(
    cluster: ClusterConfig,
    archive: Archive,
    now: datetime,
    copies: Mapping[str, OpenCopy] | None = None,
) -> Objectives:
    """Measure both targets; nothing is written.

    Args:
        cluster: whose targets, and whose source is asked how far it is.
        archive: of the cluster.
        now: aware.
        copies: how to open the other repositories, by name.

    Raises:
        StoreUnavailable: the archive could not be looked at.
        WrongSystem: the server at the DSN is not this archive's.
    """
    trend, catalog = read_trend(archive), read_catalog(archive)
    found = check_wal(cluster, archive, now=now, copies=copies, catalog=catalog)
    size = None if found.source_error else _source_bytes(cluster)
    outlook = look_ahead(cluster, archive, catalog, trend, size)
    goals = cluster.targets
    return Objectives(now, catalog, goals.rto, goals.rpo, trend, outlook, found, cluster.drill.stale_after)


def look_ahead(
    cluster: ClusterConfig, archive: Archive, catalog: Catalog, trend: Trend, source_bytes: int | None
) -> Outlook:
    """Forecast the restore that ``pgproof restore`` would make now: the same choice of backup, all archived WAL.

    The files are counted as large as the source is now where that is more: a backup taken before it grew would have
    more WAL to replay, and the next one will be larger.

    Args:
        cluster: its programs.
        archive: of the cluster.
        catalog: its backups.
        trend: of the last drills.
        source_bytes: size of the source's databases; None when it is not known.
    """
    try:
        plan = _plan_now(cluster, archive, catalog)
    except (Finding, NoBackup, SeveralFutures) as error:
        return Outlook(fault=f"no restore can be planned: {error.fact}", source_bytes=source_bytes)
    entry = catalog.entry(plan.record.label)
    if entry.failed:  # the plan takes one only when there is no other
        fault = f"every backup that could be restored failed, such as {entry.label} its {entry.failed_what}"
        return Outlook(entry.label, None, fault, source_bytes)
    stored = sum(record.raw_size for record in plan.chain)
    wal = max(0, plan.reach - plan.record.first_segment.start)
    load = Load(max(stored, source_bytes or 0), len(plan.chain), wal)
    return Outlook(plan.record.label, forecast(load, trend.drills), "", source_bytes)


def _plan_now(cluster: ClusterConfig, archive: Archive, catalog: Catalog) -> RestorePlan:
    return plan_restore(
        RestoreRequest(Path("/nowhere")),
        catalog,
        lambda size: list_for_recovery(archive, size),
        lambda major: WalReader(archive, find_bin_directory(major, cluster.bin_directory)),
        lambda data, tablespaces: Destination({}, {}),  # only what it would read is asked
    )


def _source_bytes(cluster: ClusterConfig) -> int | None:
    try:
        with connect(cluster) as connection:
            row: Any = connection.execute(_SIZE.encode()).fetchone()
    except PgproofError:
        return None
    return int(row[0])
