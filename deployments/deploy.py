"""``pgproof deploy``: every deployment of prefect.yaml for a cluster, on the server that PREFECT_API_URL names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from deployments.server import POOL, ensure_pool, server, server_url
from flows.command import chosen_config
from pgproof.commands.console import Session
from pgproof.config import load
from pgproof.errors import ConfigError, TransientError

_LIMIT = 300  # seconds for `prefect deploy`


def project() -> Path:
    """The directory that holds ``flows/``: the clone, or where the package is installed."""
    return Path(__file__).resolve().parent.parent


def prefect_yaml() -> Path:
    """prefect.yaml of the clone, or the copy that the wheel carries.

    Raises:
        ConfigError: neither is there.
    """
    for path in (project() / "prefect.yaml", project() / "deployments" / "prefect.yaml"):
        if path.exists():
            return path
    raise ConfigError('"prefect.yaml" is missing', f"Looked in {project()}.", "install pgproof again")


def deploy_cluster(cluster: str, config: Path) -> None:
    """Create or update a cluster's deployments, its work pool and its concurrency limit; run it as often as wanted.

    Args:
        cluster: its name.
        config: absolute path of pgproof.toml on the workers.

    Raises:
        ConfigError: no Prefect server is named.
        AuthenticationFailed, TransientError: the server did not take them.
    """
    url = server_url()
    ensure_pool()
    with server():
        from flows.writer import ensure_limit

        ensure_limit(cluster)
    settings = os.environ | {
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # an error rather than a throw-away server
        "PGPROOF_CLUSTER": cluster,
        "PGPROOF_CONFIG": str(config),
        "PGPROOF_RECEIVE": str(load(config).cluster(cluster).wal.receive).lower(),
        "COLUMNS": "200",
    }
    _prefect(settings, "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_yaml()))


def _prefect(environment: dict[str, str], *words: str) -> None:
    what = f'could not run "prefect {" ".join(words)}"'
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            env=environment,
            cwd=project(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(what, f"It did not end within {_LIMIT} s.") from error
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise TransientError(what, f"It ended with {done.returncode} and said: {said[-800:]}")


def deploy(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The cluster; default: all of pgproof.toml.")] = None,
    config: Annotated[str | None, typer.Option("--config")] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    """Create or update the deployments of one cluster or of all, on the Prefect server of PREFECT_API_URL."""
    session = Session.start(chosen_config(context, config), json)
    names = configured_clusters(session, name)
    for cluster in names:
        deploy_cluster(cluster, session.config.path)
    worker = f"prefect worker start --pool {POOL} --type process"
    content = {"clusters": names, "server": server_url(), "work_pool": POOL, "worker": worker}
    session.show(
        content,
        lambda console: console.print(
            f"deployed the flows of {', '.join(names)} to work pool {POOL} of {server_url()}; "
            f"start a worker with:\n  {worker}"
        ),
    )
    return 0


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
