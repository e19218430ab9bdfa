"""An automation is what Prefect keeps of an alert: one that begins it, and one that says when it is over.

Measured on Prefect's own trigger service. A reactive trigger with ``after`` answers the first event of ``expect``
that follows one of ``after``, and then waits for the next of ``after``: so the first gap after a whole archive is one
message, however often it is found again. The end is armed by ``prefect.automation.triggered`` of the beginning, so that
nobody is told of an end whose beginning was not told. A proactive trigger with ``after`` fires once, and not again
before a sign has come, but only with ``for_each``: without, the server starts its clock again by itself, for ever, and
has no event to fill the words from. Whatever an alert waits for, ``SET`` counts for it as well: applying an alert sends
that event for it, or a cluster that never succeeded would never be missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from deployments.alerts.template import SUBJECT, AlertTemplate
from deployments.server import POOL

SET = "pgproof.alerts.set"  # an alert was applied: its clock starts
TRIGGERED = "prefect.automation.triggered"
DEPLOYMENT = "related:deployment:prefect.resource.id"
CLUSTER = "prefect.resource.name"
OWNER = "pgproof.alert."  # + cluster.alert, + ".over": a tag, by which we know ours among the user's own
_EVER = timedelta(days=3650)  # a state that lasts until its end comes


@dataclass(frozen=True, slots=True)
class Wanted:
    """An automation as it shall be.

    Args:
        cluster, alert: what it is of.
        core: what the server shall hold.
        seeded: it waits for ``SET`` at first.
        silent: it is a dead-man switch.
    """

    cluster: str
    alert: str
    core: AutomationCore
    seeded: bool = False
    silent: bool = False

    @property
    def owner(self) -> str:
        """The tag by which it is known as ours, and the resource of its ``SET``."""
        return next(tag for tag in self.core.tags if tag.startswith(OWNER))


def resource_id(cluster: str, alert: str = "") -> str:
    """What an automation is of; the beginning of it for all of a cluster."""
    return f"{OWNER}{cluster}.{alert}"


def automations_of(cluster: str, templates: Sequence[AlertTemplate], blocks: Sequence[UUID]) -> list[Wanted]:
    """Every automation of a cluster.

    Args:
        cluster: its name.
        templates: of the file, for any cluster.
        blocks: of notifications; each gets every message.
    """
    found = []
    for template in templates:
        alert = template.for_cluster(cluster)
        found.append(_beginning(cluster, alert, blocks))
        if alert.over:
            found.append(_end(cluster, alert, blocks))
    return found


def _beginning(cluster: str, alert: AlertTemplate, blocks: Sequence[UUID]) -> Wanted:
    seeded = alert.silence is not None or not alert.every
    if alert.silence is not None:
        signs = set(alert.silence.of)
        within = timedelta(seconds=alert.silence.seconds)
        trigger = _trigger(cluster, alert, {SET, *signs}, signs, within, Posture.Proactive)
    elif alert.every:
        trigger = _trigger(cluster, alert, set(), set(alert.when), timedelta(0))
    else:
        trigger = _trigger(cluster, alert, {SET, *alert.over}, set(alert.when), _EVER)
    core = _automation(cluster, alert, trigger, _messages(blocks, alert.subject, alert.body))
    return Wanted(cluster, alert.name, core, seeded, alert.silence is not None)


def _end(cluster: str, alert: AlertTemplate, blocks: Sequence[UUID]) -> Wanted:
    if alert.flows:
        trigger = _trigger(cluster, alert, set(alert.when), set(alert.over), _EVER)
    else:
        trigger = _trigger(cluster, alert, {TRIGGERED}, set(alert.over), _EVER)
    core = _automation(
        cluster, alert, trigger, _messages(blocks, alert.over_subject, alert.over_body), ".over"
    )
    return Wanted(cluster, alert.name, core)


def _messages(blocks: Sequence[UUID], subject: str, body: str) -> list[Any]:
    short = f'{{% filter truncate({SUBJECT}, true, "...", 0) %}}{subject}{{% endfilter %}}'
    return [SendNotification(block_document_id=block, subject=short, body=body) for block in blocks]


def name_of(cluster: str, alert: AlertTemplate) -> str:
    """Name of the automation that begins an alert, as the UI lists it."""
    return f"{POOL} {cluster}: {alert.title}"


def _automation(
    cluster: str, alert: AlertTemplate, trigger: EventTrigger, actions: list[Any], kind: str = ""
) -> AutomationCore:
    return AutomationCore(
        name=name_of(cluster, alert) + (", over" if kind else ""),
        description=f"Made by pgproof alerts apply, which puts back what is changed here. Alert {alert.name}.",
        enabled=alert.enabled,
        tags=[POOL, cluster, resource_id(cluster, alert.name) + kind],
        trigger=trigger,
        actions=actions,
    )


def _trigger(
    cluster: str,
    alert: AlertTemplate,
    after: set[str],
    expect: set[str],
    within: timedelta,
    posture: Any = Posture.Reactive,
) -> EventTrigger:
    match, related = _of_flows(cluster, alert) if alert.flows else (_of_cluster(cluster, alert, after), [])
    return EventTrigger(
        after=after,
        expect=expect,
        match=match,
        match_related=related,
        for_each=_for_each(alert, after),
        posture=posture,
        threshold=1,
        within=within,
    )


def _for_each(alert: AlertTemplate, after: set[str]) -> set[str]:
    if alert.silence and TRIGGERED not in after:
        return {CLUSTER}
    return {DEPLOYMENT} if alert.each and after else set()  # one deployment's run ends no other's failure


def _of_cluster(cluster: str, alert: AlertTemplate, after: set[str]) -> dict[str, Any]:
    """Events of the cluster, and what arms the trigger: the alert's ``SET``, or the automation that began it."""
    about = f"pgproof.cluster.{cluster}"
    if TRIGGERED not in after:
        return {"prefect.resource.id": [about, resource_id(cluster, alert.name)]}
    return {
        "prefect.resource.id": [about, "prefect.automation.*"],
        "prefect.resource.name": [cluster, name_of(cluster, alert)],
    }


def _of_flows(cluster: str, alert: AlertTemplate) -> tuple[dict[str, Any], list[Any]]:
    """Events of the cluster's flow runs: those that have both tags, as prefect.yaml gives them."""
    related: list[Any] = [
        {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
        for tag in (POOL, cluster)
    ]
    if alert.flows != "*":
        related.append({"prefect.resource.role": "flow", "prefect.resource.name": str(alert.flows)})
    return {"prefect.resource.id": ["prefect.flow-run.*", resource_id(cluster, alert.name)]}, related
