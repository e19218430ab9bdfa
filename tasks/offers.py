"""An offer is what a run form has to choose from although it changes: the backups of a cluster, for a restore.

Prefect keeps a form with the deployment, so the flows that make and remove backups bring it up to date. Only of the
deployment of ``restore-cluster``, which has no schedule: Prefect drops scheduled runs when a deployment is updated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from pgproof.backups.catalog import read_catalog
from pgproof.errors import PgproofError
from tasks.work import open_work

FLOW, PARAMETER = "restore-cluster", "backup"
_ONE, _OTHER = "One of these", "Another"
_MOST = 100  # the newest; a longer list is no help


def offer_backups(cluster: str, config: str | None = None) -> None:
    """Let the form of a restore show the backups that there are now, the newest first.

    Its fault is nobody's: a form that is behind takes any other label as well.

    Args:
        cluster: whose repository is read.
        config: path of pgproof.toml; None is the default.
    """
    log = get_run_logger()
    try:
        catalog = read_catalog(open_work(cluster, config).archive)
        labels = [entry.label for entry in reversed(catalog.entries)][:_MOST]
        with get_client(sync_client=True) as client:
            there = client.read_deployment_by_name(f"{FLOW}/{cluster}")
            schema = there.parameter_openapi_schema or {}
            if (wanted := with_labels(schema, labels)) != schema:
                client.update_deployment(there.id, DeploymentUpdate(parameter_openapi_schema=wanted))
    except ObjectNotFound:  # nobody deployed it
        return
    except (PgproofError, httpx.HTTPError) as error:
        log.warning("the run form of %s/%s shows the backups of before: %s", FLOW, cluster, error)


def with_labels(schema: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The schema of a flow's parameters with a drop-down of backups, beside a field for any other label.

    Args:
        schema: of a deployment, or as Prefect derives it from the flow.
        labels: to choose from; none leaves the schema as it is.
    """
    properties = dict(schema.get("properties", {}))
    if not labels or PARAMETER not in properties:
        return dict(schema)
    null = [choice for choice in properties[PARAMETER].get("anyOf", []) if choice.get("type") == "null"]
    choices = [
        {"title": _ONE, "type": "string", "enum": list(labels)},
        {"title": _OTHER, "type": "string"},
        *null,
    ]
    properties[PARAMETER] = {**properties[PARAMETER], "anyOf": choices}
    return {**schema, "properties": properties}


def labels_in(schema: Mapping[str, Any] | None) -> list[str]:
    """The labels that a schema has to choose from.

    Args:
        schema: of a deployment; None has none.
    """
    choices = (schema or {}).get("properties", {}).get(PARAMETER, {}).get("anyOf", [])
    return next((list(choice["enum"]) for choice in choices if "enum" in choice), [])
