"""The tasks of a restore."""

from __future__ import annotations

from dataclasses import replace

from prefect import task

from pgproof.commands.restore import next_steps
from pgproof.errors import ConfigError
from pgproof.restore.plan import RestorePlan, RestoreRequest
from pgproof.restore.procedure import make_plan, run_plan
from tasks.retries import HOUR, RETRY, settings
from tasks.work import is_block, now, open_work

_WITHOUT_BLOCKS = "it runs without Prefect; give it access_key_id and secret_access_key as env: or file:"


@task(**settings("plan restore", 6 * HOUR), **RETRY)
def plan_cluster_restore(cluster: str, request: RestoreRequest, config: str | None = None) -> RestorePlan:
    """Decide everything, and refuse what cannot end well; nothing is written."""
    work = open_work(cluster, config)
    plan = make_plan(work.config, work.cluster, work.archive, request, now())
    warnings = [f"restore_command cannot read {block}: {_WITHOUT_BLOCKS}" for block in work.blocks]
    return replace(plan, warnings=(*plan.warnings, *warnings))


@task(**settings("restore files", 24 * HOUR))
def restore_files(cluster: str, plan: RestorePlan, config: str | None = None) -> list[str]:
    """Put the files in place; what to type next. Not retried: a second try needs an empty directory."""
    if is_block(config):
        raise ConfigError(
            f'cluster "{cluster}" cannot be restored from a block alone',
            "restore_command runs without Prefect, so it cannot read the block; nothing was written.",
            "give the flow the path of a pgproof.toml on the worker; the dry run works with the block",
        )
    work = open_work(cluster, config)
    said = run_plan(work.config.path, work.cluster, work.archive, plan, now)
    return [*(f"warning: {warning}" for warning in said), *next_steps(work.cluster, plan)]
