"""Applying alerts: what the server has is compared with what it shall have, and only the difference is changed.

The order is made so that dying anywhere leaves an alert too many rather than one too few: a changed automation is made
anew, its clock is started, and only then the old one is removed. What is there twice, or has no clock, is put right by
the next run. An automation is ours by its tag; the user's own are never touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from prefect.events.schemas.automations import AutomationCore

from deployments.alerts.automations import OFF, OWNER, SET, Wanted, resource_id
from deployments.server import POOL

_PAGE = 200  # automations that the server answers at once
_SETTLE = 6.0  # seconds after which the server's trigger service knows a new automation: it looks every 5
_REMEMBERED = timedelta(days=1)  # the server forgets events after a week

What = Literal["make", "replace", "keep", "remove"]


@dataclass(frozen=True, slots=True)
class Existing:
    """An automation of ours on the server.

    Args:
        id: of the automation.
        owner: what it is of; its tag.
        core: what it does.
        created: when it was made.
    """

    id: UUID
    owner: str
    core: AutomationCore
    created: datetime

    @property
    def name(self) -> str:
        return self.core.name

    @classmethod
    def from_answer(cls, tree: dict[str, Any]) -> Existing | None:
        """Of what the server answers; None when it is not ours."""
        core = AutomationCore.model_validate(tree)
        owner = next((tag for tag in core.tags if tag.startswith(OWNER)), None)
        if owner is None:
            return None
        return cls(UUID(tree["id"]), owner, core, datetime.fromisoformat(tree["created"]))


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one automation.

    Args:
        what: of the four.
        name: of the automation.
        wanted: as it shall be; None when it goes.
        existing: what is there of it, and goes unless it is kept.
        enabled: whether it tells: as the file says, or as somebody switched it in the UI.
        starts: its clock is started.
    """

    what: What
    name: str
    wanted: Wanted | None = None
    existing: tuple[UUID, ...] = ()
    enabled: bool = False
    starts: bool = False

    @property
    def paused(self) -> bool:
        """Whether somebody paused it in the UI, and it stays so."""
        return self.wanted is not None and self.wanted.core.enabled and not self.enabled

    @property
    def switched_on(self) -> bool:
        """Whether it is off by default, somebody switched it on in the UI, and it stays so."""
        return self.wanted is not None and self.enabled and not self.wanted.core.enabled


def read_ours(client: Any, cluster: str | None = None) -> list[Existing]:
    """Every automation that pgproof made, of one cluster or of all, by name.

    Args:
        client: of the server.
        cluster: its name.
    """
    prefix = OWNER if cluster is None else resource_id(cluster)
    found: list[Existing | None] = []
    while True:
        body = {"sort": "NAME_ASC", "limit": _PAGE, "offset": len(found), "automations": None}
        page = client.request("POST", "/automations/filter", json=body).json()
        found += [Existing.from_answer(one) for one in page]
        if len(page) < _PAGE:
            return [one for one in found if one is not None and one.owner.startswith(prefix)]


def without_clock(client: Any, existing: Sequence[Existing], now: datetime) -> set[UUID]:
    """Automations made lately whose clock was never started: whoever made them died before.

    Args:
        client: of the server.
        existing: ours.
        now: aware.
    """
    young = [one for one in existing if now - one.created < _REMEMBERED]
    found = set()
    for one in young:
        wanted = {
            "event": {"name": [SET]},
            "resource": {"id": [one.owner]},
            "occurred": {"since": one.created.isoformat()},
        }
        if not client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1}).json()["events"]:
            found.add(one.id)
    return found


def plan_apply(
    wanted: Sequence[Wanted], existing: Sequence[Existing], without_clocks: Collection[UUID] = ()
) -> list[Step]:
    """What to do so that the server has what is wanted, once each; a pure function.

    The clock of a dead-man switch is started whenever it is applied: one that runs goes on, and one that the server
    threw away while it was down, or that fired, runs again.

    Args:
        wanted: of some clusters.
        existing: ours, of the same clusters.
        without_clocks: of these, from ``without_clock``.
    """
    steps = []
    for one in wanted:
        there = [found for found in existing if found.owner == one.owner]
        enabled = _enabled(one, there)
        same = [found for found in there if _content(found.core) == _content(one.core)]
        if same:
            starts = one.silent or (one.seeded and same[0].id in without_clocks)
            steps.append(Step("keep", one.core.name, one, (same[0].id,), enabled, starts))
            steps += [
                Step("remove", found.name, None, (found.id,)) for found in there if found is not same[0]
            ]
        else:
            old = tuple(found.id for found in there)
            what: What = "replace" if there else "make"
            steps.append(Step(what, one.core.name, one, old, enabled, one.seeded))
    owners = {one.owner for one in wanted}
    gone = [found for found in existing if found.owner not in owners]
    return [*steps, *(Step("remove", found.name, None, (found.id,)) for found in gone)]


def _enabled(wanted: Wanted, there: Sequence[Existing]) -> bool:
    """Whether it tells: as the file says, unless somebody switched in the UI what the file said before."""
    switched = [found.core.enabled for found in there if found.core.enabled == (OFF in found.core.tags)]
    return all(switched) if switched else wanted.core.enabled


def _content(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does; that it is paused is the operator's, and the server keeps the owner to itself."""
    tree = automation.model_dump(exclude={"enabled", "owner_resource"})
    return {**tree, "tags": sorted(tree["tags"])}


def execute(client: Any, steps: Sequence[Step], sleep: Callable[[float], None] = time.sleep) -> None:
    """Carry out a plan: make, start the clocks, and remove what is replaced or not wanted.

    Args:
        client: of the server.
        steps: from ``plan_apply``.
        sleep: waits until the server's trigger service knows the new automations, or it would miss their clocks' start.
    """
    made = [step for step in steps if step.what in ("make", "replace")]
    for step in made:
        assert step.wanted is not None
        client.create_automation(step.wanted.core.model_copy(update={"enabled": step.enabled}))
    if any(step.starts for step in made):
        sleep(_SETTLE)
    for step in steps:
        if step.starts and step.wanted is not None:
            send(client, seed(step.wanted))
    for step in steps:
        if step.what in ("replace", "remove"):
            for old in step.existing:
                client.delete_automation(old)


def seed(wanted: Wanted) -> dict[str, Any]:
    """The event that starts an alert's clock, with the tags of the cluster's flow runs."""
    words = {
        "what": f"alert {wanted.alert} of cluster {wanted.cluster} was set",
        "meaning": "nothing was heard since",
        "command": f"pgproof alerts list {wanted.cluster}",
    }
    tags = [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
        for tag in (POOL, wanted.cluster)
    ]
    resource = {"prefect.resource.id": wanted.owner, "prefect.resource.name": wanted.cluster}
    return event(SET, resource, words, tags)


def event(
    name: str, resource: dict[str, str], payload: dict[str, Any], related: list[Any] | None = None
) -> dict[str, Any]:
    """An event that happens now, as the server takes it."""
    return {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": resource,
        "related": related or [],
        "payload": payload,
    }


def send(client: Any, content: dict[str, Any]) -> None:
    """Send an event, and wait until the server has it: ``emit_event`` sends it some time, from a thread."""
    client.request("POST", "/events", json=[content])
