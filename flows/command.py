"""``pgproof protect``: the whole chain as the Prefect flow, from the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pgproof.commands.console import Session


def quiet_prefect(state: Path | None = None) -> None:
    """Settings for a run from the command line: no telemetry, and only what matters on the terminal.

    They are set before Prefect is imported, and never over what the user has set.

    Args:
        state: home of a private Prefect, when the run shall leave the user's alone.
    """
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    if state is not None:
        defaults["PREFECT_HOME"] = str(state)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def protect(
    name: Annotated[str, typer.Argument(help="The cluster, as pgproof.toml names it.")],
    incremental: Annotated[bool, typer.Option("--incremental")] = False,
    config: Annotated[str | None, typer.Option("--config")] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    """Back up, check the WAL, prove the backup, prune: the whole chain, as the Prefect flow."""
    session = Session.start(config, json)
    cluster = session.cluster(name)
    quiet_prefect()
    from flows.protect import protect as flow
    from flows.report import report
    from flows.writer import ensure_limit

    ensure_limit(name)
    done = flow(name, str(session.config.path), incremental)
    url = session.config.repository_of(cluster).url
    session.show(done.as_dict(), lambda console: report(console, cluster, url, done))
    return 0
