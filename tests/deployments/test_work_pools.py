"""The templates of the work pools, against those of Prefect's own workers, and as the workers read them."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.utilities.schema_tools.validation import validate

from deployments.work_pools import KINDS, left_open, template_of

# The workers' own templates: of the packages that the tests have, else as prefect-docker 0.7.4 and
# prefect-kubernetes 0.8.0 give them
WORKERS = {
    "process": ("prefect.workers.process", "ProcessWorker"),
    "docker": ("prefect_docker.worker", "DockerWorker"),
    "kubernetes": ("prefect_kubernetes.worker", "KubernetesWorker"),
    "ecs": ("prefect_aws.workers", "ECSWorker"),
}
STORED = Path(__file__).parent / "worker_templates"
_PLACE = re.compile(r"\{\{ (\w+) \}\}")


def worker(kind: str) -> Any:
    module, name = WORKERS[kind]
    return getattr(pytest.importorskip(module), name)


def own_template(kind: str) -> dict[str, Any]:
    stored = STORED / f"{kind}.json"
    if stored.exists():
        return cast(dict[str, Any], json.loads(stored.read_text()))
    module, name = WORKERS[kind]
    return cast(
        dict[str, Any], getattr(importlib.import_module(module), name).get_default_base_job_template()
    )


def lacking(wanted: Any, found: Any, path: str = "") -> list[str]:
    """What of a worker's own job is not in ours."""
    if isinstance(wanted, dict):
        return [
            line
            for key, value in wanted.items()
            for line in (lacking(value, found[key], f"{path}.{key}") if key in found else [f"{path}.{key}"])
        ]
    if isinstance(wanted, list):
        if len(found) < len(wanted):
            return [path]
        return [line for n, value in enumerate(wanted) for line in lacking(value, found[n], f"{path}[{n}]")]
    return [] if wanted == found else [path]


def wanted_of(job: Any, places: set[str]) -> Any:
    """What of a worker's own job has no place for a variable that ours does not leave to a run."""
    if isinstance(job, dict):
        made = {key: wanted_of(value, places) for key, value in job.items()}
        return {key: value for key, value in made.items() if value not in ("", {})}
    if isinstance(job, list):
        return [wanted_of(value, places) for value in job]
    return "" if isinstance(job, str) and not set(_PLACE.findall(job)) <= places else job


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_of_the_workers_own_template_is_lacking(kind: str) -> None:
    own, ours = own_template(kind), template_of(kind)
    places = set(_PLACE.findall(json.dumps(ours["job_configuration"])))
    assert lacking(wanted_of(own["job_configuration"], places), ours["job_configuration"]) == []
    assert places <= set(own["variables"]["properties"]) | {"scratch_size"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_has_a_variable_and_every_variable_a_description(kind: str) -> None:
    template = template_of(kind)
    places = set(_PLACE.findall(json.dumps(template["job_configuration"])))
    properties = template["variables"]["properties"]
    assert places == set(properties) - {"env"}
    assert all(value.get("description") for value in properties.values())


@pytest.mark.parametrize("kind", KINDS)
def test_no_run_chooses_what_is_run(kind: str) -> None:
    """Prefect's server takes any variable with a run that is made by ``POST /flow_runs/``; the worker leaves it out."""
    own, template = own_template(kind), template_of(kind)
    free = set(template["variables"]["properties"]) - {"env"}
    evil: dict[str, Any] = {name: "evil" for name in own["variables"]["properties"] if name not in free}
    evil |= {"env": {"EVIL": "evil"}, "env.EVIL": "evil", "volumes": ["evil:/"], "networks": ["evil"]}
    reading = worker(kind).job_configuration.from_template_and_values(template, evil, client=object())
    assert "evil" not in json.dumps(asyncio.run(reading).model_dump(mode="json")).lower()
    assert left_open(template) == () and "command" in left_open(own)
    assert template["variables"]["additionalProperties"] is False
    for variables in (
        {"command": "evil"},
        {"env": {"EVIL": "evil"}},
        {"env.EVIL": "evil"},
        {"image": "evil"},
    ):
        assert validate(variables, template["variables"])
    assert not validate({"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}, template["variables"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_worker_reads_it(kind: str) -> None:
    template = template_of(kind)
    # it asks the server for blocks alone, and the defaults name none
    reading = worker(kind).job_configuration.from_template_and_values(template, {}, client=object())
    job = asyncio.run(reading).model_dump(mode="json")
    if kind == "docker":
        assert job["image"] == "pgproof:latest" and job["auto_remove"] is True
        assert "/etc/pgproof:/etc/pgproof:ro" in job["volumes"]
    if kind == "kubernetes":
        spec = job["job_manifest"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert [mount["name"] for mount in container["volumeMounts"]] == [v["name"] for v in spec["volumes"]]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert job["job_manifest"]["spec"]["backoffLimit"] == 0  # Prefect tries again, not Kubernetes
    if kind == "ecs":
        assert job["task_definition"]["ephemeralStorage"] == {"sizeInGiB": 100}
        assert job["task_definition"]["containerDefinitions"][0]["image"] == "pgproof:latest"
    if kind == "process":
        assert job["stream_output"] is True


def start_a_run(**environment: str) -> subprocess.CompletedProcess[str]:
    """The process pool's command, as a worker splits it."""
    command = template_of("process")["job_configuration"]["command"]
    return subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True)


def test_a_run_is_started_with_the_interpreter_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a worker without our entry point is not guessed."""
    assert start_a_run(PGPROOF_PYTHON="/bin/echo").stdout == "-m prefect.engine\n"
    done = start_a_run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "PGPROOF_PYTHON: pgproof is not installed beside the worker" in done.stderr

    monkeypatch.setenv("PGPROOF_PYTHON", "of another one")
    (ours,) = entry_points(group="prefect.collections", name="pgproof")
    importlib.reload(ours.load())
    assert os.environ["PGPROOF_PYTHON"] == sys.executable


def test_there_are_no_others() -> None:
    files = {
        path.stem
        for path in Path(cast(str, importlib.import_module("deployments.work_pools").__file__)).parent.glob(
            "*.json"
        )
    }
    assert files == set(KINDS)
