"""What ``pgproof deploy`` says: what it changed, what is to be known, and what is gone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.differences import NEW
from deployments.gone import Gone
from deployments.queues import IdleQueue
from deployments.server import Pool, server_url
from deployments.standing import Title
from deployments.work_pools import template_path
from pgproof.commands.console import Console
from pgproof.wording import counted


def content_of(
    clusters: Sequence[str],
    deployments: Sequence[Title],
    changes: Mapping[Title, Sequence[str]],
    pool: Pool,
    gone: Sequence[Gone],
    idle: Sequence[IdleQueue],
    *,
    pruned: bool,
) -> dict[str, Any]:
    """Everything that is said, for a program.

    Args:
        clusters: that were deployed.
        deployments: flow and name of each.
        changes: of those that are not as they were.
        pool: that takes the runs.
        gone: deployments of nobody's.
        idle: work queues of no deployment.
        pruned: whether those were removed.
    """
    return {
        "clusters": list(clusters),
        "deployments": ["/".join(title) for title in deployments],
        "new": ["/".join(title) for title, said in changes.items() if list(said) == [NEW]],
        "changed": {"/".join(title): list(said) for title, said in changes.items() if list(said) != [NEW]},
        "notes": [*_openings(pool), *_pauses(clusters, pool)],
        "gone": sorted({one.owner for one in gone}),
        "queues": [{"name": one.name, "work_pool": one.pool, "runs": one.runs} for one in idle],
        "removed": pruned and bool(gone or [one for one in idle if not one.runs]),
        "server": server_url(),
        "work_pool": pool.name,
        "worker": worker_line(pool),
    }


def worker_line(pool: Pool) -> str:
    """The command that starts a worker."""
    return f"prefect worker start --pool {shlex.quote(pool.name)} --type {pool.kind}"


def _openings(pool: Pool) -> list[str]:
    """What a run could choose for itself: whoever may start one runs any program as the worker's account."""
    if not pool.left_open:
        return []
    file = shlex.quote(str(template_path(pool.kind)))
    return [
        f"work pool {pool.name} lets each run choose {', '.join(pool.left_open)}, and so what it runs on the worker: "
        f"prefect work-pool update {shlex.quote(pool.name)} --base-job-template {file}"
    ]


def _pauses(clusters: Sequence[str], pool: Pool) -> list[str]:
    """What keeps runs from being taken although they are scheduled."""
    if pool.paused:
        resume = f"prefect work-pool resume {shlex.quote(pool.name)}"
        return [f"work pool {pool.name} is paused: no run is taken until {resume}"]
    return [
        f"work queue {queue} of {pool.name} is paused: none of its runs is taken until "
        f"prefect work-queue resume {queue} --pool {shlex.quote(pool.name)}"
        for queue in pool.paused_queues
        if queue in clusters or queue == "default"
    ]


def show_report(
    console: Console,
    content: Mapping[str, Any],
    gone: Sequence[Gone],
    idle: Sequence[IdleQueue],
    alerts: Mapping[str, int],
) -> None:
    """The same for a person.

    Args:
        console: to write to.
        content: as ``content_of`` made it.
        gone: deployments of nobody's.
        idle: work queues of no deployment.
        alerts: how many each cluster has that is gone.
    """

    new, changed, count = content["new"], content["changed"], len(content["deployments"])
    what = f"{counted(count, 'deployment')}, {len(new)} new, {len(changed)} changed"
    console.print(
        f"deployed the flows of {', '.join(content['clusters'])} to work pool {content['work_pool']} "
        f"of {content['server']}: {what if new or changed else counted(count, 'deployment') + ', nothing changed'}"
    )
    for name, said in changed.items():
        console.print(f"changed {name}: {'; '.join(said)}")
    for note in content["notes"]:
        console.print(f"note: {note}")
    for owner in content["gone"]:
        theirs = [one for one in gone if one.owner == owner]
        console.print(_of_gone(owner, theirs, content["removed"]))
        if alerts.get(owner):
            console.print(
                f"{owner} has {counted(alerts[owner], 'alert')} as well; pgproof alerts remove {owner} removes them"
            )
    for one in idle:
        console.print(_of_idle(one, content["removed"]))
    console.print(f"start a worker with:\n  {content['worker']}")
    console.print(f"or, for one cluster alone:\n  {content['worker']} --work-queue {content['clusters'][0]}")


def _of_idle(queue: IdleQueue, removed: bool) -> str:
    if queue.runs:
        end = f"{counted(queue.runs, 'run')} {'has' if queue.runs == 1 else 'have'} ended"
        return f"{queue.title} stays until its {end}; pgproof deploy --prune removes it then"
    if removed:
        return f"removed {queue.title}, in which no deployment is left"
    return f"{queue.title} has no deployment left; pgproof deploy --prune removes it"


def _of_gone(owner: str, gone: Sequence[Gone], removed: bool) -> str:
    count = counted(len(gone), "deployment")
    why = ("in which no cluster is left", "has no cluster left")
    if gone[0].cluster is not None:
        why = ("which is not configured any more", "is not configured")
    if removed:
        return f"removed {count} of {owner}, {why[0]}"
    return f"{owner} has {count} and {why[1]}; pgproof deploy --prune removes {'it' if len(gone) == 1 else 'them'}"
