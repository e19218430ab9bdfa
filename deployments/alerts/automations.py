"""An automation is what Prefect keeps of an alert: one that begins it, and one that says when it is over.

A state that lasts is a sequence of two: its end, then its beginning. Prefect's server fires it at the first gap after
a whole archive, and not again before the archive was whole, however often the gap is found; the sequence in the other
order is its end. Every part is a trigger without ``after``, whose first statement in the server's database is a write.
Measured with Prefect 3.8.8 on SQLite: for an event that a trigger awaits after another, the server reads first and then
writes, which fails as "database is locked" when events come in a burst; after four tries at once the alert is lost.

A dead-man switch is a proactive trigger with ``after``: it fires once, and not again before a sign has come, but only
with ``for_each``: without, the server starts its clock again by itself, for ever, and has no event to fill the
words from. Whatever an alert waits for at first, ``SET`` counts for it as well: applying an alert sends that event for
it, or a cluster that never succeeded would never be missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture, SequenceTrigger

from deployments.alerts.template import SUBJECT, AlertTemplate, Silence
from deployments.server import POOL

SET = "pgproof.alerts.set"  # an alert was applied: its clock starts
TRIGGERED = "prefect.automation.triggered"
DEPLOYMENT = "related:deployment:prefect.resource.id"
CLUSTER = "prefect.resource.name"
OFF = "off by default"  # a tag: that it does not tell is no oversight
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
    silent = alert.silence is not None
    trigger: EventTrigger | SequenceTrigger
    if alert.silence is not None:
        trigger = _dead_man(cluster, alert, alert.silence)
    elif alert.every:
        trigger = _at_once(cluster, alert, alert.when)
    else:
        states = [_at_once(cluster, alert, (SET, *alert.over)), _at_once(cluster, alert, alert.when)]
        trigger = SequenceTrigger(triggers=states)
    core = _automation(cluster, alert, trigger, _messages(blocks, alert.subject, alert.body))
    return Wanted(cluster, alert.name, core, silent or not alert.every, silent)


def _end(cluster: str, alert: AlertTemplate, blocks: Sequence[UUID]) -> Wanted:
    trigger: EventTrigger | SequenceTrigger
    if alert.each:  # one deployment's run ends no other's failure, and a sequence does not tell them apart
        trigger = _run_again(cluster, alert)
    else:
        begun = _missed(cluster, alert) if alert.silence else _at_once(cluster, alert, alert.when)
        trigger = SequenceTrigger(triggers=[begun, _at_once(cluster, alert, alert.over)])
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
    cluster: str,
    alert: AlertTemplate,
    trigger: EventTrigger | SequenceTrigger,
    actions: list[Any],
    kind: str = "",
) -> AutomationCore:
    return AutomationCore(
        name=name_of(cluster, alert) + (", over" if kind else ""),
        description=_description(alert, kind),
        enabled=alert.enabled,
        tags=[POOL, cluster, resource_id(cluster, alert.name) + kind, *([] if alert.enabled else [OFF])],
        trigger=trigger,
        actions=actions,
    )


def _description(alert: AlertTemplate, kind: str) -> str:
    """What the UI says of it; of its trigger it only says that it is a custom one."""
    made = f"Alert {alert.name}, made by pgproof alerts apply, which puts back what is changed here."
    if not alert.about:
        return made
    about = f"{alert.about[0].upper()}{alert.about[1:]}."
    return f"The end of it, once it was told: {about} {made}" if kind else f"{about} {made}"


def _at_once(cluster: str, alert: AlertTemplate, events: Sequence[str]) -> EventTrigger:
    """Each of these events of the cluster, or of its flow runs, or about the alert itself."""
    match, related = _about(cluster, alert)
    return EventTrigger(
        expect=set(events), match=match, match_related=related, posture=Posture.Reactive, threshold=1
    )


def _dead_man(cluster: str, alert: AlertTemplate, silence: Silence) -> EventTrigger:
    signs = set(silence.of)
    return EventTrigger(
        after={SET, *signs},
        expect=signs,
        match=_about(cluster, alert)[0],
        for_each={CLUSTER},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=silence.seconds),
    )


def _missed(cluster: str, alert: AlertTemplate) -> EventTrigger:
    """The dead-man switch fired: it has no event of its own, but the server has one."""
    match = {"prefect.resource.id": "prefect.automation.*", "prefect.resource.name": name_of(cluster, alert)}
    return EventTrigger(expect={TRIGGERED}, match=match, posture=Posture.Reactive, threshold=1)


def _run_again(cluster: str, alert: AlertTemplate) -> EventTrigger:
    match, related = _about(cluster, alert)
    return EventTrigger(
        after=set(alert.when),
        expect=set(alert.over),
        match=match,
        match_related=related,
        for_each={DEPLOYMENT},
        posture=Posture.Reactive,
        threshold=1,
        within=_EVER,
    )


def _about(cluster: str, alert: AlertTemplate) -> tuple[dict[str, Any], list[Any]]:
    """Resources that an alert's events are about, and what they are related to.

    Flow runs of a cluster are those that have both tags, as prefect.yaml gives them.
    """
    set_for = resource_id(cluster, alert.name)
    if alert.flows is None:
        return {"prefect.resource.id": [f"pgproof.cluster.{cluster}", set_for]}, []
    related: list[Any] = [
        {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
        for tag in (POOL, cluster)
    ]
    if alert.flows != "*":
        related.append({"prefect.resource.role": "flow", "prefect.resource.name": alert.flows})
    return {"prefect.resource.id": ["prefect.flow-run.*", set_for]}, related
