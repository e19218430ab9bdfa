"""Differences: what of a rendered deployment is otherwise on the server.

What does not differ is not deployed again: Prefect drops the scheduled runs of a deployment whenever it is updated,
and makes them again some seconds later, without those that came due meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from deployments.switches import entry_of

NEW = "new"


def differences(
    rendered: Mapping[str, Any], pull: Sequence[Any], schema: Mapping[str, Any], there: Any | None
) -> list[str]:
    """What a deploy would change, in words; nothing where all is as it shall be.

    Args:
        rendered: the deployment as prefect.yaml has it.
        pull: steps of all deployments.
        schema: of its run form.
        there: what stands on the server; None where there is nothing.
    """
    if there is None:
        return [NEW]
    return [
        *_schedules(rendered.get("schedules", []), there.schedules),
        *_rest(rendered, pull, schema, there),
    ]


def _rest(
    rendered: Mapping[str, Any], pull: Sequence[Any], schema: Mapping[str, Any], there: Any
) -> Iterator[str]:
    pool = rendered["work_pool"]
    if pool["name"] != there.work_pool_name:
        yield f"work pool {there.work_pool_name} -> {pool['name']}"
    elif pool.get("work_queue_name", "default") != there.work_queue_name:
        yield f"work queue {there.work_queue_name} -> {pool.get('work_queue_name', 'default')}"
    for name in sorted({*rendered["parameters"], *there.parameters}):
        old, new = there.parameters.get(name), rendered["parameters"].get(name)
        if old != new:
            yield f"parameter {name} {old} -> {new}"
    old, new = str(there.version), rendered["version"]
    if old != new:
        released = old.partition(";")[0], new.partition(";")[0]
        yield f"version {released[0]} -> {released[1]}" if released[0] != released[1] else "version"
    pairs = {
        "entrypoint": (rendered["entrypoint"], there.entrypoint),
        "description": (rendered["description"], there.description),
        "tags": (sorted(rendered["tags"]), sorted(there.tags)),
        "job variables": (pool.get("job_variables", {}), there.job_variables),
        "concurrency limit": (_limit(rendered), _limit_of(there)),
        "pull steps": (list(pull), list(there.pull_steps or [])),
        "run form": (dict(schema), dict(there.parameter_openapi_schema or {})),
    }
    yield from (what for what, (wanted, found) in pairs.items() if wanted != found)


def _schedules(rendered: Sequence[Mapping[str, Any]], found: Sequence[Any]) -> Iterator[str]:
    there = [entry_of(one) for one in found]
    old = {one.get("slug", ""): one for one in there}
    for one in rendered:
        slug = one.get("slug", "")
        if slug and slug not in old:
            yield f"schedule {slug} is new: {_words(one)}"
        elif slug and _words(one) != _words(old[slug]):
            yield f"schedule {slug} {_words(old[slug])} -> {_words(one)}"
    for slug in sorted(set(old) - {one.get("slug", "") for one in rendered}):
        yield f"schedule {slug} is gone"


def _words(entry: Mapping[str, Any]) -> str:
    """A schedule in words; the same words are the same schedule."""
    when = entry.get("cron") or entry.get("rrule")
    if when is None:
        anchor = datetime.fromisoformat(entry["anchor_date"]).timestamp() % float(entry["interval"])
        when = f"every {float(entry['interval']):g} s from {anchor:g} s"
    parameters = "".join(f" {name}={value}" for name, value in (entry.get("parameters") or {}).items())
    return f"{when} {entry.get('timezone') or 'UTC'}{parameters}{'' if entry['active'] else ' off'}"


def _limit(rendered: Mapping[str, Any]) -> tuple[Any, Any]:
    wanted = rendered.get("concurrency_limit") or {}
    return wanted.get("limit"), wanted.get("collision_strategy")


def _limit_of(there: Any) -> tuple[Any, Any]:
    limit, options = there.global_concurrency_limit, there.concurrency_options
    strategy = getattr(options, "collision_strategy", None)
    return (limit.limit if limit else None), getattr(strategy, "value", strategy)
