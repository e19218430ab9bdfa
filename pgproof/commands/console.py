"""The console: a readable page for a person, one JSON document for a program."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
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

from pgproof.config import ClusterConfig, Config, load
from pgproof.postgres.names import json_bytes
from pgproof.repository.credentials import Credentials
from pgproof.repository.repository import Archive, Repository, find_archive, open_repository


@dataclass(frozen=True)
class Session:
    """One run of the command: its configuration, and how it answers."""

    config: Config
    json: bool
    console: Console

    @classmethod
    def start(cls, config: str | None, as_json: bool) -> Session:
        return cls(load(config), as_json, make_console())

    def cluster(self, name: str) -> ClusterConfig:
        return self.config.cluster(name)

    def repository(self, cluster: ClusterConfig, credentials: Credentials | None = None) -> Repository:
        return open_repository(self.config.repository_of(cluster), credentials)

    def archive(self, cluster: ClusterConfig) -> Archive:
        return find_archive(self.repository(cluster), cluster)

    def copies(self, cluster: ClusterConfig) -> dict[str, Callable[[], Repository]]:
        """How to open each other repository that gets the cluster's WAL."""
        configs = self.config.copies_of(cluster)
        return {name: functools.partial(open_repository, config) for name, config in configs.items()}

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
        TextColumn(title),
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
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


def write_json(content: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json_bytes(content, indent=2, default=str).decode() + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table that copies and pastes well."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in ("backup", "state", "LSN", "UTC"))
    for row in rows:
        made.add_row(*row)
    return made
