"""The flow ``restore-cluster``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow

from pgproof.restore.plan import RestoreRequest
from pgproof.restore.target import RecoveryTarget
from tasks.artifacts import show_restore
from tasks.restore import plan_cluster_restore, restore_files


@flow(name="restore-cluster", flow_run_name="restore {cluster} into {destination}")
def restore_cluster(
    cluster: str,
    destination: str,
    config: str | None = None,
    target_time: str | None = None,
    target_lsn: str | None = None,
    target_xid: str | None = None,
    target_name: str | None = None,
    target_immediate: bool = False,
    exclusive: bool = False,
    target_timeline: str | None = None,
    backup: str | None = None,
    tablespaces: dict[str, str] | None = None,
    standby: bool = False,
    target_action: Literal["pause", "promote", "shutdown"] = "pause",
    take_over: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Restore a cluster into a directory on the worker; it recovers when you start it.

    At three in the morning: everything is checked before the first write. Without Prefect, `pgproof restore` does
    the same; without pgproof, docs/runbooks/restore-by-hand.md does.

    Args:
        cluster: as pgproof.toml names it
        destination: data directory to make, on the worker; empty or absent
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        target_time: recover to this time, with its zone, such as 2026-11-23 20:15:00+01:00
        target_lsn: recover to this position in WAL
        target_xid: recover to the commit of this transaction
        target_name: recover to this restore point
        target_immediate: recover to where the backup is consistent, and no further
        exclusive: stop just before the target
        target_timeline: follow this timeline; default: the newest
        backup: label; default: the newest proven one that fits
        tablespaces: old path to new path
        standby: make a standby that follows the archive
        target_action: what the server does at the target
        take_over: the restored cluster archives on
        dry_run: show the plan and write nothing
    """
    target = RecoveryTarget.build(
        time=target_time,
        lsn=target_lsn,
        xid=target_xid,
        name=target_name,
        immediate=target_immediate,
        exclusive=exclusive,
        timeline=target_timeline,
    )
    spaces = tablespaces or {}
    request = RestoreRequest(Path(destination), target, backup, spaces, standby, target_action, take_over)
    plan = plan_cluster_restore(cluster, request, config)
    after = [] if dry_run else restore_files(cluster, plan, config)
    show_restore(cluster, plan.steps(), plan.warnings, after)
    return after
