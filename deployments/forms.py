"""The run form of a deployment: what the UI shows to whoever starts a run by hand, checked by the server as well.

A flow says of each parameter what it is; which clusters there are is known only where it is deployed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

_TITLES = {"config": "Configuration", "at_once": "At once"}
_GIVEN, _LEFT_OUT = "Given", "Not given"


def parameters_of(entrypoint: str) -> dict[str, Any]:
    """The schema of a flow's parameters, as Prefect derives it.

    Args:
        entrypoint: where the flow is, as in ``flows/base_backup.py:base_backup``.
    """
    path, _, name = entrypoint.rpartition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    schema: dict[str, Any] = flow.parameters.model_dump(mode="json", exclude_unset=True)
    return schema


def form(schema: dict[str, Any], clusters: Sequence[str]) -> dict[str, Any]:
    """The schema of a flow's parameters, with a title for each, and a drop-down of the clusters.

    Args:
        schema: as Prefect derives it from the flow.
        clusters: that a run of this deployment may name.
    """
    properties = {name: _titled(name, value) for name, value in schema.get("properties", {}).items()}
    if "cluster" in properties:
        properties["cluster"] = {**properties["cluster"], "enum": list(clusters)}
    if "clusters" in properties:
        named = {"type": "array", "items": {"type": "string", "enum": list(clusters)}, "uniqueItems": True}
        kept = {
            key: value
            for key, value in properties["clusters"].items()
            if key not in ("anyOf", "items", "type")
        }
        properties["clusters"] = {**kept, **named}
    return {**schema, "properties": properties}


def _titled(name: str, value: dict[str, Any]) -> dict[str, Any]:
    titled = {**value, "title": _TITLES.get(name, name.replace("_", " ").capitalize())}
    if "anyOf" in value:
        titled["anyOf"] = _named(value["anyOf"])
    return titled


def _named(choices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two buttons of what may be left out; the UI calls them str and None."""
    one = sum(choice.get("type") != "null" for choice in choices) == 1
    found = []
    for choice in choices:
        words = _LEFT_OUT if choice.get("type") == "null" else _GIVEN
        found.append({"title": words, **choice} if one or words == _LEFT_OUT else choice)
    return found
