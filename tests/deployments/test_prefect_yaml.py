"""prefect.yaml as it stands: every deployment names a flow and parameters that exist."""

from __future__ import annotations

import importlib
import inspect
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule

from deployments.forms import form
from deployments.rendering import Target, prefect_yaml, render, titles
from deployments.schedules import SPREAD, staggered
from pgproof.config import ClusterConfig, parse
from tests.servers.postgres import PROJECT

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(prefect_yaml().read_text())["deployments"]
NAMES = [f"{d['entrypoint'].rsplit(':', 1)[1]} {d['name']}" for d in DEPLOYMENTS]
OWNED = "{{ $PGPROOF_CLUSTER }}"


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, _, name = deployment["entrypoint"].rpartition(":")
    assert (PROJECT / path).is_file()
    found: Flow[..., Any] = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def cluster(name: str, **schedules: object) -> ClusterConfig:
    clusters = {name: {"dsn": "host=x", "schedules": schedules}}
    tree = {"clusters": clusters, "repositories": {"main": {"url": "memory://x"}}}
    return parse(tree, Path("/etc/pgproof.toml")).clusters[name]


def rendered(one: ClusterConfig, **active: bool) -> dict[str, dict[str, Any]]:
    """Each schedule by its slug, as it is deployed for a cluster."""
    tree = render([Target(one, "/etc/pgproof.toml", active)], "pgproof")
    return {schedule["slug"]: schedule for d in tree["deployments"] for schedule in d.get("schedules", [])}


def test_every_flow_has_a_deployment() -> None:
    flows = [path.stem for path in (PROJECT / "flows").glob("*.py") if "\n@flow(" in path.read_text()]
    assert sorted({name.split()[0] for name in NAMES}) == sorted(flows)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_a_deployment(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    known = flow.parameters.properties
    assert set(deployment["parameters"]) <= set(known)
    assert deployment["work_pool"]["name"] == "{{ $PGPROOF_POOL }}"
    assert deployment["work_pool"]["job_variables"] == {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}
    if OWNED in deployment["name"]:
        assert deployment["parameters"]["cluster"] == OWNED
        assert deployment["parameters"]["config"] == "{{ $PGPROOF_CONFIG }}"
        assert deployment["tags"] == ["pgproof", OWNED]
        assert deployment["work_pool"]["work_queue_name"] == OWNED
    else:
        assert deployment["tags"] == ["pgproof"]
    if flow.name == "reap":  # once for all clusters, and never kept from running by a dead one
        assert deployment["parameters"] == {"pool": "{{ $PGPROOF_POOL }}"}
        assert "concurrency_limit" not in deployment
    assert re.fullmatch(r"[A-Z].{20,}\.", deployment["description"])
    for schedule in deployment.get("schedules", []):
        assert schedule["slug"] and schedule["timezone"] == "UTC"
        assert schedule["active"] == (schedule["slug"] not in ("protect", "wal-receive"))
        assert set(schedule.get("parameters", {})) <= set(known)
        if "cron" in schedule:
            CronSchedule(cron=schedule["cron"], timezone="UTC")
        else:
            assert schedule["interval"] >= 60
            assert datetime.fromisoformat(schedule["anchor_date"]).tzinfo is not None


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_the_run_form_explains_every_parameter(deployment: dict[str, Any]) -> None:
    schema = form(flow_of(deployment).parameters.model_dump(), ["shop", "web"])
    for name, value in schema["properties"].items():
        assert value.get("description"), name
        assert "type" in value or "anyOf" in value or "$ref" in value or "allOf" in value, name
        assert re.fullmatch(r"[A-Z][a-z A-Z]+", value["title"])
    if "cluster" in schema["properties"]:
        assert schema["properties"]["cluster"]["enum"] == ["shop", "web"]


def choices(value: dict[str, Any]) -> list[Any]:
    """What a drop-down of the form offers; empty where one types."""
    parts = [value, *value.get("anyOf", [])]
    return [choice for part in parts for choice in part.get("enum", [])]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_the_run_form_offers_what_there_is_to_choose(deployment: dict[str, Any]) -> None:
    """A closed set of words is a drop-down; a switch is one, too. What is typed has an example or is a name."""
    flow = flow_of(deployment)
    schema = form(flow.parameters.model_dump(), ["shop", "web"])
    assert set(schema["properties"]) == set(inspect.signature(flow.fn).parameters)
    for name, kind in get_type_hints(flow.fn).items():
        if name == "return":
            continue
        words = [w for part in (kind, *get_args(kind)) if get_origin(part) is Literal for w in get_args(part)]
        value = schema["properties"][name]
        if words:
            assert choices(value) == words
            assert value["default"] in (*words, None)
        elif name != "cluster" and name != "clusters":
            assert choices(value) == [], name


def test_the_form_of_a_restore_has_drop_downs_for_target_and_action() -> None:
    (restore,) = [d for d in DEPLOYMENTS if d["entrypoint"].endswith(":restore_cluster")]
    schema = form(flow_of(restore).parameters.model_dump(), ["shop"])
    known = schema["properties"]
    assert known["target"]["enum"] == ["end", "time", "lsn", "xid", "name", "immediate"]
    assert known["target"]["default"] == "end"
    assert known["target"]["title"] == "Target"
    assert "as soon as the backup is consistent" in known["target"]["description"]
    assert known["target_value"]["anyOf"] == [
        {"title": "Given", "type": "string"},
        {"title": "Not given", "type": "null"},
    ]
    assert known["target_action"]["enum"] == ["pause", "promote", "shutdown"]
    assert sorted(schema["required"]) == ["cluster", "destination"]


def test_the_form_of_a_drill_has_drop_downs_for_policy_and_origin() -> None:
    (drill,) = [d for d in DEPLOYMENTS if d["entrypoint"].endswith(":restore_validation")]
    known = form(flow_of(drill).parameters.model_dump(), ["shop"])["properties"]
    assert known["policy"]["enum"] == ["newest", "oldest", "random", "least recently proven"]
    assert known["policy"]["default"] == "newest"
    assert "backup" not in drill["parameters"]  # it would overrule the policy of the schedule oldest-proof
    (tools, nothing) = known["origin"]["anyOf"]
    assert tools["enum"] == ["pgbackrest", "barman", "directory"]
    assert nothing == {"title": "Not given", "type": "null"}


def test_ten_clusters_do_not_start_at_once() -> None:
    starts = [staggered(f"cluster-{number}")["base-backup"].cron for number in range(10)]
    assert len(set(starts)) >= 9  # a hash may bring two together
    assert all(int(start.split()[1]) * 60 + int(start.split()[0]) < SPREAD for start in starts if start)


def test_the_times_follow_from_the_name_alone() -> None:
    """They are the same in every process and every version, or all clusters would move."""
    assert {slug: str(when) for slug, when in staggered("shop").items()} == {
        "base-backup": "25 2 * * *",
        "incremental": "55 * * * *",
        "wal-gap-check": "300s",
        "restore-validation": "25 4 * * *",
        "oldest-proof": "25 9 * * 5",
        "retention-pruning": "25 7 * * *",
        "protect": "25 2 * * *",
        "wal-receive": "60s",
    }


def test_a_drill_follows_the_backup_and_pruning_the_drill() -> None:
    def minute(cron: str | None) -> int:
        assert cron is not None
        return int(cron.split()[0]) + 60 * int(cron.split()[1])

    for number in range(50):
        times = staggered(f"c{number}")
        start = minute(times["base-backup"].cron)
        assert minute(times["restore-validation"].cron) == start + 120
        assert minute(times["retention-pruning"].cron) == start + 300
        assert minute(times["oldest-proof"].cron) > minute(times["retention-pruning"].cron)


def test_what_pgproof_toml_says_counts() -> None:
    found = rendered(
        cluster(
            "shop",
            timezone="Europe/Berlin",
            base_backup="15 22 * * *",
            incremental="4h",
            wal_gap_check="10min",
            retention_pruning="off",
            protect="0 3 * * 0",
        )
    )
    assert found["base-backup"] == {
        "slug": "base-backup",
        "timezone": "Europe/Berlin",
        "active": True,
        "cron": "15 22 * * *",
    }
    assert (found["incremental"]["interval"], found["incremental"]["active"]) == (14400, True)
    assert found["wal-gap-check"]["interval"] == 600
    assert found["retention-pruning"]["active"] is False  # with its time, to be switched on in the UI
    assert found["retention-pruning"]["cron"] == staggered("shop")["retention-pruning"].cron
    assert (found["protect"]["cron"], found["protect"]["active"]) == ("0 3 * * 0", True)
    assert found["oldest-proof"]["parameters"] == {"policy": "least recently proven"}


@pytest.mark.parametrize("possible", [True, False])
def test_incremental_backups_follow_what_the_source_can_do(possible: bool) -> None:
    assert rendered(cluster("shop"), incremental=possible)["incremental"]["active"] is possible
    never, always = cluster("shop", incremental="off"), cluster("shop", incremental="1h")
    assert rendered(never, incremental=possible)["incremental"]["active"] is False
    assert rendered(always, incremental=possible)["incremental"]["active"] is True


def test_every_variable_is_put_in() -> None:
    one = Target(cluster("shop"), "/etc/pgproof.toml")
    tree = render([one], "pgproof", "/etc/pgproof.toml")
    assert "{{" not in yaml.safe_dump(tree)
    assert ("base-backup", "shop-incremental") in titles(tree["deployments"])
    assert len(set(titles(tree["deployments"]))) == len(DEPLOYMENTS)
