"""The tasks of retention pruning: the plan is shown before it is carried out."""

from __future__ import annotations

from prefect import task

from pgproof.repository.lease import hold_lease
from pgproof.retention.approval import needs_approval, refuse_unapproved
from pgproof.retention.clock import plan_now
from pgproof.retention.expire import ExpireResult, expire
from pgproof.retention.plan import ExpirePlan
from tasks.retries import HOUR, RETRY, settings
from tasks.work import now, open_work, read_config


@task(**settings("plan retention", HOUR), **RETRY)
def plan_retention(cluster: str, config: str | None = None) -> ExpirePlan:
    """A verdict with its reasons for every backup; nothing is removed."""
    work = open_work(cluster, config)
    return plan_now(work.cluster, work.archive, now)


@task(**settings("expire", 6 * HOUR), **RETRY)
def expire_backups(cluster: str, config: str | None = None, approved: tuple[str, ...] = ()) -> ExpireResult:
    """Carry out the plan as it is now, alone: under the repository's lease, records first.

    One that removes more than usual is refused, unless somebody approved just that.
    """
    work = open_work(cluster, config)
    archive = work.archive
    purpose = f'retention pruning of cluster "{cluster}"'
    with hold_lease(archive.store, archive.layout.lease, purpose) as lease:
        plan = plan_now(work.cluster, archive, now)
        refuse_unapproved(cluster, plan, work.cluster.retention, approved)
        return expire(archive, plan, lease)


def is_above_share(cluster: str, plan: ExpirePlan, config: str | None = None) -> bool:
    """Whether somebody must agree before the plan is carried out."""
    return needs_approval(plan, read_config(config).cluster(cluster).retention)
