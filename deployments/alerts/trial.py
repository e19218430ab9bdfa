"""A trial is a test message on the whole way of an alert: event, trigger, block; the server says what became of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from deployments.alerts.applying import event, read_ours, send
from deployments.alerts.automations import resource_id
from deployments.alerts.notify import name_of_block
from pgproof.errors import ConfigError, TransientError

TEST = "pgproof.alerts.test"
ALERT = "test"  # its name in alerts.yaml
_WAIT = 30.0  # seconds: a mail server may be slow


def send_test(client: Any, cluster: str, wait: float = _WAIT) -> tuple[str, ...]:
    """Send a test message, and wait until the server has sent it; the names of the blocks that did.

    Args:
        client: of the server.
        cluster: its name.
        wait: seconds.

    Raises:
        ConfigError: no test alert is applied, or it is paused.
        TransientError: a block could not send it, or nothing came of it in time.
    """
    found = [one for one in read_ours(client, cluster) if one.owner == resource_id(cluster, ALERT)]
    if not found:
        raise ConfigError(
            f'no alert is set up for cluster "{cluster}"', hint=f"pgproof alerts apply {cluster}"
        )
    if not found[0].core.enabled:
        raise ConfigError(
            f'automation "{found[0].name}" is paused', hint="switch it on in the UI, under Automations"
        )
    since = datetime.now(UTC)
    resource = {"prefect.resource.id": f"pgproof.cluster.{cluster}", "prefect.resource.name": cluster}
    words = {
        "what": f"this is a test of the alerts of cluster {cluster}",
        "meaning": "alerts arrive here; nothing is wrong",
        "command": f"pgproof alerts list {cluster}",
    }
    send(client, event(TEST, resource, words))
    blocks = [
        action.block_document_id for action in found[0].core.actions if hasattr(action, "block_document_id")
    ]
    _await_messages(client, found[0], since, len(blocks), wait)
    return tuple(name_of_block(client, block) for block in blocks)


def _await_messages(client: Any, automation: Any, since: datetime, count: int, wait: float) -> None:
    wanted = {
        "event": {"name": ["prefect.automation.action.executed", "prefect.automation.action.failed"]},
        "resource": {"id": [f"prefect.automation.{automation.id}"]},
        "occurred": {"since": since.isoformat()},
    }
    end = time.monotonic() + wait
    while True:
        events = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50}).json()[
            "events"
        ]
        for one in events:
            if one["event"].endswith(".failed"):
                raise TransientError(
                    "could not send the test message", _reason(one["payload"]), "pgproof alerts list"
                )
        if len(events) >= count:
            return
        if time.monotonic() > end:
            raise TransientError(
                "could not send the test message", *_why_nothing(client, automation, since, wait)
            )
        time.sleep(0.3)


def _why_nothing(client: Any, automation: Any, since: datetime, wait: float) -> tuple[str, str]:
    """Detail and hint where the server says neither that it sent a message nor that it could not."""
    wanted = {
        "event": {"name": ["prefect.automation.triggered"]},
        "resource": {"id": [f"prefect.automation.{automation.id}"]},
        "occurred": {"since": since.isoformat()},
    }
    if client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1}).json()["events"]:
        detail = f"The Prefect server tried, and its block sent nothing within {wait:g} s."
        return detail, "does the address answer on the Prefect server's machine? its log says what came"
    return f"The Prefect server did nothing about it within {wait:g} s.", "prefect server services ls"


def _reason(payload: dict[str, Any]) -> str:
    words = " ".join(f"{payload.get('reason', '')}. {payload.get('notification_log', '')}".split())
    return words[-600:]
