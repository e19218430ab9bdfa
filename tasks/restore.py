"""The tasks of a restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from pgproof.commands.restore import make_plan, next_steps, run_plan
from pgproof.restore.plan import RestorePlan, RestoreRequest
from pgproof.restore.target import RecoveryTarget
from tasks.retries import RETRY
from tasks.work import open_work


@task(name="plan restore", cache_policy=NO_CACHE, timeout_seconds=6 * 3600, **RETRY)
def plan_cluster_restore(
    cluster: str, destination: str, target: dict[str, Any], options: dict[str, Any], config: str | None = None
) -> RestorePlan:
    """Decide everything, and refuse what cannot end well; nothing is written."""
    work = open_work(cluster, config)
    request = RestoreRequest(Path(destination), RecoveryTarget.build(**target), **options)
    return make_plan(work.cluster, work.archive, request)


@task(name="restore files", cache_policy=NO_CACHE, timeout_seconds=24 * 3600)
def restore_files(cluster: str, plan: RestorePlan, config: str | None = None) -> list[str]:
    """Put the files in place; what to type next. Not retried: a second try needs an empty directory."""
    work = open_work(cluster, config)
    run_plan(work.config.path, work.cluster, work.archive, plan)
    return next_steps(work.cluster, plan)
