"""A plugin is a command of a higher layer, found by its entry point and loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer

from pgproof.errors import ConfigError


def add_plugins(application: typer.Typer, words: list[str]) -> None:
    """Add the one command of a higher layer that was asked for; all of them for ``--help``."""
    for point in entry_points(group="pgproof.commands"):
        if point.name not in words and "--help" not in words and words:
            continue
        add_plugin(application, point.name, _loaded(point))


def add_plugin(to: typer.Typer, name: str, plugin: Callable[..., int] | typer.Typer) -> None:
    """Add a command of a higher layer, or a group of them."""
    if isinstance(plugin, typer.Typer):
        to.add_typer(plugin, name=name)
    else:
        to.command(name)(plugin)


def _loaded(point: Any) -> Callable[..., int] | typer.Typer:
    try:
        function: Callable[..., int] | typer.Typer = point.load()
    except ImportError as error:
        text = str(error)

        def missing() -> int:
            raise ConfigError(
                f"pgproof {point.name} needs Prefect, which is not installed here",
                f"{text}.",
                "pip install 'pgproof[prefect]'",
            )

        missing.__doc__ = "Needs pgproof[prefect]."
        return missing
    return function
