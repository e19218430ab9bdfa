"""The flow ``retention-pruning``."""

from __future__ import annotations

from prefect import flow

from flows.approval import ask, can_ask
from flows.writer import one_writer
from tasks.artifacts import show_retention
from tasks.offers import offer_backups
from tasks.retention import expire_backups, is_above_share, plan_retention


@flow(name="retention-pruning", flow_run_name="retention pruning of {cluster}")
def retention_pruning(cluster: str, config: str | None = None, dry_run: bool = False) -> dict[str, object]:
    """Remove what newer proof has made unnecessary.

    At three in the morning: it never removes the newest proven backup, nor WAL that a kept backup needs. A run
    that died left nothing half-removed that is still listed; run it again. A suspended run waits for a person: its
    plan removes more than `retention.approve_above` allows. Read the artifact, press Resume, answer the form.
    Nobody answers within 20 hours: the run fails, and nothing was removed.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        dry_run: show the plan and remove nothing
    """
    plan = plan_retention(cluster, config)
    planned = list(plan.remove_backups)
    asks = is_above_share(cluster, plan, config)
    show_retention(cluster, plan, "waits for an approval" if asks and not dry_run else "")
    if dry_run:
        return {"planned": planned, "removed": [], "approval": ""}
    decision = ask(cluster, plan) if asks and can_ask() else None
    if decision is not None:
        show_retention(cluster, plan, str(decision))
        if not decision.approved:
            return {"planned": planned, "removed": [], "approval": str(decision)}
    with one_writer(cluster):
        expired = expire_backups(cluster, config, plan.to_agree if decision is not None else ())
    offer_backups(cluster, config)
    return {"planned": planned, "removed": list(expired.backups), "approval": str(decision or "")}
