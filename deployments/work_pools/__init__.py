"""Base job templates of the work pools: how a worker starts a run, for each kind of worker.

Each is the template of Prefect's own worker with our defaults in it: an image that has pgproof and PostgreSQL's
programs, where pgproof.toml is, and where a restore drill finds room.

No run chooses what is run, nor with which rights: command, environment, image, volumes and the like stand in the job
itself, without a place for a job variable, because a worker fills in whatever a run brings, and Prefect's server does
not look at every run that it takes (``POST /flow_runs/``). The schema refuses them as well, where the server looks.
What a run can choose is its name, its size and how long it may take. Whoever runs the pool changes the rest in its
template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS = ("process", "docker", "kubernetes", "ecs")
_PLACE = re.compile(r"\{\{ *(\w+) *\}\}")
# by which a run of one of the kinds would choose its code, its rights, or what it reaches
_DECISIVE = (
    *("command", "env", "working_dir", "image", "volumes", "privileged", "container_create_kwargs"),
    *("service_account_name", "task_definition_arn", "task_role_arn"),
)


def template_path(kind: str) -> Path:
    """The file of the base job template for a kind of worker."""
    return Path(__file__).parent / f"{kind}.json"


def template_of(kind: str) -> dict[str, Any]:
    """The base job template for a kind of worker.

    Args:
        kind: process, docker, kubernetes or ecs.
    """
    template: dict[str, Any] = json.loads(template_path(kind).read_text())
    return template


def left_open(template: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run can choose by its job variables, of what decides which code it runs.

    Args:
        template: of a work pool, as the server has it.
    """
    job: Any = template.get("job_configuration") or {}
    places = set(_PLACE.findall(json.dumps(job)))
    if isinstance(job.get("env"), dict):  # Prefect adds a run's variables to it
        places.add("env")
    return tuple(name for name in _DECISIVE if name in places)
