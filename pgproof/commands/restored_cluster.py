"""The commands for a restored cluster, as the command line declares them; their work is in ``restored``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pgproof.commands.options import DEFAULT_CONFIG, ConfigPath, Json

Directory = Annotated[str, typer.Argument(help="A data directory that pgproof restored.")]


def add(application: typer.Typer) -> None:
    """Add them to the command line."""
    for command in (start, stop, accept):
        application.command()(command)


def start(
    directory: Directory,
    config_file: Annotated[
        str | None, typer.Option("--config-file", help="A postgresql.conf that is not in the directory.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Such as 2h; default: no limit.")
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Pause at the target, where the restore said shutdown.")
    ] = False,
    json: Json = False,
) -> int:
    """Start a restored cluster apart from everything, and compare where it stands with the plan of its restore."""
    from pgproof.commands import restored
    from pgproof.quantity import parse_duration

    return restored.start(
        Path(directory).absolute(),
        Path(config_file).absolute() if config_file else None,
        parse_duration(timeout) if timeout else None,
        pause=pause,
        as_json=json,
    )


def stop(directory: Directory, json: Json = False) -> int:
    """Stop the server of a restored cluster that was not accepted."""
    from pgproof.commands import restored

    return restored.stop_restored(Path(directory).absolute(), json)


def accept(
    directory: Directory,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the plan.")] = False,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="Leave it stopped, for whoever runs servers here.")
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Make a restored cluster the server: end recovery, remove its isolation and recovery settings, and restart it."""
    from pgproof.commands import restored

    return restored.accept_restored(
        Path(directory).absolute(),
        config or DEFAULT_CONFIG[0],
        dry_run=dry_run,
        yes=yes,
        restart=not no_start,
        as_json=json,
    )
