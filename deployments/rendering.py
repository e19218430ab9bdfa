"""The rendered prefect.yaml: every deployment of the clusters that are deployed, as ``prefect deploy`` reads it.

It is a pure function of prefect.yaml, pgproof.toml and what the sources can do, so that the same gives the same.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deployments.schedules import schedule_entry
from deployments.standing import Title, title_of
from deployments.switches import version_of
from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError

_VARIABLE = re.compile(r"\{\{ \$(PGPROOF_\w+) \}\}")
_OWNED = "{{ $PGPROOF_CLUSTER }}"


@dataclass(frozen=True)
class Target:
    """A cluster to deploy.

    Args:
        cluster: its configuration.
        config: what its flows get as ``config``: the path of pgproof.toml on the workers, or a block.
        active: of the schedules that do not depend on pgproof.toml alone.
    """

    cluster: ClusterConfig
    config: str
    active: Mapping[str, bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.cluster.name


def prefect_yaml() -> Path:
    """prefect.yaml of the clone, or the copy that the wheel carries.

    Raises:
        ConfigError: neither is there.
    """
    project = Path(__file__).resolve().parent.parent
    for path in (project / "prefect.yaml", project / "deployments" / "prefect.yaml"):
        if path.exists():
            return path
    raise ConfigError('"prefect.yaml" is missing', f"Looked in {project}.", "install pgproof again")


def render(targets: Sequence[Target], pool: str, config: str | None = None) -> dict[str, Any]:
    """Everything that is deployed for some clusters.

    Args:
        targets: the clusters.
        pool: name of the work pool.
        config: path of pgproof.toml on the workers; None where there are only blocks.
    """
    tree: dict[str, Any] = yaml.safe_load(prefect_yaml().read_text())
    found = tree["deployments"]
    shared = [one for one in found if _OWNED not in one["name"]]
    if config is None:  # what needs a pgproof.toml is not made, and not taken away from one, by blocks
        shared = [one for one in shared if "config" not in one["parameters"]]
    owned = [one for one in found if _OWNED in one["name"]]
    values = {"PGPROOF_POOL": pool, "PGPROOF_CONFIG": config or ""}
    deployments = [fill(one, values) for one in shared]
    deployments += [rendered for target in targets for rendered in _of_cluster(owned, target, pool)]
    for one in deployments:
        one["version"] = version_of(one.get("schedules", []))
    return {"name": tree["name"], "pull": tree["pull"], "deployments": deployments}


def _of_cluster(owned: Sequence[dict[str, Any]], target: Target, pool: str) -> Iterator[dict[str, Any]]:
    values = {
        "PGPROOF_CLUSTER": target.name,
        "PGPROOF_CONFIG": target.config,
        "PGPROOF_POOL": pool,
    }
    for one in owned:
        rendered = fill(one, values)
        for schedule in rendered.get("schedules", []):
            given = {key: schedule[key] for key in ("parameters",) if key in schedule}
            slug = schedule["slug"]
            schedule.clear()
            schedule.update({**schedule_entry(target.cluster, slug, target.active), **given})
        yield rendered


def fill(tree: Any, values: Mapping[str, str]) -> Any:
    """A copy of a tree with its variables put in.

    Raises:
        ConfigError: it has one that is not known.
    """
    if isinstance(tree, dict):
        return {key: fill(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [fill(item, values) for item in tree]
    if not isinstance(tree, str):
        return copy.copy(tree)
    for name in _VARIABLE.findall(tree):
        if name not in values:
            raise ConfigError(
                f'prefect.yaml names "{name}", which is not known', hint="install pgproof again"
            )
    return _VARIABLE.sub(lambda match: values[match[1]], tree)


def titles(deployments: Sequence[Mapping[str, Any]]) -> list[Title]:
    """Flow and name of each rendered deployment, as the server knows them."""
    return [title_of(one["entrypoint"], str(one["name"])) for one in deployments]
