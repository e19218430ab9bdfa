"""``pgproof deploy``: every deployment of prefect.yaml for one cluster, on the server that PREFECT_API_URL names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pgproof.commands.console import Session
from pgproof.errors import ConfigError, PgproofError, TransientError

POOL = "pgproof"


def project() -> Path:
    """The directory that holds ``flows/``: the clone, or where the package is installed.

    Raises:
        ConfigError: prefect.yaml is at neither place.
    """
    here = Path(__file__).resolve().parent
    return here.parent


def prefect_yaml() -> Path:
    """prefect.yaml of the clone, or the copy that the wheel carries.

    Raises:
        ConfigError: neither is there.
    """
    for path in (project() / "prefect.yaml", project() / "deployments" / "prefect.yaml"):
        if path.exists():
            return path
    raise ConfigError('"prefect.yaml" is missing', f"Looked in {project()}.", "install pgproof again")


def deploy_cluster(cluster: str, config: Path, environment: dict[str, str] | None = None) -> None:
    """Create or update a cluster's deployments, its work pool and its concurrency limit; run it as often as wanted.

    Args:
        cluster: its name.
        config: absolute path of pgproof.toml on the workers.
        environment: with PREFECT_API_URL; default that of the process.

    Raises:
        ConfigError: no Prefect server is named.
        TransientError: the server did not take them.
    """
    settings = dict(os.environ if environment is None else environment)
    if not settings.get("PREFECT_API_URL"):
        raise ConfigError(
            "no Prefect server is named",
            "Without PREFECT_API_URL the deployments would go to a server that ends with this command.",
            "export PREFECT_API_URL=http://127.0.0.1:4200/api, or run pgproof up",
        )
    settings |= {"PGPROOF_CLUSTER": cluster, "PGPROOF_CONFIG": str(config)}
    settings["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"  # an error rather than a throw-away server
    _prefect(settings, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    limit = ("gcl", "create", f"pgproof-{cluster}", "--limit", "1")
    _prefect(settings, *limit, allowed="already exists")
    _prefect(settings, "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_yaml()))


def _prefect(environment: dict[str, str], *words: str, allowed: str = "") -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words],
        env=environment,
        cwd=project(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = " ".join((done.stdout + done.stderr).split())
    if done.returncode != 0 and not (allowed and allowed in said):
        raise TransientError(f'could not run "prefect {" ".join(words)}"', said[-800:])


def deploy(
    name: Annotated[str, typer.Argument(help="The cluster, as pgproof.toml names it.")],
    config: Annotated[str | None, typer.Option("--config")] = None,
) -> int:
    """Create or update every deployment of a cluster on the Prefect server of PREFECT_API_URL."""
    session = Session.start(config, False)
    session.cluster(name)
    deploy_cluster(name, session.config.path)
    session.console.print(f"deployed the flows of cluster {name} to work pool {POOL}; start a worker with:")
    session.console.print(f"  prefect worker start --pool {POOL} --type process")
    return 0


__all__ = ["POOL", "PgproofError", "deploy", "deploy_cluster", "prefect_yaml", "project"]
