"""A plugin is a command of a higher layer, found by its entry point and loaded when it is asked for.

A wheel brings them to every host. Where Prefect is not installed they say so, whatever they were asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from pgproof.errors import ConfigError
from pgproof.packages import require_own

Plugin = Callable[..., int] | typer.Typer
_OURS = ("pgproof", "tasks", "flows", "deployments")
_ANY_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}


_added: set[str] = set()


@functools.cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="pgproof.commands"))


def add_plugins(to: typer.Typer, words: list[str]) -> frozenset[str]:
    """Add the one command of a higher layer that was asked for; all of them for ``--help``.

    Args:
        to: our application.
        words: of the command line.

    Returns:
        the names of all that this process has added.
    """
    for point in _points():
        if point.name in _added or (point.name not in words and "--help" not in words and words):
            continue
        _added.add(point.name)
        try:
            require_own()
            add_plugin(to, point.name, point.load())
        except ConfigError as error:
            to.command(point.name, context_settings=_ANY_WORDS)(_refusing(error))
        except ImportError as error:
            to.command(point.name, context_settings=_ANY_WORDS)(_refusing(_lacking(point.name, error)))
    return frozenset(_added)


def add_plugin(to: typer.Typer, name: str, plugin: Plugin) -> None:
    """Add a command of a higher layer, or a group of them."""
    if isinstance(plugin, typer.Typer):
        to.add_typer(plugin, name=name)
    else:
        to.command(name)(_saying_what_is_missing(name, plugin))


def _saying_what_is_missing(name: str, plugin: Callable[..., int]) -> Callable[..., int]:
    """A command that imports Prefect only once it runs."""

    @functools.wraps(plugin)
    def command(*words: Any, **options: Any) -> int:
        try:
            return plugin(*words, **options)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in _OURS:
                raise
            raise _lacking(name, error) from error

    return command


def _refusing(error: ConfigError) -> Callable[..., int]:
    def command(context: typer.Context) -> int:
        raise error

    command.__doc__ = "Needs pgproof[prefect]."
    return command


def _lacking(name: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"pgproof {name} needs Prefect, which is not installed here",
        f"{error}.",
        "pip install 'pgproof[prefect]'",
    )
