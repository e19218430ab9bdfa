"""The flow ``retention-pruning``."""

from __future__ import annotations

from prefect import flow

from flows.writer import one_writer
from tasks.artifacts import show_retention
from tasks.retention import expire_backups, plan_retention


@flow(name="retention-pruning", flow_run_name="retention pruning of {cluster}")
def retention_pruning(cluster: str, config: str | None = None, dry_run: bool = False) -> list[str]:
    """Remove what newer proof has made unnecessary.

    At three in the morning: it never removes the newest proven backup, nor WAL that a kept backup needs. A run
    that died left nothing half-removed that is still listed; run it again.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        dry_run: show the plan and remove nothing
    """
    plan = plan_retention(cluster, config)
    show_retention(cluster, plan)
    if dry_run:
        return list(plan.remove_backups)
    with one_writer(cluster):
        return list(expire_backups(cluster, config).backups)
