"""Options that every command has, and the session that they start."""

from __future__ import annotations

from typing import Annotated

import typer

from pgproof.commands.console import Session

Name = Annotated[str, typer.Argument(help="The cluster, as pgproof.toml names it.")]
ConfigPath = Annotated[
    str | None, typer.Option("--config", help="Default: PGPROOF_CONFIG, else ./pgproof.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
DEFAULT_CONFIG: list[str | None] = [None]  # of the options before the command
DEADLINE: list[int | None] = [None]  # likewise, seconds


def start_session(config: str | None, as_json: bool) -> Session:
    """The session of a command.

    Args:
        config: path that was given after the command.
        as_json: whether it answers with JSON.
    """
    return Session.start(config or DEFAULT_CONFIG[0], as_json, DEADLINE[0])
