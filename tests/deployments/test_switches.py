"""What was switched in the UI, beside what pgproof.toml says now and said at the last deploy."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from deployments.differences import differences
from deployments.switches import keep_switches, switches_in, version_of
from pgproof import __version__

TITLE = ("base-backup", "shop")


def schedule(
    active: bool, slug: str | None = "base-backup", when: Any = None, **more: Any
) -> DeploymentSchedule:
    chosen = when or CronSchedule(cron="25 2 * * *", timezone="UTC")
    return DeploymentSchedule(
        deployment_id=uuid4(), schedule=chosen, active=active, slug=slug, max_scheduled_runs=None, **more
    )


def standing(
    then: bool | None, *schedules: DeploymentSchedule, paused: bool = False, version: str | None = None
) -> DeploymentResponse:
    if then is not None:
        version = version_of([{"slug": "base-backup", "active": then}])
    return DeploymentResponse(
        id=uuid4(),
        name="shop",
        flow_id=uuid4(),
        version=version,
        paused=paused,
        schedules=list(schedules),
        entrypoint="flows/base_backup.py:base_backup",
        description="A full base backup.",
        tags=["pgproof", "shop"],
        parameters={"cluster": "shop", "config": "/etc/pgproof.toml"},
        work_pool_name="pgproof",
        work_queue_name="shop",
        pull_steps=[{"pgproof.packages.installed": {}}],
        parameter_openapi_schema={"type": "object"},
    )


def rendered(active: bool, cron: str = "25 2 * * *") -> dict[str, Any]:
    schedules = [{"slug": "base-backup", "cron": cron, "timezone": "UTC", "active": active}]
    return {
        "name": "shop",
        "entrypoint": "flows/base_backup.py:base_backup",
        "description": "A full base backup.",
        "tags": ["pgproof", "shop"],
        "parameters": {"cluster": "shop", "config": "/etc/pgproof.toml"},
        "schedules": schedules,
        "version": version_of(schedules),
        "work_pool": {"name": "pgproof", "work_queue_name": "shop"},
    }


def test_a_version_says_what_was_deployed() -> None:
    version = version_of(
        [{"slug": "restore-validation", "active": True}, {"slug": "oldest-proof", "active": False}]
    )
    assert version == f"{__version__}; restore-validation on, oldest-proof off"
    assert switches_in(version) == {"restore-validation": True, "oldest-proof": False}
    assert version_of([]) == __version__


@pytest.mark.parametrize("version", [None, "", "598215112d5e9722009abf8cd38a88a8", "0.1.0", "v1 on, 2 off"])
def test_a_version_of_somebody_else_says_nothing(version: str | None) -> None:
    assert switches_in(version) == {}


@pytest.mark.parametrize(
    ("then", "on_server", "wanted", "result"),
    [
        (True, True, True, True),
        (True, False, True, False),  # switched off by somebody
        (False, True, False, True),  # switched on by somebody
        (True, True, False, False),  # pgproof.toml says off now
        (False, False, True, True),  # pgproof.toml says on now
        (False, True, True, True),
        (True, False, False, False),
        (None, False, True, False),  # nobody knows what was deployed: somebody's word is kept
        (None, True, False, True),
    ],
)
def test_who_spoke_last_counts(then: bool | None, on_server: bool, wanted: bool, result: bool) -> None:
    ((kept,), notes) = keep_switches([rendered(wanted)], {TITLE: standing(then, schedule(on_server))})
    assert kept["schedules"][0]["active"] is result
    word = "on" if result else "off"
    said = f"base-backup/shop: schedule base-backup was switched {word} in Prefect and stays so"
    assert notes == ([said] if result != wanted else [])
    assert (
        kept["version"] == rendered(wanted)["version"]
    )  # what pgproof.toml says, so that it is known the next time


def test_a_new_deployment_is_as_it_is_rendered() -> None:
    assert keep_switches([rendered(True)], {}) == ([rendered(True)], [])


def test_a_schedule_that_somebody_removed_comes_back() -> None:
    ((kept,), notes) = keep_switches([rendered(True)], {TITLE: standing(True)})
    assert (kept["schedules"][0]["active"], notes) == (True, [])
    assert differences(kept, [], {}, standing(True))[0] == "schedule base-backup is new: 25 2 * * * UTC"


def test_a_paused_deployment_stays_paused() -> None:
    ((kept,), notes) = keep_switches([rendered(True)], {TITLE: standing(True, schedule(True), paused=True)})
    assert kept["paused"] is True
    assert notes == ["base-backup/shop is paused in Prefect and stays so: none of its schedules runs"]


def test_schedules_that_were_made_in_the_ui_stay() -> None:
    anchor = datetime(2026, 1, 1, tzinfo=UTC)
    there = standing(
        None,
        schedule(True),
        schedule(True, None, CronSchedule(cron="1 1 * * *", timezone="Europe/Berlin")),
        schedule(False, None, IntervalSchedule(interval=3600, anchor_date=anchor, timezone="UTC")),
        schedule(
            True, "ours", RRuleSchedule(rrule="FREQ=DAILY", timezone="UTC"), parameters={"incremental": True}
        ),
        schedule(True, "an-old-one"),
        version="0.0.9; base-backup on, an-old-one on",
    )
    ((kept,), notes) = keep_switches([rendered(True)], {TITLE: there})
    assert notes == []
    assert kept["schedules"][1:] == [
        {"cron": "1 1 * * *", "day_or": True, "timezone": "Europe/Berlin", "active": True},
        {"interval": 3600.0, "anchor_date": "2026-01-01T00:00:00+00:00", "timezone": "UTC", "active": False},
        {
            "rrule": "FREQ=DAILY",
            "timezone": "UTC",
            "active": True,
            "slug": "ours",
            "parameters": {"incremental": True},
        },
    ]
    found = differences(kept, [{"pgproof.packages.installed": {}}], {"type": "object"}, there)
    assert found == ["schedule an-old-one is gone", f"version 0.0.9 -> {__version__}"]


def test_what_does_not_differ_is_not_deployed() -> None:
    steps, schema = [{"pgproof.packages.installed": {}}], {"type": "object"}
    assert differences(rendered(True), steps, schema, standing(True, schedule(True))) == []
    assert differences(rendered(True), steps, schema, None) == ["new"]


def test_every_difference_has_a_word() -> None:
    there = standing(True, schedule(True))
    wanted = rendered(True, "15 22 * * *")
    wanted["schedules"][0]["timezone"] = "Europe/Berlin"
    wanted |= {"tags": ["pgproof"], "description": "Other.", "concurrency_limit": {"limit": 1}}
    wanted["entrypoint"] = "flows/other.py:base_backup"
    wanted["parameters"] = {"cluster": "shop", "config": "block:pgproof-cluster/shop"}
    wanted["work_pool"] = {"name": "containers", "job_variables": {"image": "x"}}
    assert differences(wanted, [], {}, there) == [
        "schedule base-backup 25 2 * * * UTC -> 15 22 * * * Europe/Berlin",
        "work pool pgproof -> containers",
        "parameter config /etc/pgproof.toml -> block:pgproof-cluster/shop",
        "entrypoint",
        "description",
        "tags",
        "job variables",
        "concurrency limit",
        "pull steps",
        "run form",
    ]
    wanted["work_pool"] = {"name": "pgproof"}
    assert "work queue shop -> default" in differences(wanted, [], {}, there)
