"""``pgproof protect``: the whole chain as the Prefect flow, from the command line."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from flows.login import use_login
from pgproof.commands.console import Session
from pgproof.errors import PgproofError


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


def chosen_config(context: typer.Context, config: str | None) -> str | None:
    """``--config``, after the command's name or before it."""
    before: str | None = context.find_root().params.get("config")
    return config or before


class _WithoutTraceback(logging.Filter):
    """Our errors say all in their own words; the traceback is for what nobody foresaw."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PgproofError):
            record.exc_info = record.exc_text = None
            record.msg, record.args = f"{record.getMessage()}: {error.fact}", ()
        return True


def plain_errors() -> None:
    """Keep tracebacks of our errors off the terminal."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_WithoutTraceback())


def protect(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The cluster, as pgproof.toml names it.")],
    incremental: Annotated[bool, typer.Option("--incremental")] = False,
    config: Annotated[str | None, typer.Option("--config")] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    """Back up, check the WAL, prove the backup, prune: the whole chain, as the Prefect flow."""
    session = Session.start(chosen_config(context, config), json)
    cluster = session.cluster(name)
    quiet_prefect()
    use_login(session.config.state)
    from flows.protect import protect as flow
    from flows.report import report
    from flows.writer import ensure_limit

    plain_errors()
    ensure_limit(name)
    done = flow(name, str(session.config.path), incremental)
    url = session.config.repository_of(cluster).url
    session.show(done.as_dict(), lambda console: report(console, cluster, url, done))
    return 0
