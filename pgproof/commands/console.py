"""The console: a readable page for a person, one JSON document for a program.

It is the one place where a text becomes what a terminal shows. Text is text here: square brackets are no markup, a
control character is written out, and the end of a line in somebody's name begins no line of its own
(``pgproof.visible``). So nobody above escapes anything; what is to have a colour is said by ``line``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import rich.console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from pgproof.config import ClusterConfig, Config, load
from pgproof.postgres.names import json_bytes
from pgproof.repository.credentials import Credentials
from pgproof.repository.repository import Archive, Repository, find_archive, open_repository
from pgproof.visible import continued, on_one_line, visible


class Console(rich.console.Console):
    """A terminal, a pipe or a file for people."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, soft_wrap=True, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print a line of text, a ``line``, or a ``table``; further lines of a text are indented."""
        super().print(*(continued(one) if isinstance(one, str) else one for one in objects), **options)

    def paragraph(self, text: str) -> None:
        """Print a line of text below an empty one."""
        self.print()
        self.print(text)

    def script(self, text: str) -> None:
        """Print lines that somebody pastes, as they are."""
        super().print(visible(text))

    def rule(self, title: str | Text = "", **options: Any) -> None:
        """Print a line across the page."""
        super().rule(title if isinstance(title, Text) else line(title), **options)


Line = Text  # what ``line`` makes


def line(*parts: str | tuple[str, str]) -> Line:
    """A line of which some parts have a style.

    Args:
        parts: texts, each alone or with rich's name of its style.
    """
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((continued(text), style) for text, style in styled))


@dataclass(frozen=True)
class Session:
    """One run of the command: its configuration, and how it answers."""

    config: Config
    json: bool
    console: Console

    @classmethod
    def start(cls, config: str | None, as_json: bool, deadline: int | None = None) -> Session:
        loaded = load(config)
        if deadline is not None:
            limit = {"command_timeout": deadline}
            limited = {name: found.model_copy(update=limit) for name, found in loaded.repositories.items()}
            loaded = loaded.model_copy(update={"repositories": limited})
        return cls(loaded, as_json, make_console())

    def cluster(self, name: str) -> ClusterConfig:
        return self.config.cluster(name)

    def repository(self, cluster: ClusterConfig, credentials: Credentials | None = None) -> Repository:
        return open_repository(self.config.repository_of(cluster), credentials, self.say)

    def archive(self, cluster: ClusterConfig) -> Archive:
        return find_archive(self.repository(cluster), cluster)

    def copies(self, cluster: ClusterConfig) -> dict[str, Callable[[], Repository]]:
        """How to open each other repository that gets the cluster's WAL."""
        configs = self.config.copies_of(cluster)
        return {
            name: functools.partial(open_repository, config, say=self.say) for name, config in configs.items()
        }

    def say(self, text: str) -> None:
        """Tell a person, on the error output, what a command waits for."""
        if not self.json:
            sys.stderr.write(f"pgproof: {text}\n")
            sys.stderr.flush()

    def show(self, content: Any, page: Callable[[Console], None]) -> None:
        """Answer with JSON or with a page."""
        show(content, page, self.json)

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A progress bar on a terminal; nothing elsewhere. The total is an estimate, or None."""
        with progress_bar(title, total, quiet=self.json) as advance:
            yield advance


@contextlib.contextmanager
def progress_bar(title: str, total: int | None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; nothing elsewhere, and nothing when it is quiet.

    Args:
        title: what is done.
        total: an estimate in bytes, or None.
        quiet: whether the answer is for a program.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda size: None
        return
    columns = (
        TextColumn(visible(title).replace("{", "{{").replace("}", "}}"), markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        *([] if total is None else [TaskProgressColumn(), TimeRemainingColumn()]),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda size: bar.advance(task, size)


def show(content: Any, page: Callable[[Console], None], as_json: bool) -> None:
    """Answer with JSON or with a page."""
    if as_json:
        write_json(content)
    else:
        page(make_console())


def show_any_name(stream: TextIO) -> None:
    """Have a stream escape what is not UTF-8 in the name of a database or role, rather than fail."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for our tables where there is none."""
    return Console(width=None if sys.stdout.isatty() else 140)


def write_json(content: Any) -> None:
    """One JSON document on standard output, which is often a terminal."""
    sys.stdout.write(visible(json_bytes(content, indent=2, default=str).decode()) + "\n")


def write_error(error: BaseException) -> None:
    """An error of ours on standard error."""
    sys.stderr.write(f"pgproof: {error}\n")  # its text is visible


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A table that copies and pastes well.

    Args:
        title: above it; may be empty.
        columns: their names.
        rows: a cell for each column: a text, or a ``line``.
    """
    made = Table(title=line(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in ("backup", "state", "LSN", "UTC"))
    for row in rows:
        made.add_row(*(Text(on_one_line(cell)) if isinstance(cell, str) else cell for cell in row))
    return made
