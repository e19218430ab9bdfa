"""``pgproof deploy``: every deployment of prefect.yaml for a cluster, on the server that PREFECT_API_URL names."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.console import Console

from deployments.block_clusters import block_clusters, reference, register_blocks
from deployments.forms import form
from deployments.gone import Gone, find_gone, remove_gone
from deployments.rendering import Target, render, titles
from deployments.schedules import Incremental, ask_incremental
from deployments.server import POOL, ensure_pool, server, server_url
from flows.command import chosen_config
from pgproof.commands.console import Session, show
from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError, TransientError

_LIMIT = 300  # seconds for `prefect deploy`, and 10 more for each cluster


def project() -> Path:
    """The directory that holds ``flows/``: the clone, or where the package is installed."""
    return Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Deployed:
    """What one deployment did.

    Args:
        clusters: that were deployed.
        deployments: flow and name of each.
        pool: name of the work pool.
        notes: what whoever deployed should know.
    """

    clusters: tuple[str, ...]
    deployments: tuple[tuple[str, str], ...]
    pool: str
    notes: tuple[str, ...] = ()


def deploy_clusters(
    targets: Sequence[Target], config: Path | None, *, everything: Sequence[str] = (), pool: str = POOL
) -> Deployed:
    """Create or update the deployments of clusters, and their concurrency limits.

    Run it as often as wanted: what is there already is updated in place and keeps its runs.

    Args:
        targets: the clusters.
        config: absolute path of pgproof.toml on the workers; None for clusters that are kept in blocks.
        everything: names of all clusters that a form may offer; default: the targets'.
        pool: name of the work pool, which is there.

    Raises:
        ConfigError: no Prefect server is named.
        AuthenticationFailed, TransientError: the server did not take them.
    """
    names = tuple(target.name for target in targets)
    with server():
        from flows.writer import ensure_limit

        for name in names:
            ensure_limit(name)
    tree = render(targets, pool, str(config) if config is not None else None)
    _prefect_deploy(tree, len(targets))
    _set_forms(tree["deployments"], everything or names)
    return Deployed(names, tuple(titles(tree["deployments"])), pool)


def targets_of(clusters: Sequence[ClusterConfig], config: str) -> tuple[list[Target], list[str]]:
    """The clusters with what their sources can do, and what is to be said of it.

    A source that cannot be asked keeps the schedule that it has; where there is none, it is off.
    """
    with ThreadPoolExecutor(8, "ask") as pool:
        answers = list(pool.map(_incremental, clusters))
    targets, notes = [], []
    for cluster, answer in zip(clusters, answers, strict=True):
        possible = answer.possible
        if possible is None:
            possible = _scheduled(cluster.name)
            kept = "are scheduled as before" if possible else "are not scheduled"
            notes.append(f"{cluster.name}: incremental backups {kept}: {answer.reason}")
        elif not possible and cluster.schedules.incremental.auto:
            notes.append(f"{cluster.name}: incremental backups are not scheduled: {answer.reason}")
        active = {"incremental": possible, "wal-receive": cluster.wal.receive}
        targets.append(Target(cluster, config, active))
    return targets, notes


def _incremental(cluster: ClusterConfig) -> Incremental:
    if not cluster.schedules.incremental.auto:
        return Incremental(True)  # whatever pgproof.toml says
    from tasks.work import with_password

    return ask_incremental(with_password(cluster))


def _scheduled(cluster: str) -> bool:
    """Whether incremental backups of a cluster are scheduled on the server now."""
    from prefect.exceptions import ObjectNotFound

    with server() as client:
        try:
            found = client.read_deployment_by_name(f"base-backup/{cluster}-incremental")
        except ObjectNotFound:
            return False
    return any(schedule.active for schedule in found.schedules)


def _prefect_deploy(tree: dict[str, Any], clusters: int) -> None:
    """Let Prefect's own command deploy a rendered file: what it derives from a flow is its business."""
    settings = os.environ | {
        "PREFECT_API_URL": server_url(),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # an error rather than a throw-away server
        "COLUMNS": "200",
    }
    with tempfile.TemporaryDirectory(prefix="pgproof-deploy-") as directory:
        path = Path(directory) / "prefect.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False, width=1000))
        words = ("--no-prompt", "deploy", "--all", "--prefect-file", str(path))
        _prefect(settings, words, _LIMIT + 10 * clusters)


def _prefect(environment: dict[str, str], words: Sequence[str], limit: float) -> None:
    what = 'could not run "prefect deploy"'
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            env=environment,
            cwd=project(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(what, f"It did not end within {limit:.0f} s.") from error
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise TransientError(what, f"It ended with {done.returncode} and said: {said[-800:]}")


def _set_forms(deployments: Sequence[dict[str, Any]], everything: Sequence[str]) -> None:
    """Give each run form its titles and drop-downs; ``prefect deploy`` has no way to."""
    with server() as client:
        from prefect.client.schemas.actions import DeploymentUpdate

        for one, (flow, name) in zip(deployments, titles(deployments), strict=True):
            found = client.read_deployment_by_name(f"{flow}/{name}")
            cluster = one["parameters"].get("cluster")
            schema = form(dict(found.parameter_openapi_schema or {}), [cluster] if cluster else everything)
            client.update_deployment(found.id, DeploymentUpdate(parameter_openapi_schema=schema))


def deploy(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The cluster; default: all of pgproof.toml.")] = None,
    blocks: Annotated[
        bool,
        typer.Option("--blocks", help="Register our block types, and deploy the clusters kept in blocks."),
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the deployments of clusters that are gone.")
    ] = False,
    render_only: Annotated[
        bool, typer.Option("--render", help="Show what would be deployed, as YAML; ask no server.")
    ] = False,
    pool: Annotated[str, typer.Option("--pool", help="The work pool; made where it is missing.")] = POOL,
    pool_type: Annotated[
        Literal["process", "docker", "kubernetes", "ecs"],
        typer.Option("--pool-type", help="Of a work pool that is made."),
    ] = "process",
    config: Annotated[str | None, typer.Option("--config")] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    """Create or update the deployments of one cluster or of all, on the Prefect server of PREFECT_API_URL."""
    if prune and name is not None:
        raise ConfigError(
            "--prune goes with all clusters", f'"{name}" alone was named.', "pgproof deploy --prune"
        )
    if blocks:
        return _deploy_blocks(name, prune, pool, pool_type, json)
    session = Session.start(chosen_config(context, config), json)
    clusters = [session.cluster(one) for one in configured_clusters(session, name)]
    path = session.config.path
    if render_only:
        targets = [Target(one, str(path), {"wal-receive": one.wal.receive}) for one in clusters]
        sys.stdout.write(yaml.safe_dump(render(targets, pool, str(path)), sort_keys=False, width=1000))
        return 0
    server_url()
    ensure_pool(pool, pool_type)
    targets, notes = targets_of(clusters, str(path))
    done = deploy_clusters(targets, path, everything=list(session.config.clusters), pool=pool)
    gone = find_gone(session.config.clusters, str(path))
    _answer(replace(done, notes=tuple(notes)), gone, prune, pool_type, json)
    return 0


def _deploy_blocks(name: str | None, prune: bool, pool: str, pool_type: str, json: bool) -> int:
    """Deploy the clusters that are kept in blocks; no pgproof.toml is read."""
    server_url()
    register_blocks()
    clusters = block_clusters(name)
    if not clusters:
        content = {"clusters": [], "server": server_url()}
        text = (
            "registered the block types Pgproof Cluster and Pgproof Repository; "
            "make a Pgproof Cluster in the UI, under Blocks, then run this again"
        )
        show(content, lambda console: console.print(text, soft_wrap=True), json)
        return 0
    ensure_pool(pool, pool_type)
    targets, notes = [], []
    for cluster in clusters:
        of_one, said = targets_of([cluster], reference(cluster.name))
        targets += of_one
        notes += said
    done = deploy_clusters(targets, None, pool=pool)
    gone = find_gone(done.clusters, None) if name is None else []
    _answer(replace(done, notes=tuple(notes)), gone, prune, pool_type, json)
    return 0


def _answer(done: Deployed, gone: Sequence[Gone], prune: bool, pool_type: str, json: bool) -> None:
    if prune:
        remove_gone(gone)
    content = {
        "clusters": list(done.clusters),
        "deployments": [f"{flow}/{deployment}" for flow, deployment in done.deployments],
        "notes": list(done.notes),
        "gone": sorted({one.cluster for one in gone}),
        "removed": prune and bool(gone),
        "server": server_url(),
        "work_pool": done.pool,
        "worker": worker_line(done.pool, pool_type),
    }
    show(content, lambda console: _show(console, content, gone, prune), json)


def worker_line(pool: str, pool_type: str) -> str:
    """The command that starts a worker."""
    return f"prefect worker start --pool {pool} --type {pool_type}"


def _show(console: Console, content: dict[str, Any], gone: Sequence[Gone], pruned: bool) -> None:
    console.print(
        f"deployed the flows of {', '.join(content['clusters'])} to work pool {content['work_pool']} "
        f"of {content['server']}; start a worker with:\n  {content['worker']}\n"
        f"or, for one cluster alone:\n  {content['worker']} --work-queue {content['clusters'][0]}",
        markup=False,
        soft_wrap=True,
    )
    for note in content["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for cluster in content["gone"]:
        count = sum(one.cluster == cluster for one in gone)
        console.print(
            f"removed the {count} deployments of {cluster}, which is not configured any more"
            if pruned
            else f"{cluster} has {count} deployments and is not configured; pgproof deploy --prune removes them",
            markup=False,
            soft_wrap=True,
        )


def configured_clusters(session: Session, name: str | None = None) -> list[str]:
    """The names of the clusters to deploy.

    Raises:
        ConfigError: there is none, or none of this name.
    """
    if name is not None:
        return [session.cluster(name).name]
    if not session.config.clusters:
        raise ConfigError("no cluster is configured", hint="pgproof init NAME --dsn ... --repository ...")
    return list(session.config.clusters)
