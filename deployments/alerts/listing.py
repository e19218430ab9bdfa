"""A listing shows each alert on the server: whether it is on, whom it tells, and when it last told anybody."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deployments.alerts.applying import Existing, read_ours
from deployments.alerts.automations import OFF, OWNER
from deployments.alerts.notify import name_of_block

COLUMNS = ("cluster", "alert", "state", "tells", "last message", "UTC")
_SENT, _FAILED = "prefect.automation.action.executed", "prefect.automation.action.failed"
_BEGUN = "prefect.automation.triggered"  # alone, where a webhook did not answer: the server only logs that
_WORDS = {_SENT: "sent", _FAILED: "failed", _BEGUN: "not sent"}
_MOST = 200  # of the newest messages that are looked through


@dataclass(frozen=True, slots=True)
class Listed:
    """One automation of ours.

    Args:
        cluster, alert: what it is of; an end has the alert's name with ``.over``.
        name: of the automation.
        state: ``on``, ``paused``, or ``off`` where the file of alerts says so.
        tells: names of the notification blocks.
        last: ``sent``, ``failed`` or ``not sent``; empty when no message is known.
        at: when, ISO 8601; the server forgets events after a week.
        reason: why it failed.
    """

    cluster: str
    alert: str
    name: str
    state: str
    tells: tuple[str, ...]
    last: str = ""
    at: str = ""
    reason: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """In the columns of ``COLUMNS``."""
        last = f"{self.last}: {self.reason}" if self.reason else self.last
        return (
            self.cluster,
            self.alert,
            self.state,
            ", ".join(self.tells),
            last,
            self.at[:19].replace("T", " "),
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def listed(client: Any, cluster: str | None = None) -> list[Listed]:
    """Every alert of one cluster, or of all, in the order of cluster and alert."""
    ours = read_ours(client, cluster)
    messages = newest_messages(client, ours)
    names = {block: name_of_block(client, block) for block in {b for one in ours for b in _blocks(one)}}
    found = [
        _listed(one, tuple(names[block] for block in _blocks(one)), messages.get(str(one.id))) for one in ours
    ]
    return sorted(found, key=lambda one: (one.cluster, one.alert))


def newest_messages(client: Any, ours: list[Existing]) -> dict[str, dict[str, Any]]:
    """Automation to the event of its newest message, sent or failed."""
    if not ours:
        return {}
    wanted = {
        "event": {"name": list(_WORDS)},
        "resource": {"id": [f"prefect.automation.{one.id}" for one in ours]},
        "order": "DESC",
    }
    page = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50}).json()
    events = page["events"]
    while page.get("next_page") and len(events) < _MOST:
        page = client.request("GET", "/events/filter/next?" + page["next_page"].partition("?")[2]).json()
        events += page["events"]
    found: dict[str, dict[str, Any]] = {}
    for event in events:  # newest first; of one message the outcome counts, which may have the same moment
        key = event["resource"]["prefect.resource.id"].rsplit(".", 1)[1]
        if key not in found or (
            found[key]["event"] == _BEGUN and event["occurred"] >= found[key]["occurred"]
        ):
            found[key] = event
    return found


def _blocks(automation: Existing) -> list[Any]:
    found = [getattr(action, "block_document_id", None) for action in automation.core.actions]
    return [block for block in found if block is not None]


def _listed(automation: Existing, tells: tuple[str, ...], message: dict[str, Any] | None) -> Listed:
    cluster, _, alert = automation.owner.removeprefix(OWNER).partition(".")
    silent = "off" if OFF in automation.core.tags else "paused"
    state = "on" if automation.core.enabled else silent
    if message is None:
        return Listed(cluster, alert, automation.name, state, tells)
    last = _WORDS[message["event"]]
    reason = " ".join(str(message["payload"].get("reason", "")).split()) if last == "failed" else ""
    return Listed(cluster, alert, automation.name, state, tells, last, message["occurred"], reason)
