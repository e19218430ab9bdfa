"""An approval is a person's yes to an expire plan that would remove more than usual.

A retention policy with a typing error looks like any other plan, and what it removes does not come back. A plan above
the share ``approve_above``, of the backups or of the windows that WAL makes of them, is carried out only when somebody
agreed to just that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pgproof.config import RetentionConfig
from pgproof.errors import ApprovalMissing
from pgproof.retention.plan import ExpirePlan


@dataclass(frozen=True, slots=True)
class Removal:
    """How much of the backups a plan removes, by number and by stored bytes, and how much of the recovery windows.

    Args:
        backups, of_backups: that are removed, of how many.
        size, of_size: stored bytes of them.
        windows, of_windows: backups from which recovery reaches everything up to now, and how many of them it will not.
    """

    backups: int
    of_backups: int
    size: int
    of_size: int
    windows: int = 0
    of_windows: int = 0

    @classmethod
    def of(cls, plan: ExpirePlan) -> Removal:
        """What a plan removes."""
        return cls(
            len(plan.expired),
            len(plan.verdicts),
            sum(verdict.stored_size for verdict in plan.expired),
            sum(verdict.stored_size for verdict in plan.verdicts),
            len(plan.cut_off),
            len(plan.reaching),
        )

    @property
    def share(self) -> float:
        """The largest of the shares, 0 to 1."""
        parts = (
            (self.backups, self.of_backups),
            (self.size, self.of_size),
            (self.windows, self.of_windows),
        )
        return max(part / whole if whole else 0.0 for part, whole in parts)

    def __str__(self) -> str:
        return (
            f"{self.backups:,} of {self.of_backups:,} backups, "
            f"{self.size:,} of their {self.of_size:,} bytes{self._wal}: {self.share:.0%}"
        )

    @property
    def _wal(self) -> str:
        return f", the WAL after {self.windows:,} of {self.of_windows:,} backups" if self.windows else ""


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
    """Refuse a plan that removes what nobody agreed to.

    Args:
        cluster: its name.
        plan: as it is carried out.
        policy: with the share above which it asks.
        approved: what somebody agreed to, of ``ExpirePlan.to_agree``.

    Raises:
        ApprovalMissing: it needs an approval, and removes others than these.
    """
    if not needs_approval(plan, policy) or set(plan.to_agree) <= set(approved):
        return
    new = [one for one in plan.to_agree if one not in approved]
    since = f" Nobody agreed to remove {', '.join(new[:5])}." if approved else ""
    raise ApprovalMissing(
        f'cannot expire backups of cluster "{cluster}" without an approval',
        f"The plan removes {Removal.of(plan)}, and above {policy.approve_above:.0%} somebody must agree "
        f"(retention.approve_above).{since} Nothing was removed.",
        f"pgproof expire {cluster} --dry-run shows the plan; pgproof expire {cluster} --yes carries it out",
    )
