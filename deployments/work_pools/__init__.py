"""Base job templates of the work pools: how a worker starts a run, for each kind of worker.

Each is the template of Prefect's own worker with our defaults in it: an image that has pgproof and PostgreSQL's
programs, where pgproof.toml is, and where a restore drill finds room.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = ("process", "docker", "kubernetes", "ecs")


def template_of(kind: str) -> dict[str, Any]:
    """The base job template for a kind of worker.

    Args:
        kind: process, docker, kubernetes or ecs.
    """
    template: dict[str, Any] = json.loads((Path(__file__).parent / f"{kind}.json").read_text())
    return template
