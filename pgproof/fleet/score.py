"""A score is what one cluster's repository says of its recovery now, and by what it misses its targets.

Nothing is measured here that another command does not measure: the newest backup and proof are those of ``list``, gaps
and windows those of ``wal check``, RTO and RPO those of ``objectives``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.backups.age import BackupAge, backup_age
from pgproof.backups.state import ProofAge, proof_age
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.gaps.copies import OpenCopy
from pgproof.gaps.gap import GapReport
from pgproof.gaps.lag import furthest
from pgproof.repository.repository import Archive
from pgproof.validation.objectives import Objectives, measure_objectives


@dataclass(frozen=True, slots=True)
class Miss:
    """One way in which a cluster is not in order.

    Args:
        what: it is, in a sentence without its full stop.
        command: that shows or mends it.
    """

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Reach:
    """The moments that can be recovered without a break up to the newest one.

    Args:
        start: end of the oldest backup whose window reaches as far as any.
        end: time of the newest commit in it; None when it was not read.
    """

    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was read for one cluster.

    Args:
        backup: age of the newest backup.
        proof: age of the newest proof.
        objectives: RTO and RPO beside their targets, with the gap check that they rest on.
    """

    backup: BackupAge
    proof: ProofAge
    objectives: Objectives


@dataclass(frozen=True, slots=True)
class Score:
    """The state of one cluster.

    Args:
        cluster: its name.
        at: when it was looked at.
        measured: what was read; None when the repository could not be read.
        error: why it could not.
    """

    cluster: str
    at: datetime
    measured: Measured | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.misses

    @property
    def reach(self) -> Reach | None:
        """What can be recovered; None when nothing can, or nothing is known."""
        return reach_of(self.measured.objectives.wal.report) if self.measured else None

    @property
    def missing(self) -> int | None:
        """WAL segments that recoveries need and that are missing; None when nothing is known."""
        if self.measured is None:
            return None
        return sum(gap.count for gap in self.measured.objectives.wal.report.gaps)

    @property
    def misses(self) -> tuple[Miss, ...]:
        """Everything that is not in order, the worst first; what nobody measured is not in order."""
        if self.measured is None:
            return (Miss(f"it could not be read: {self.error}", f"pgproof doctor {self.cluster}"),)
        return tuple(_misses(self.cluster, self.measured))

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        content = {
            "cluster": self.cluster,
            "at": self.at.isoformat(),
            "ok": self.ok,
            "error": self.error,
            "misses": [{"what": miss.what, "command": miss.command} for miss in self.misses],
        }
        return content | (_measured_dict(self.measured, self) if self.measured else {})


def measure_score(
    cluster: ClusterConfig,
    archive: Archive,
    now: datetime,
    copies: Mapping[str, OpenCopy] | None = None,
) -> Score:
    """Look at one cluster; nothing is written, and its source is only asked how far it is.

    Args:
        cluster: with its targets.
        archive: of the cluster.
        now: aware.
        copies: how to open the other repositories, by name.

    Raises:
        StoreUnavailable: the archive could not be looked at.
        WrongSystem: the server at the DSN is not this archive's.
    """
    objectives = measure_objectives(cluster, archive, now, copies)
    backup = backup_age(objectives.catalog, cluster.targets.backup_age, now)
    proof = proof_age(objectives.catalog, now, cluster.drill.stale_after)
    return Score(cluster.name, now, Measured(backup, proof, objectives))


def unread(cluster: str, now: datetime, error: BaseException) -> Score:
    """The score of a cluster whose repository could not be read.

    Args:
        cluster: its name.
        now: aware.
        error: that stood in the way.
    """
    said = error.fact if isinstance(error, PgproofError) else str(error)
    return Score(cluster, now, None, " ".join(said.split()) or type(error).__name__)


def reach_of(report: GapReport) -> Reach | None:
    """The recovery windows that reach furthest on the newest timeline, as one stretch of time."""
    newest = furthest(report, None)
    if newest is None:
        return None
    same = [w for w in report.windows if w.timeline == newest.timeline and w.end == newest.end]
    times = [window.to_time for window in same if window.to_time is not None]
    return Reach(min(window.from_time for window in same), max(times, default=None))


def _misses(cluster: str, measured: Measured) -> Iterator[Miss]:
    backup, proof, goals = measured.backup, measured.proof, measured.objectives
    for finding in goals.wal.findings:
        yield Miss(finding, f"pgproof {'backup' if goals.wal.no_backup else 'wal check'} {cluster}")
    if backup.seconds is None and not goals.wal.no_backup:
        yield Miss("no backup can be restored: each builds on one that is gone", f"pgproof backup {cluster}")
    elif backup.seconds is not None and backup.overdue:
        yield Miss("the newest backup is older than backup_age", f"pgproof backup {cluster}")
    if proof.failed:
        yield Miss(proof.failed, f"pgproof list {cluster}")
    if not proof.label:
        yield Miss("nothing is proven", f"pgproof drill {cluster}")
    elif proof.stale:
        yield Miss("the newest proof is older than stale_after", f"pgproof drill {cluster}")
    if goals.rto_met is None:
        yield Miss("the recovery time was not measured", f"pgproof drill {cluster}")
    elif not goals.rto_met:
        why = f": {goals.outlook.fault}" if goals.outlook.fault else ""
        yield Miss(f"the target rto is missed{why}", f"pgproof objectives {cluster}")
    if goals.rpo_met is None and not goals.wal.doubts:
        yield Miss("what would be lost now is not known", f"pgproof objectives {cluster}")


def _measured_dict(measured: Measured, score: Score) -> dict[str, Any]:
    proof, backup, goals = measured.proof, measured.backup, measured.objectives
    reach = score.reach
    return {
        "backup": {"label": backup.label, "age_seconds": backup.seconds, "overdue": backup.overdue},
        "proof": {
            "backup": proof.label or None,
            "at": proof.at.isoformat() if proof.at else None,
            "age_seconds": proof.seconds if proof.at else None,
            "stale": proof.stale,
        },
        "window": {
            "start": reach.start.isoformat() if reach else None,
            "end": reach.end.isoformat() if reach and reach.end else None,
        },
        "rpo": {"target": goals.rpo, "measured": goals.wal.rpo_seconds, "met": goals.rpo_met},
        "rto": {
            "target": goals.rto,
            "measured": goals.trend.newest.rto_seconds if goals.trend.newest else None,
            "forecast": goals.forecast_seconds,
            "met": goals.rto_met,
        },
        "missing_segments": score.missing,
    }
