"""``expire`` and ``hold``."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from typing import Any

from pgproof.commands.backups import now
from pgproof.commands.console import Console, Session, table
from pgproof.config import ClusterConfig
from pgproof.errors import UsageError
from pgproof.repository.lease import hold_lease
from pgproof.restore.target import parse_time
from pgproof.retention.approval import Removal, needs_approval, refuse_unapproved
from pgproof.retention.clock import plan_now
from pgproof.retention.expire import ExpireResult, expire
from pgproof.retention.hold import add_hold, remove_hold
from pgproof.retention.old_system import (
    look_at_old,
    old_system_notes,
    old_systems,
    refuse_unagreed,
    remove_old,
)
from pgproof.retention.plan import ExpirePlan
from pgproof.retention.table import COLUMNS, rows
from pgproof.wording import counted, size


def run_expire(session: Session, name: str, dry_run: bool, yes: bool = False) -> int:
    """Show the plan, and carry it out under the lease unless it is a dry run.

    A plan that removes more than usual is asked for before the lease is taken: nobody waits for an answer.
    """
    cluster = session.cluster(name)
    archive = session.archive(cluster)
    plan = plan_now(cluster, archive, now)
    old = old_systems(cluster, archive)
    if dry_run:
        session.show(
            {**plan_dict(plan, None), "old_systems": [str(system) for system in old]},
            lambda c: show(c, plan, None, old),
        )
        return 0
    approved = agreed_to(session, cluster, plan, yes)
    with hold_lease(archive.store, archive.layout.lease, f'retention pruning of cluster "{name}"') as lease:
        plan = plan_now(cluster, archive, now)
        refuse_unapproved(name, plan, cluster.retention, approved)
        result = expire(archive, plan, lease)
    who = account_name() if approved else None
    content = {**plan_dict(plan, result, who), "old_systems": [str(system) for system in old]}
    session.show(content, lambda console: show(console, plan, result, old))
    return 0


def expire_old_system(session: Session, name: str, identifier: int, dry_run: bool, yes: bool) -> int:
    """Remove all that there is of a system identifier that the cluster has no more."""
    cluster = session.cluster(name)
    current = session.archive(cluster)
    if identifier not in old_systems(cluster, current):
        raise UsageError(
            f'cluster "{name}" has no other system identifier {identifier} in the repository',
            hint=f"pgproof list {name} names those that there are",
        )
    archive = current.repository.archive(name, identifier)
    found = look_at_old(archive, now())
    if not dry_run:
        refuse_unagreed(name, found, agreed=yes)
        with hold_lease(archive.store, archive.layout.lease, "removal of an old system") as lease:
            found = remove_old(cluster, current, archive, now(), lease)
    content = {
        "system_identifier": str(identifier),
        "backups": list(found.backups),
        "bytes": found.stored_size,
        "done": not dry_run,
    }
    done = "dry run: nothing was removed; there is" if dry_run else "removed"
    session.show(content, lambda console: console.print(f"{done} {found} of system identifier {identifier}"))
    return 0


def agreed_to(session: Session, cluster: ClusterConfig, plan: ExpirePlan, yes: bool) -> tuple[str, ...]:
    """What whoever runs the command agrees to remove; asked only for a plan above the share.

    Raises:
        ApprovalMissing: nobody is there to ask, or the answer is no.
    """
    if not needs_approval(plan, cluster.retention):
        return ()
    if yes:
        return plan.to_agree
    if not session.json and sys.stdin.isatty() and sys.stdout.isatty():
        show(session.console, plan, None)
        session.console.print(f"This removes {Removal.of(plan)}.")
        if session.console.input("Remove them? yes or no: ").strip().lower() == "yes":
            return plan.to_agree
    refuse_unapproved(cluster.name, plan, cluster.retention)
    return ()


def account_name() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name
        return str(os.getuid())


def plan_dict(
    plan: ExpirePlan, result: ExpireResult | None, approved_by: str | None = None
) -> dict[str, Any]:
    """A plan as ``--json`` shows it."""
    return {
        "backups": [
            {"backup": v.label, "keep": v.keep, "reasons": list(v.reasons), "state": v.state}
            for v in plan.verdicts
        ],
        "torn": list(plan.torn),
        "wal_objects": len(plan.remove_wal),
        "bytes": plan.freed,
        "warnings": list(plan.warnings),
        "done": result is not None,
        "approved_by": approved_by,
    }


def show(console: Console, plan: ExpirePlan, result: ExpireResult | None, old: Sequence[int] = ()) -> None:
    """The plan as a table, and what was done of it."""
    console.print(table("retention", COLUMNS, [tuple(row) for row in rows(plan)]))
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow")
    for note in old_system_notes(plan.root.partition("/")[0], old):
        console.print(note)
    if result is None:
        console.print(f"dry run: nothing was removed; {size(plan.freed)} would be")
    else:
        console.print(
            f"removed {counted(len(result.backups), 'backup')}, {len(result.torn)} torn ones and "
            f"{result.wal_objects} WAL "
            f"objects: {size(result.freed)}"
        )


def hold(
    session: Session,
    name: str,
    label: str,
    reason: str | None,
    until: str | None,
    release: bool,
    replace: bool,
) -> int:
    """Hold a backup, or let it go again."""
    archive = session.archive(session.cluster(name))
    if release:
        remove_hold(archive, label)
        session.show(
            {"backup": label, "held": False}, lambda c: c.print(f"backup {label} is not held any more")
        )
        return 0
    end = parse_time(until, "end of a hold") if until else None
    made = add_hold(archive, label, reason or "held by hand", end, now=now(), replace=replace)
    limit = f" until {made.until:%F %T%z}" if made.until else ""
    session.show(
        {
            "backup": label,
            "held": True,
            "reason": made.reason,
            "until": made.until and made.until.isoformat(),
        },
        lambda console: console.print(f"backup {label} is held{limit}: {made.reason}"),
    )
    return 0
