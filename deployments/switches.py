"""Switches: what somebody paused, switched on or added in the UI, and what becomes of it at the next deploy.

A schedule is switched by pgproof.toml and by people. Who spoke last can be told only by somebody who knows what was
deployed before, so the version of each deployment says it: ``0.1.0; base-backup on``. It is written together with the
deployment, so that a deploy that dies leaves no deployment without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.standing import Title, title_of
from pgproof import __version__

_SWITCH = re.compile(r"([a-z][a-z0-9-]*) (on|off)\b")


def version_of(schedules: Sequence[Mapping[str, Any]]) -> str:
    """What the version of a deployment says: ours, and which of its schedules shall run.

    Args:
        schedules: as they are rendered.
    """
    switches = [f"{one['slug']} {'on' if one['active'] else 'off'}" for one in schedules]
    return "; ".join([__version__, *([", ".join(switches)] if switches else [])])


def switches_in(version: str | None) -> dict[str, bool]:
    """Which schedules ran by the last deploy; nothing of a version that is not ours.

    Args:
        version: of a deployment on the server.
    """
    return {slug: word == "on" for slug, word in _SWITCH.findall((version or "").partition("; ")[2])}


def keep_switches(
    deployments: Sequence[Mapping[str, Any]], standing: Mapping[Title, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rendered deployments with what people chose in the UI since the last deploy; and what is to be said of it.

    What pgproof.toml says now and did not say then counts more than a switch.

    Args:
        deployments: as they are rendered.
        standing: those on the server.
    """
    kept, notes = [], []
    for one in deployments:
        title = title_of(one["entrypoint"], one["name"])
        there = standing.get(title)
        if there is None:
            kept.append(dict(one))
            continue
        name = "/".join(title)
        if there.paused:
            notes.append(f"{name} is paused in Prefect and stays so: none of its schedules runs")
        schedules = []
        for schedule in one.get("schedules", []):
            chosen = _chosen(schedule, there)
            if chosen != schedule["active"]:
                word = "on" if chosen else "off"
                notes.append(
                    f"{name}: schedule {schedule['slug']} was switched {word} in Prefect and stays so"
                )
            schedules.append({**schedule, "active": chosen})
        schedules += _added(one, there)
        kept.append({**one, "paused": bool(there.paused), **({"schedules": schedules} if schedules else {})})
    return kept, notes


def _chosen(schedule: Mapping[str, Any], there: Any) -> bool:
    """Whether a schedule shall run: as rendered, unless somebody switched it since the last deploy."""
    wanted: bool = schedule["active"]
    then = switches_in(there.version).get(schedule["slug"], wanted)
    now = next((bool(one.active) for one in there.schedules if one.slug == schedule["slug"]), then)
    return now if wanted == then else wanted


def _added(rendered: Mapping[str, Any], there: Any) -> Iterator[dict[str, Any]]:
    """Schedules that somebody made in the UI, as prefect.yaml has them; not those of an earlier pgproof."""
    ours = {one["slug"] for one in rendered.get("schedules", [])} | set(switches_in(there.version))
    for one in there.schedules:
        if one.slug not in ours:
            yield entry_of(one)


def entry_of(one: Any) -> dict[str, Any]:
    """A schedule of the server, as prefect.yaml would have it.

    Args:
        one: of a deployment.
    """
    entry: dict[str, Any] = {**_when(one.schedule), "active": bool(one.active)}
    if one.slug:
        entry["slug"] = one.slug
    if one.parameters:
        entry["parameters"] = dict(one.parameters)
    return entry


def _when(when: Any) -> dict[str, Any]:
    zone = {"timezone": when.timezone} if when.timezone else {}
    if hasattr(when, "cron"):
        return {"cron": when.cron, "day_or": when.day_or, **zone}
    if hasattr(when, "interval"):
        anchor = when.anchor_date.isoformat()
        return {"interval": when.interval.total_seconds(), "anchor_date": anchor, **zone}
    return {"rrule": when.rrule, **zone}
