"""``pgproof deploy``: every deployment of prefect.yaml for a cluster, on the server that PREFECT_API_URL names."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from deployments.block_clusters import block_clusters, reference, register_blocks
from deployments.differences import differences
from deployments.forms import form, parameters_of
from deployments.gone import Gone, alerts_left, find_gone, remove_gone
from deployments.prefect_deploy import prefect_deploy
from deployments.queues import IdleQueue, ensure_queues, find_idle, remove_idle
from deployments.rendering import Target, render, titles
from deployments.report import content_of, show_report
from deployments.schedules import Incremental, ask_incremental
from deployments.server import POOL, Pool, ensure_pool, server, server_url
from deployments.standing import Title, by_title
from deployments.switches import keep_switches, switches_in
from flows.command import chosen_config
from flows.login import use_login
from pgproof.commands.console import Session, show
from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError
from pgproof.visible import on_one_line


@dataclass(frozen=True)
class Deployed:
    """What one deployment did.

    Args:
        clusters: that were deployed.
        deployments: flow and name of each.
        changes: flow and name of each deployment that is not as it was before, with what was changed; ``new`` for
            one that was not there.
        notes: what whoever deployed should know.
    """

    clusters: tuple[str, ...]
    deployments: tuple[Title, ...]
    changes: Mapping[Title, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def deploy_clusters(
    targets: Sequence[Target], config: Path | None, *, everything: Sequence[str] = (), pool: str = POOL
) -> Deployed:
    """Create or update the deployments of clusters, their work queues and their concurrency limits.

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
    tree = render(targets, pool, str(config) if config is not None else None)
    ensure_queues(pool, {target.name: target.config for target in targets})
    with server() as client:
        from flows.writer import ensure_limit

        for name in names:
            ensure_limit(name)
        standing = by_title(client)
    kept, notes = keep_switches(tree["deployments"], standing)
    wanted = dict(zip(titles(kept), kept, strict=True))
    forms = {title: _form(one, everything or names, standing.get(title)) for title, one in wanted.items()}
    changes = {}
    for title, one in wanted.items():
        if found := differences(one, tree["pull"], forms[title], standing.get(title)):
            changes[title] = found
    if changes:
        prefect_deploy({**tree, "deployments": [wanted[title] for title in changes]})
        _set_forms({title: forms[title] for title in changes})
    return Deployed(names, tuple(wanted), changes, tuple(notes))


def _form(deployment: Mapping[str, Any], everything: Sequence[str], there: Any) -> dict[str, Any]:
    """The run form, with the backups that it has to choose from until now."""
    from tasks.offers import labels_in, with_labels

    cluster = deployment["parameters"].get("cluster")
    made = form(parameters_of(deployment["entrypoint"]), [cluster] if cluster else everything)
    return with_labels(made, labels_in(there.parameter_openapi_schema)) if there else made


def targets_of(
    clusters: Sequence[ClusterConfig], config: str, *, ask_server: bool = True
) -> tuple[list[Target], list[str]]:
    """The clusters with what their sources can do, and what is to be said of it.

    A source that cannot be asked keeps the schedule that it has; where there is none, it is off.

    Args:
        clusters: to ask.
        config: what their flows get as ``config``.
        ask_server: whether there is a Prefect server that knows of the schedules until now.
    """
    with ThreadPoolExecutor(8, "ask") as pool:
        answers = list(pool.map(_incremental, clusters))
    targets, notes = [], []
    for cluster, answer in zip(clusters, answers, strict=True):
        possible = answer.possible
        if possible is None:
            possible = ask_server and _scheduled(cluster.name)
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
    """Whether the last deploy scheduled incremental backups of a cluster, whatever was switched in Prefect since."""
    from prefect.exceptions import ObjectNotFound

    with server() as client:
        try:
            found = client.read_deployment_by_name(f"base-backup/{cluster}-incremental")
        except ObjectNotFound:
            return False
    then = switches_in(found.version)
    return then.get("incremental", any(schedule.active for schedule in found.schedules))


def _set_forms(forms: Mapping[Title, dict[str, Any]]) -> None:
    """Give each run form its titles and drop-downs; ``prefect deploy`` has no way to."""
    with server() as client:
        from prefect.client.schemas.actions import DeploymentUpdate

        for title, schema in forms.items():
            found = client.read_deployment_by_name("/".join(title))
            client.update_deployment(found.id, DeploymentUpdate(parameter_openapi_schema=schema))


def deploy(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The cluster; default: all of pgproof.toml.")] = None,
    blocks: Annotated[
        bool,
        typer.Option("--blocks", help="Register our block types, and deploy the clusters kept in blocks."),
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove deployments and work queues of clusters that are gone.")
    ] = False,
    render_only: Annotated[
        bool, typer.Option("--render", help="Show what would be deployed, as YAML; ask no server.")
    ] = False,
    pool: Annotated[str, typer.Option("--pool", help="The work pool; made where it is missing.")] = POOL,
    pool_type: Annotated[
        Literal["process", "docker", "kubernetes", "ecs"] | None,
        typer.Option("--pool-type", help="Of a work pool that is made; default: process."),
    ] = None,
    config: Annotated[str | None, typer.Option("--config")] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    """Create or update the deployments of one cluster or of all, on the Prefect server of PREFECT_API_URL."""
    if prune and name is not None:
        raise ConfigError(
            "--prune goes with all clusters", f'"{name}" alone was named.', "pgproof deploy --prune"
        )
    if render_only and (prune or blocks):
        raise ConfigError(
            f"--render does not go with {'--prune' if prune else '--blocks'}",
            "It asks no Prefect server, and changes nothing.",
            "pgproof deploy --render",
        )
    if blocks:
        return _deploy_blocks(name, prune, pool, pool_type, json)
    session = Session.start(chosen_config(context, config), json)
    use_login(session.config.state)
    clusters = [session.cluster(one) for one in configured_clusters(session, name)]
    path = session.config.path
    if render_only:
        _render(clusters, path, pool)
        return 0
    server_url()
    found = ensure_pool(pool, pool_type)
    targets, notes = targets_of(clusters, str(path))
    done = deploy_clusters(targets, path, everything=list(session.config.clusters), pool=pool)
    gone = find_gone(session.config.clusters, str(path))
    _answer(done, notes, found, gone, find_idle(str(path), [one.id for one in gone]), prune, json)
    return 0


def _render(clusters: Sequence[ClusterConfig], path: Path, pool: str) -> None:
    """What would be deployed on a server that has nothing yet; what is to be said of it as comments."""
    targets, notes = targets_of(clusters, str(path), ask_server=False)
    sys.stdout.writelines(f"# note: {on_one_line(note)}\n" for note in notes)
    sys.stdout.write(yaml.safe_dump(render(targets, pool, str(path)), sort_keys=False, width=1000))


def _deploy_blocks(name: str | None, prune: bool, pool: str, pool_type: str | None, json: bool) -> int:
    """Deploy the clusters that are kept in blocks; no pgproof.toml is read."""
    server_url()
    register_blocks()
    read = block_clusters(name)
    if not read.clusters:
        content = {"clusters": [], "server": server_url()}
        text = (
            "registered the block types Pgproof Cluster and Pgproof Repository; "
            "make a Pgproof Cluster in the UI, under Blocks, then run this again"
        )
        show(content, lambda console: console.print(text, soft_wrap=True), json)
        return 0
    found = ensure_pool(pool, pool_type)
    targets, notes = [], [_broken(*one) for one in read.broken.items()]
    for cluster in read.clusters:
        of_one, said = targets_of([cluster], reference(cluster.name))
        targets += of_one
        notes += said
    done = deploy_clusters(targets, None, pool=pool)
    gone = find_gone([*done.clusters, *read.broken], None) if name is None else []
    idle = find_idle(None, [one.id for one in gone])
    _answer(done, notes, found, gone, idle, prune, json)
    return 1 if read.broken else 0


def _broken(name: str, error: ConfigError) -> str:
    return f"{name} IS NOT DEPLOYED, what it has stays as it is: {' '.join(str(error).split())}"


def _answer(
    done: Deployed,
    notes: Sequence[str],
    pool: Pool,
    gone: Sequence[Gone],
    idle: Sequence[IdleQueue],
    prune: bool,
    json: bool,
) -> None:
    if prune:
        remove_gone(gone)
        remove_idle(idle)
    content = content_of(done.clusters, done.deployments, done.changes, pool, gone, idle, pruned=prune)
    content["notes"] = [*notes, *done.notes, *content["notes"]]
    alerts = alerts_left(gone)
    show(content, lambda console: show_report(console, content, gone, idle, alerts), json)


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
