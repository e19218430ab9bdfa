"""The flow ``restore-cluster``."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from flows.base_backup import Cluster, ConfigPath
from tasks.artifacts import show_restore
from tasks.restore import plan_cluster_restore, restore_files


@flow(name="restore-cluster", flow_run_name="restore {cluster} into {destination}")
def restore_cluster(
    cluster: Cluster,
    destination: Annotated[str, Field(description="Data directory to make, on the worker; empty or absent")],
    config: ConfigPath = None,
    target_time: Annotated[str | None, Field(description="With its zone: 2026-11-23 20:15:00+01:00")] = None,
    target_lsn: str | None = None,
    target_xid: str | None = None,
    target_name: Annotated[str | None, Field(description="A restore point")] = None,
    target_immediate: bool = False,
    exclusive: bool = False,
    target_timeline: str | None = None,
    backup: Annotated[str | None, Field(description="Default: the newest proven one that fits")] = None,
    tablespaces: Annotated[dict[str, str] | None, Field(description="Old path to new path")] = None,
    standby: bool = False,
    target_action: Literal["pause", "promote", "shutdown"] = "pause",
    take_over: Annotated[bool, Field(description="The restored cluster archives on")] = False,
    dry_run: bool = False,
) -> list[str]:
    """Restore a cluster into a directory on the worker; it recovers when you start it.

    At three in the morning: everything is checked before the first write. Without Prefect, `pgproof restore` does
    the same; without pgproof, docs/runbooks/restore-by-hand.md does.
    """
    target = {
        "time": target_time,
        "lsn": target_lsn,
        "xid": target_xid,
        "name": target_name,
        "immediate": target_immediate,
        "exclusive": exclusive,
        "timeline": target_timeline,
    }
    options = {
        "label": backup,
        "tablespaces": tablespaces or {},
        "standby": standby,
        "target_action": target_action,
        "take_over": take_over,
    }
    plan = plan_cluster_restore(cluster, destination, target, options, config)
    after = [] if dry_run else restore_files(cluster, plan, config)
    show_restore(cluster, plan.steps(), plan.warnings, after)
    return after
