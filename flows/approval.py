"""The question to a person, in the UI: may this pruning plan remove more than usual?

The run is suspended: it has no process and holds no turn while it waits. The answer belongs to the backups that were
shown: when the run goes on and the plan removes others by then, it asks again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field

from pgproof.retention.approval import Removal
from pgproof.retention.plan import ExpirePlan
from tasks.keys import key_for

PATIENCE = 20 * 3600  # seconds: an answer is not needed before the morning, and tomorrow's run asks anew


class PruningApproval(RunInput):
    """The form."""

    approve: bool = Field(
        False, description="yes removes the backups that the artifact names; no removes nothing"
    )
    name: str = Field(min_length=1, description="who decides")
    reason: str = Field("", description="why, for whoever reads it later")


@dataclass(frozen=True)
class Decision:
    """What was decided of a plan that removes more than usual."""

    approved: bool
    name: str
    reason: str

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{'approved' if self.approved else 'declined'} by {self.name}{why}"


def can_ask() -> bool:
    """Only a run of a deployment can be suspended and started again."""
    return deployment.id is not None


def ask(cluster: str, plan: ExpirePlan) -> Decision:
    """Suspend the run until somebody answers; nobody does in time: the run fails, and nothing was removed.

    Args:
        cluster: its name.
        plan: that needs an approval.
    """
    text = (
        f"The retention plan of **{cluster}** removes {Removal.of(plan)}.\n\n"
        f"The artifact `{key_for(cluster, 'retention')}` of this run has every backup with its reasons. Without an "
        f"answer within {PATIENCE // 3600} hours the run fails, and nothing is removed."
    )
    form = PruningApproval.with_initial_data(description=text, approve=False)
    answer = suspend_flow_run(wait_for_input=form, timeout=PATIENCE, key=_key(plan))
    return Decision(answer.approve, answer.name, answer.reason)


def _key(plan: ExpirePlan) -> str:
    """The same as long as the same backups go."""
    return hashlib.sha256(" ".join(sorted(plan.to_agree)).encode()).hexdigest()[:16]
