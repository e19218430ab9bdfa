"""The question of ``pgproof doctor`` that needs Prefect: is anybody told when recovery is in danger?"""

from __future__ import annotations

from typing import Any

from flows.login import use_login
from pgproof.config import ClusterConfig, Config
from pgproof.errors import AuthenticationFailed, ConfigError, TransientError
from pgproof.readiness.check import Check

NAME = "alerts"


def alerts_of(cluster: ClusterConfig, config: Config) -> list[Check]:
    """One check of a cluster's alerts; none where no Prefect server is named, or the one that is does not answer.

    Args:
        cluster: to look at.
        config: that it is part of.
    """
    from deployments.alerts.listing import listed
    from deployments.server import server

    try:
        use_login(config.state)
        with server() as client:
            found = listed(client, cluster.name)
    except (ConfigError, TransientError):
        return []
    except AuthenticationFailed as error:
        return [Check(NAME, None, "", f"could not look: {error.fact}", error.hint)]
    return [_check(cluster.name, found)]


def _check(cluster: str, found: list[Any]) -> Check:
    if not found:
        fact = "none is set up on the Prefect server: nobody is told of a gap, a failed proof or a worker that is gone"
        return Check(NAME, False, "", fact, f"pgproof alerts apply {cluster} --notify slack-webhook/oncall")
    removed = sorted({one.name for one in found if any("(removed)" in block for block in one.tells)})
    failed = [one for one in found if one.last in ("failed", "not sent")]
    paused = [one.name for one in found if one.state == "paused"]
    if removed:
        return Check(
            NAME, False, "", "their notification block was removed", f"pgproof alerts apply {cluster}"
        )
    if failed:
        fact = f'the last message of "{failed[0].name}" could not be sent'
        fact += f": {failed[0].reason}" if failed[0].reason else ""
        return Check(NAME, False, "", fact, f"pgproof alerts test {cluster}")
    if paused:
        return Check(
            NAME, False, "", f"paused: {', '.join(paused)}", "switch them on in the UI, under Automations"
        )
    on = [one for one in found if one.state == "on"]
    blocks = sorted({block for one in on for block in one.tells})
    return Check(NAME, True, "", f"{len(on)} automations tell {', '.join(blocks)}")
