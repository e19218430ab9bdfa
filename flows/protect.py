"""The flow ``protect``: base backup, WAL gap check, restore validation and retention pruning, chained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect import flow

from flows.restore_validation import prove, refuse_unproven
from flows.taken import tell_backup
from flows.wal_gap_check import refuse_gaps
from flows.writer import one_writer
from pgproof.gaps.check import WalCheck
from pgproof.retention.expire import ExpireResult
from pgproof.retention.plan import ExpirePlan
from tasks.artifacts import show_retention, show_wal
from tasks.base_backup import TakenBackup, take_base_backup
from tasks.events import emit
from tasks.offers import offer_backups
from tasks.proof_events import rpo_events
from tasks.retention import expire_backups, is_above_share, plan_retention
from tasks.validation import StoredProof
from tasks.wal import check_wal_archive


@dataclass(frozen=True)
class Protection:
    """What one run of the chain did."""

    taken: TakenBackup
    wal: WalCheck
    stored: StoredProof
    plan: ExpirePlan
    expired: ExpireResult
    waits: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return {
            "backup": self.taken.record.label,
            "seconds": self.taken.seconds,
            "raw_size": self.taken.record.raw_size,
            "stored_size": self.taken.record.stored_size,
            "wal": self.wal.as_dict(),
            "proof": {**self.stored.proof.as_dict(), "key": self.stored.key},
            "retention": [
                {"backup": v.label, "keep": v.keep, "reasons": list(v.reasons)} for v in self.plan.verdicts
            ],
            "expired": list(self.expired.backups),
            "waits_for_approval": self.waits,
        }


# The chain never waits for a person: the flow retention-pruning asks, and nothing is removed until then
WAITS = "waits for an approval, nothing was removed: retention-pruning asks for it, or pgproof expire --yes"


@flow(name="protect", flow_run_name="protect {cluster}")
def protect(cluster: str, config: str | None = None, incremental: bool = False) -> Protection:
    """Take a backup, check the WAL archive, prove the backup, and only then remove what is old.

    At three in the morning: the run failed at the first step that found something, and nothing was removed after
    it. Its artifacts say what: backup, WAL, proof, retention. Restoring does not need this server: `pgproof restore`.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        incremental: build on the newest backup; needs PostgreSQL 17 with summarize_wal
    """
    with one_writer(cluster):
        taken = take_base_backup(cluster, config, incremental)
    tell_backup(cluster, taken, config)
    wal = check_wal_archive(cluster, config)
    show_wal(cluster, wal)
    emit(cluster, rpo_events(cluster, wal))
    stored = prove(cluster, config, taken.record.label)
    refuse_gaps(cluster, wal)
    refuse_unproven(cluster, stored)
    with one_writer(cluster):
        plan = plan_retention(cluster, config)
        waits = WAITS if is_above_share(cluster, plan, config) else ""
        show_retention(cluster, plan, waits)
        expired = ExpireResult() if waits else expire_backups(cluster, config)
    if expired.backups:
        offer_backups(cluster, config)
    return Protection(taken, wal, stored, plan, expired, waits)
