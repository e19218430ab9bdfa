"""``pgproof deploy`` on a real server: again and again, with what people do in the UI meanwhile."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate

from deployments.rendering import prefect_yaml
from deployments.schedules import staggered
from deployments.server import ensure_pool, server_url
from pgproof.cli import main
from tasks.offers import with_labels
from tests.deployments.upped import until
from tests.servers.postgres import PGPROOF, PROJECT

ALL = len(yaml.safe_load(prefect_yaml().read_text())["deployments"])  # of one cluster, with those of all
SECTION = '[clusters.{0}]\ndsn = "host=/nowhere"\nschedules.timezone = "UTC"\n'


@pytest.fixture
def site(prefect: Path, tmp_path: Path) -> Path:
    """pgproof.toml with one cluster, whose source cannot be asked."""
    path = tmp_path / "pgproof.toml"
    configure(path, "one")
    return path


def configure(path: Path, *clusters: str, more: str = "") -> None:
    sections = "".join(SECTION.format(name) for name in clusters)
    path.write_text(f'[repositories.main]\nurl = "file:///nowhere"\n{sections}{more}')


def deploy(path: Path, *words: str) -> str:
    """What the command says; it succeeds."""
    code, out, err = attempt(path, *words)
    assert code == 0, err
    return out


def attempt(path: Path, *words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--config", str(path), "deploy", *words])
    return code, out.getvalue(), err.getvalue()


def found(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    """Each deployment of ours as the API shows it."""
    flows = {flow["id"]: flow["name"] for flow in client.request("POST", "/flows/filter", json={}).json()}
    tagged = {"deployments": {"tags": {"all_": ["pgproof"]}}}
    answer = client.request("POST", "/deployments/filter", json=tagged).json()
    return {f"{flows[one['flow_id']]}/{one['name']}": one for one in answer}


@pytest.mark.timeout(600)  # as long as a busy machine needs to start a server and deploy six times
def test_a_year_of_deploys(site: Path) -> None:
    """One test, because a deploy takes seconds: each step goes on where the one before it ended."""
    with get_client(sync_client=True) as client:
        the_first(site, client)
        the_second_touches_nothing(site, client)
        what_was_switched_in_the_ui_stays(site, client)
        another_work_pool(site, client)
        a_cluster_that_is_gone(site, client)


def the_first(site: Path, client: SyncPrefectClient) -> None:
    said = deploy(site)
    url = server_url()
    assert said.startswith(
        f"deployed the flows of one to work pool pgproof of {url}: {ALL} deployments, {ALL} new, 0 changed\n"
        "note: one: incremental backups are not scheduled: "
    )
    assert said.endswith(
        "start a worker with:\n  prefect worker start --pool pgproof --type process\n"
        "or, for one cluster alone:\n  prefect worker start --pool pgproof --type process --work-queue one\n"
    )
    assert len(found(client)) == ALL


def the_second_touches_nothing(site: Path, client: SyncPrefectClient) -> None:
    restore = client.read_deployment_by_name("restore-cluster/one")
    offer = with_labels(
        restore.parameter_openapi_schema or {}, ["20261124T120000Z-full"]
    )  # as a backup does it
    client.update_deployment(restore.id, DeploymentUpdate(parameter_openapi_schema=offer))
    before = found(client)
    assert f": {ALL} deployments, nothing changed\n" in deploy(site)
    assert found(client) == before  # with the time of the last change of each


def what_was_switched_in_the_ui_stays(site: Path, client: SyncPrefectClient) -> None:
    there = found(client)
    switch(client, there["base-backup/one"], active=False)
    switch(client, there["protect/one"], active=True)
    validation, check = (there[name]["id"] for name in ("restore-validation/one", "wal-gap-check/one"))
    client.request("POST", f"/deployments/{check}/pause_deployment")
    own = [{"schedule": {"cron": "1 1 * * *", "timezone": "UTC"}, "active": True}]
    client.request("POST", f"/deployments/{validation}/schedules", json=own)
    client.update_work_pool("pgproof", WorkPoolUpdate(is_paused=True))
    configure(
        site, "one", more='schedules.restore_validation = "0 1 * * *"\nschedules.base_backup = "5 5 * * *"\n'
    )

    lines = deploy(site).splitlines()

    assert lines[0].endswith(f": {ALL} deployments, 0 new, 2 changed")
    assert lines[1] == "changed base-backup/one: schedule base-backup 44 2 * * * UTC off -> 5 5 * * * UTC off"
    assert (
        lines[2]
        == "changed restore-validation/one: schedule restore-validation 44 4 * * * UTC -> 0 1 * * * UTC"
    )
    assert lines[4:8] == [
        "note: protect/one: schedule protect was switched on in Prefect and stays so",
        "note: base-backup/one: schedule base-backup was switched off in Prefect and stays so",
        "note: wal-gap-check/one is paused in Prefect and stays so: none of its schedules runs",
        "note: work pool pgproof is paused: no run is taken until prefect work-pool resume pgproof",
    ]
    now = found(client)
    (backup,) = now["base-backup/one"]["schedules"]
    assert (backup["active"], backup["schedule"]["cron"]) == (False, "5 5 * * *")
    assert now["protect/one"]["schedules"][0]["active"] is True
    assert now["wal-gap-check/one"]["paused"] is True
    times = {one["slug"]: one["schedule"]["cron"] for one in now["restore-validation/one"]["schedules"]}
    assert times == {
        "restore-validation": "0 1 * * *",
        "oldest-proof": staggered("one")["oldest-proof"].cron,
        None: "1 1 * * *",
    }
    title = now["restore-validation/one"]["parameter_openapi_schema"]["properties"]["cluster"]["title"]
    assert title == "Cluster"  # the run form has been set again
    client.update_work_pool("pgproof", WorkPoolUpdate(is_paused=False))


def switch(client: SyncPrefectClient, deployment: dict[str, Any], *, active: bool) -> None:
    path = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
    client.request("PATCH", path, json={"active": active})


def another_work_pool(site: Path, client: SyncPrefectClient) -> None:
    """Each pool has a reaper; a pool that is there is taken as it is, whatever its type."""
    configure(site, "one", "two")
    said = deploy(site, "two", "--pool", "far", "--pool-type", "docker")
    assert f": {ALL} deployments, 9 new, 1 changed\n" in said  # the fleet has one deployment
    assert {one["work_pool_name"] for name, one in found(client).items() if name.endswith("/two")} == {"far"}
    pools = {name: one["parameters"]["pool"] for name, one in found(client).items() if name[:5] == "reap/"}
    assert pools == {"reap/pgproof": "pgproof", "reap/far": "far"}
    assert "prefect worker start --pool far --type docker --work-queue two" in deploy(
        site, "two", "--pool", "far"
    )
    code, _, err = attempt(site, "two", "--pool", "far", "--pool-type", "ecs")
    assert (code, err) == (
        2,
        'pgproof: work pool "far" is for another worker\n'
        "DETAIL: It is of type docker, and ecs was asked for.\n"
        "HINT: pgproof deploy --pool-type docker, or --pool with another name\n",
    )


def a_cluster_that_is_gone(site: Path, client: SyncPrefectClient) -> None:
    configure(
        site, "one", more='schedules.restore_validation = "0 1 * * *"\nschedules.base_backup = "5 5 * * *"\n'
    )
    said = deploy(site)
    assert f": {ALL} deployments, 0 new, 1 changed\n" in said  # the fleet's comes back from pool far
    assert "two has 8 deployments and is not configured; pgproof deploy --prune removes them\n" in said
    assert (
        "work queue two of work pool far has no deployment left; pgproof deploy --prune removes it\n" in said
    )
    assert queues(client, "far") == {"default", "two"}
    said = deploy(site, "--prune")
    assert "removed 8 deployments of two, which is not configured any more\n" in said
    assert "removed 1 deployment of work pool far, in which no cluster is left\n" in said
    assert "removed work queue two of work pool far, in which no deployment is left\n" in said
    assert len(found(client)) == ALL
    assert "removed" not in deploy(site, "--prune")
    assert (queues(client, "far"), queues(client, "pgproof")) == ({"default"}, {"default", "one"})


def queues(client: SyncPrefectClient, pool: str) -> set[str]:
    return {queue.name for queue in client.read_work_queues(work_pool_name=pool)}


@pytest.mark.timeout(600)
def test_a_deploy_that_is_killed_is_run_again(site: Path) -> None:
    configure(site, "three", "four")
    with get_client(sync_client=True) as client:
        before = len(found(client))
        ours = {"PREFECT_API_URL": server_url(), "PYTHONPATH": str(PROJECT), "HOME": str(site.parent)}
        with open(site.parent / "log", "w") as log:
            process = subprocess.Popen(
                [*PGPROOF, "--config", str(site), "deploy"], env=os.environ | ours, stdout=log, stderr=log
            )
        until(lambda: len(found(client)), lambda count: count > before + 2, 120)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL, (site.parent / "log").read_text()
        assert until(lambda: of_deploy(site), lambda left: not left, 30) == []  # nothing of it goes on alone
        left = [
            one for one in found(client).values() if one["parameters"].get("cluster") in ("three", "four")
        ]
        assert 0 < len(left) < 16

        said = deploy(site)

        # one more than was seen may have been on its way when Prefect's command was killed
        assert any(f" {16 - len(left) - late} new, " in said for late in (0, 1)), said
        now = {
            name: one
            for name, one in found(client).items()
            if one["parameters"].get("cluster") in ("three", "four")
        }
        assert len(now) == 16
        for one in now.values():
            cluster = one["parameter_openapi_schema"]["properties"]["cluster"]
            assert cluster["enum"] == [one["parameters"]["cluster"]]
        assert ", nothing changed\n" in deploy(site)


def of_deploy(site: Path) -> list[str]:
    """Processes of Prefect's command that a deploy has started."""
    lines = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"HOME={site.parent}\0".encode() in (entry / "environ").read_bytes():
                lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in lines if " deploy --all " in line]


@pytest.mark.timeout(600)
def test_what_is_rendered_can_be_deployed_by_prefect_alone(site: Path, tmp_path: Path) -> None:
    ensure_pool()  # `prefect deploy` makes none
    configure(site, "five")
    text = deploy(site, "--render")
    assert text.startswith("# note: five: incremental backups are not scheduled: ")
    file = tmp_path / "rendered.yaml"
    file.write_text(text)
    tree = yaml.safe_load(text)
    active = {one["slug"]: one["active"] for each in tree["deployments"] for one in each.get("schedules", [])}
    assert active["incremental"] is False and active["base-backup"] is True
    words = ("--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    ours = {"PREFECT_API_URL": server_url(), "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words],
        cwd=PROJECT,
        env=os.environ | ours,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = deploy(site).splitlines()
    assert lines[0].endswith(f": {ALL} deployments, 0 new, {ALL} changed")
    assert {line.partition(": ")[2] for line in lines if line.startswith("changed ")} == {"run form"}


@pytest.mark.parametrize("name", ["a/b", "prefect-pool", ""])
def test_a_pool_that_prefect_does_not_take(site: Path, name: str) -> None:
    code, out, err = attempt(site, "--pool", name)
    assert (code, out, err) == (
        2,
        "",
        f'pgproof: work pool "{name}" cannot be made\n'
        "DETAIL: Prefect takes no name with one of / % & > < in it, and none that starts with prefect.\n"
        "HINT: pgproof deploy --pool pgproof\n",
    )


@pytest.mark.parametrize("word", ["--prune", "--blocks"])
def test_what_does_not_go_with_render(site: Path, word: str) -> None:
    code, out, err = attempt(site, "--render", word)
    assert (code, out) == (2, "")
    assert err.startswith(f"pgproof: --render does not go with {word}\n")
