"""An approval is a person's yes to an expire plan that would remove more than usual.

A retention policy with a typing error looks like any other plan, and what it removes does not come back. A plan above
the share ``approve_above`` is carried out only when somebody agreed to just these backups.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pgproof.config import RetentionConfig
from pgproof.errors import ApprovalMissing
from pgproof.retention.plan import ExpirePlan


@dataclass(frozen=True, slots=True)
class Removal:
    """How much of the backups a plan removes, by number and by stored bytes."""

    backups: int
    of_backups: int
    size: int
    of_size: int

    @classmethod
    def of(cls, plan: ExpirePlan) -> Removal:
        """What a plan removes; WAL follows from the backups, and is not counted."""
        return cls(
            len(plan.expired),
            len(plan.verdicts),
            sum(verdict.stored_size for verdict in plan.expired),
            sum(verdict.stored_size for verdict in plan.verdicts),
        )

    @property
    def share(self) -> float:
        """The larger of both shares, 0 to 1."""
        parts = ((self.backups, self.of_backups), (self.size, self.of_size))
        return max(part / whole if whole else 0.0 for part, whole in parts)

    def __str__(self) -> str:
        return (
            f"{self.backups:,} of {self.of_backups:,} backups, "
            f"{self.size:,} of their {self.of_size:,} bytes: {self.share:.0%}"
        )


def needs_approval(plan: ExpirePlan, policy: RetentionConfig) -> bool:
    """Whether somebody must agree first.

    Args:
        plan: of an expire.
        policy: with the share above which it asks.
    """
    return Removal.of(plan).share > policy.approve_above


def refuse_unapproved(
    cluster: str, plan: ExpirePlan, policy: RetentionConfig, approved: Collection[str] = ()
) -> None:
    """Refuse a plan that removes backups to which nobody agreed.

    Args:
        cluster: its name.
        plan: as it is carried out.
        policy: with the share above which it asks.
        approved: labels of the backups that somebody agreed to remove.

    Raises:
        ApprovalMissing: it needs an approval, and removes others than these.
    """
    if not needs_approval(plan, policy) or set(plan.remove_backups) <= set(approved):
        return
    new = [label for label in plan.remove_backups if label not in approved]
    since = f" Nobody agreed to remove {', '.join(new[:5])}." if approved else ""
    raise ApprovalMissing(
        f'cannot expire backups of cluster "{cluster}" without an approval',
        f"The plan removes {Removal.of(plan)}, and above {policy.approve_above:.0%} somebody must agree "
        f"(retention.approve_above).{since} Nothing was removed.",
        f"pgproof expire {cluster} --dry-run shows the plan; pgproof expire {cluster} --yes carries it out",
    )
