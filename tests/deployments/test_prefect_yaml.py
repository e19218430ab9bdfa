"""prefect.yaml as it stands: every deployment names a flow and parameters that exist."""

from __future__ import annotations

import importlib
import re
from datetime import datetime
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule

from deployments.deploy import prefect_yaml
from tests.servers.postgres import PROJECT

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(prefect_yaml().read_text())["deployments"]
NAMES = [deployment["entrypoint"].rsplit(":", 1)[1] for deployment in DEPLOYMENTS]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, _, name = deployment["entrypoint"].rpartition(":")
    assert (PROJECT / path).is_file()
    found: Flow[..., Any] = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def test_every_flow_has_one_deployment() -> None:
    flows = [path.stem for path in (PROJECT / "flows").glob("*.py") if "\n@flow(" in path.read_text()]
    assert sorted(NAMES) == sorted(flows)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_a_deployment(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    known = flow.parameters.properties
    assert set(deployment["parameters"]) <= set(known)
    if flow.name == "reap":  # once for all clusters, and never kept from running by a dead one
        assert (deployment["name"], deployment["tags"]) == ("pgproof", ["pgproof"])
        assert deployment["parameters"] == {"pool": "pgproof"} and "concurrency_limit" not in deployment
    else:
        assert deployment["parameters"]["cluster"] == "{{ $PGPROOF_CLUSTER }}"
        assert deployment["parameters"]["config"] == "{{ $PGPROOF_CONFIG }}"
        assert deployment["name"] == "{{ $PGPROOF_CLUSTER }}"
        assert deployment["tags"] == ["pgproof", "{{ $PGPROOF_CLUSTER }}"]
    environment = deployment["work_pool"]["job_variables"]["env"]
    assert environment == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    assert deployment["work_pool"]["name"] == "pgproof"
    assert re.fullmatch(r"[A-Z].{20,}\.", deployment["description"])
    for schedule in deployment.get("schedules", []):
        assert schedule["slug"] and schedule["timezone"] == "UTC"
        wanted = "{{ $PGPROOF_RECEIVE }}" if flow.name == "wal-receive" else True
        assert schedule["active"] == wanted
        if "cron" in schedule:
            CronSchedule(cron=schedule["cron"], timezone="UTC")
        else:
            assert schedule["interval"] >= 60
            assert datetime.fromisoformat(schedule["anchor_date"]).tzinfo is not None


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_the_run_form_explains_every_parameter(deployment: dict[str, Any]) -> None:
    for name, schema in flow_of(deployment).parameters.properties.items():
        assert schema.get("description"), name
        assert "type" in schema or "anyOf" in schema, name


def test_the_schedules_do_not_meet() -> None:
    crons = [
        schedule["cron"] for d in DEPLOYMENTS for schedule in d.get("schedules", []) if "cron" in schedule
    ]
    assert len(crons) == len(set(crons)) == 4
