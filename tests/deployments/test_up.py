"""``pgproof up`` from its start to its end: what it deploys, that schedules and the worker work, that nothing stays."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Running

from deployments.open_api import api_of
from deployments.schedules import staggered
from deployments.work_pools import template_of, template_path
from pgproof.postgres.programs import find_bin_directory
from pgproof.postgres.server import LocalServer
from tests.deployments.upped import Up, until
from tests.servers.postgres import Source, run_pgproof, running_source

SECOND = """
[clusters.second_one]
dsn = "host=/nowhere user=pgproof dbname=postgres"
"""
# Every deployment of cluster main: its schedules by slug, whether each runs by itself, and what a second run does
FLOWS: dict[str, tuple[dict[str, bool], str | None]] = {
    "protect/main": ({"protect": False}, "CANCEL_NEW"),
    "base-backup/main": ({"base-backup": True}, "CANCEL_NEW"),
    "base-backup/main-incremental": ({"incremental": False}, "CANCEL_NEW"),  # summarize_wal is off
    "wal-gap-check/main": ({"wal-gap-check": True}, "CANCEL_NEW"),
    "restore-validation/main": ({"restore-validation": True, "oldest-proof": True}, "ENQUEUE"),
    "retention-pruning/main": ({"retention-pruning": True}, "CANCEL_NEW"),
    "wal-receive/main": ({"wal-receive": False}, "CANCEL_NEW"),
    "restore-cluster/main": ({}, None),
}
MORE = {
    "base-backup/main-incremental": {"incremental": True},
}


@pytest.fixture(scope="module")
def shop() -> Iterator[Source]:
    with running_source(17) as source:
        source.sql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 100) g")
        source.backup()
        yield source


@pytest.mark.timeout(600)
def test_the_life_of_a_server(shop: Source) -> None:
    """One test, because a server takes ten seconds to start: each check is a function of its own."""
    with Up(shop).running() as up:
        it_says_where(shop, up)
        every_flow_is_deployed(shop, up)
        the_ui_is_served(up)
        nobody_uses_it_without_the_login(shop, up)
        no_run_chooses_its_command(up)
        a_run_goes_through_the_worker(up)
        a_schedule_makes_runs(up)
        deploying_again_changes_nothing(shop, up)
        a_second_one_on_the_same_state_is_refused(shop, up)
        when_it_is_killed_everything_ends(up)
    shop.write_config(extra=SECOND)
    with Up(shop).running() as again:
        the_run_that_was_cut_off_is_crashed(again)
        every_cluster_is_deployed(again)
        it_ends_when_asked(shop, again)


def it_says_where(shop: Source, up: Up) -> None:
    assert up.said() == (
        f"Prefect runs at http://127.0.0.1:{up.port} with the flows of: main\n"
        f"log in with what this prints: cat {shop.root}/state/prefect-login\n"
        "note: main: incremental backups are not scheduled: summarize_wal is off\n"
        f"logs: {shop.root}/state/prefect-server.log and {shop.root}/state/prefect-worker.log; Ctrl-C ends both\n"
    )


def every_flow_is_deployed(shop: Source, up: Up) -> None:
    deployments = up.deployments()
    assert deployments.pop("reap/pgproof")["tags"] == ["pgproof"]  # once for all clusters
    the_fleet_is_deployed(shop, deployments.pop("protect-fleet/pgproof"))
    assert set(deployments) == set(FLOWS)
    times = staggered("main")
    for title, (wanted, strategy) in FLOWS.items():
        found = deployments[title]
        assert sorted(found["tags"]) == ["main", "pgproof"]
        assert (found["work_pool_name"], found["work_queue_name"]) == ("pgproof", "main")
        assert found["paused"] is False
        more = MORE.get(title, {})
        assert found["parameters"] == {"cluster": "main", "config": str(shop.config_path), **more}
        assert found["pull_steps"] == [{"pgproof.packages.installed": {}}]
        cluster = found["parameter_openapi_schema"]["properties"]["cluster"]
        assert (cluster["title"], cluster["type"], cluster["enum"]) == ("Cluster", "string", ["main"])
        assert cluster["description"] == "as pgproof.toml names it"
        assert {one["slug"]: one["active"] for one in found["schedules"]} == wanted
        for one in found["schedules"]:
            assert one["schedule"]["timezone"] == "UTC"
            when = times[one["slug"]]
            assert one["schedule"].get("cron") == when.cron
            assert one["schedule"].get("interval") == when.interval
        if strategy is None:
            assert found["global_concurrency_limit"] is None
        else:
            assert found["global_concurrency_limit"]["limit"] == 1
            assert found["concurrency_options"]["collision_strategy"] == strategy
    assert [limit["limit"] for limit in up.limits() if limit["name"] == "pgproof-main"] == [1]


def the_fleet_is_deployed(shop: Source, found: dict[str, Any]) -> None:
    """Once for all clusters, by hand, one run at a time, with the clusters in its form."""
    assert (found["tags"], found["schedules"]) == (["pgproof"], [])
    assert found["parameters"] == {"config": str(shop.config_path)}
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    clusters = found["parameter_openapi_schema"]["properties"]["clusters"]
    assert (clusters["type"], clusters["items"]) == ("array", {"type": "string", "enum": ["main"]})
    assert clusters["default"] == []


def the_ui_is_served(up: Up) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.port}/deployments", headers={"Accept": "text/html"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        page = answer.read().decode()
    assert "<title>Prefect" in page
    script = page.split('src="')[1].split('"')[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}{script}", timeout=10) as answer:
        assert len(answer.read()) > 1000
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/ui-settings", timeout=10) as answer:
        assert '"api_url":"/api"' in answer.read().decode()  # of whatever name the browser knows us by


def nobody_uses_it_without_the_login(shop: Source, up: Up) -> None:
    state = shop.root / "state"
    assert [path.stat().st_mode & 0o777 for path in (state, state / "prefect-login")] == [0o700, 0o600]
    url = f"{up.api}/deployments/count"
    evil = {"Origin": "http://evil.example", "Content-Type": "application/json"}
    assert asked(urllib.request.Request(url, b"{}", evil)) == (401, None)
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert asked(urllib.request.Request(url, headers=evil | preflight, method="OPTIONS")) == (400, None)
    secret = up.login.partition(":")[2]
    assert len(secret) == 32
    assert secret not in up.said() + up.log("server") + up.log("worker")
    for process, command in up.processes().items():
        assert secret not in command
        if "prefect" not in command:  # PostgreSQL, of which a superuser of it could read this
            assert secret.encode() not in Path(f"/proc/{process}/environ").read_bytes(), command
    with patch.dict(os.environ, PREFECT_API_URL=up.api):
        (check,) = api_of(shop.cluster, shop.config)
    assert (check.state, check.fact) == ("ok", f"{up.api} wants a login")


def asked(request: urllib.request.Request) -> tuple[int, str | None]:
    """Status of an answer, and which sites' pages may read it."""
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Access-Control-Allow-Origin"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Access-Control-Allow-Origin"]


def no_run_chooses_its_command(up: Up) -> None:
    deployment = up.deployments()["wal-gap-check/main"]["id"]
    chosen: tuple[dict[str, Any], ...] = (
        {"command": "/bin/sh -c id"},
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"env.LD_PRELOAD": "/tmp/x.so"},
        {"working_dir": "/tmp"},
    )
    with up.client() as client:
        for variables in chosen:
            with pytest.raises(PrefectHTTPStatusError, match=r"422 Unprocessable.*Additional properties"):
                client.create_flow_run_from_deployment(UUID(deployment), job_variables=variables)


def a_run_goes_through_the_worker(up: Up) -> None:
    deployment = up.deployments()["wal-gap-check/main"]["id"]
    with up.client() as client:
        run = client.create_flow_run_from_deployment(UUID(deployment))
        done = until(lambda: client.read_flow_run(run.id), is_final, 60)
        assert done.state_name == "Completed", up.log("worker")
        assert done.name == "WAL gap check of main"
        wanted = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}, "key": {"exists_": True}}}
        (artifact,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    assert artifact["key"] == "pgproof-main-wal"
    assert artifact["data"].startswith("# WAL of main: no gap\n")


def a_schedule_makes_runs(up: Up) -> None:
    """With SQLAlchemy 2.1 the server looks healthy and its scheduler never makes one."""
    deployment = up.deployments()["base-backup/main"]["id"]
    wanted = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    with up.client() as client:
        runs = until(lambda: client.request("POST", "/flow_runs/filter", json=wanted).json(), bool, 90)
    assert runs, up.log("server")
    minute, hour = (staggered("main")["base-backup"].cron or "").split()[:2]
    assert runs[0]["expected_start_time"][11:16] == f"{int(hour):02d}:{int(minute):02d}"
    assert runs[0]["auto_scheduled"] and runs[0]["work_pool_name"] == "pgproof"
    assert sorted(runs[0]["tags"]) == ["auto-scheduled", "main", "pgproof"]


def deploying_again_changes_nothing(shop: Source, up: Up) -> None:
    def identities() -> Any:
        return {
            flow: (found["id"], found["created"], [s["id"] for s in found["schedules"]])
            for flow, found in up.deployments().items()
        }

    def limits() -> Any:
        return [(limit["id"], limit["name"], limit["limit"]) for limit in up.limits()]

    with up.client() as client:  # an operator's own settings of the pool, and a template that is not ours
        command = {"properties": {"command": {"type": "string"}}}
        opened = {"job_configuration": {"command": "{{ command }}"}, "variables": command}
        ours = WorkPoolUpdate(concurrency_limit=3, description="ours", base_job_template=opened)
        client.update_work_pool("pgproof", ours)
    before = identities(), limits()

    done = run_pgproof(
        "--config", str(shop.config_path), "deploy", "--json", environment={"PREFECT_API_URL": up.api}
    )

    assert done.returncode == 0, done.stderr
    assert f'"server": "{up.api}"' in done.stdout
    assert json.loads(done.stdout)["gone"] == []
    assert json.loads(done.stdout)["notes"][-1] == (
        "work pool pgproof lets each run choose command, and so what it runs on the worker: prefect work-pool update "
        f"pgproof --base-job-template {template_path('process')}"
    )
    assert '"worker": "prefect worker start --pool pgproof --type process"' in done.stdout
    assert (identities(), limits()) == before
    with up.client() as client:
        pool = client.read_work_pool("pgproof")
    assert (pool.concurrency_limit, pool.description, pool.type) == (3, "ours", "process")


def a_second_one_on_the_same_state_is_refused(shop: Source, up: Up) -> None:
    done = run_pgproof("--config", str(shop.config_path), "up", "--port", str(up.port))
    assert done.returncode == 2
    assert f'pgproof: pgproof up runs already in "{shop.root}/state"' in done.stderr


def when_it_is_killed_everything_ends(up: Up) -> None:
    commands = up.processes().values()
    assert any("server start" in command for command in commands)
    assert any("worker start" in command for command in commands)
    pretend_to_run(up, "cut off by a kill")
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    assert until(up.processes, lambda left: not left, 30) == {}


def the_run_that_was_cut_off_is_crashed(again: Up) -> None:
    (run,) = runs_named(again, "cut off by a kill")
    assert (run.state_name, run.state.message if run.state else "") == ("Crashed", "its worker ended")


def every_cluster_is_deployed(again: Up) -> None:
    with again.client() as client:
        assert client.read_work_pool("pgproof").base_job_template == template_of("process")
        found = client.request("POST", "/deployments/filter", json={}).json()
    names = [name for name in (deployment["name"] for deployment in found)]
    assert [names.count("main"), names.count("second_one")] == [len(FLOWS) - 1] * 2
    assert {"main-incremental", "second_one-incremental"} < set(names)
    names = [limit["name"] for limit in again.limits() if limit["name"].startswith("pgproof-")]
    assert names == ["pgproof-main", "pgproof-second_one"]
    assert "with the flows of: main, second_one" in again.said()


def it_ends_when_asked(shop: Source, again: Up) -> None:
    run = pretend_to_run(again, "cut off by the end")
    assert again.end(signal.SIGINT) == 0
    assert again.processes() == {}
    assert "Traceback" not in again.said()
    assert not (shop.root / "state" / "prefect" / "prefect.db").exists()
    data = shop.root / "state" / "database"
    assert not (data / "postmaster.pid").exists()
    programs = find_bin_directory(int((data / "PG_VERSION").read_text()))
    with LocalServer(programs, data, shop.root / "s2", shop.root / "database.log").run() as server:
        query = "SELECT state_type::text FROM flow_run WHERE id = %s"
        with psycopg.connect(f"{server.dsn} user=postgres dbname=postgres") as database:
            assert database.execute(query, (run,)).fetchall() == [("CRASHED",)]


@pytest.mark.parametrize("when", ["the server starts", "the server listens"])
def test_it_ends_while_it_starts(shop: Source, when: str) -> None:
    made = Up(shop)
    made.start()
    try:
        until(made.processes, lambda found: any("server start" in command for command in found.values()), 30)
        if when == "the server listens":
            until(lambda: listens(made), bool, 60)
        assert made.end(signal.SIGTERM) == 0, made.said()
        assert until(made.processes, lambda left: not left, 5) == {}
        assert made.said() == ""
    finally:
        made.kill_all()


def listens(up: Up) -> bool:
    try:
        with urllib.request.urlopen(f"{up.api}/health", timeout=2):
            return True
    except OSError:
        return False


def is_final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def pretend_to_run(up: Up, name: str) -> UUID:
    """A run as the server sees it while a worker has it."""
    deployment = up.deployments()["restore-cluster/main"]["id"]
    with up.client() as client:
        where = {"destination": "/nowhere"}
        run = client.create_flow_run_from_deployment(
            UUID(deployment), parameters=where, name=name, state=Running()
        )
        assert run.state_name == "Running"
        return run.id


def runs_named(up: Up, name: str) -> list[FlowRun]:
    from prefect.client.schemas import filters

    wanted = filters.FlowRunFilter(name=filters.FlowRunFilterName(any_=[name]))
    with up.client() as client:
        return client.read_flow_runs(flow_run_filter=wanted)
