"""A tool: how it is set up for a cluster, and its archive_command and restore_command."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workload import Workload

_STORED = re.compile(r"[0-9A-F]{24}(?![0-9A-F])(?!\.partial|\.[0-9A-F]{8}\.backup)")


@dataclass(frozen=True)
class Site:
    """One run of one tool: its files, and the cluster that it serves.

    Args:
        home: directory of its configuration and repository.
        spool: directory of what its background work keeps; named in every command, so that a process that is
            left behind can be told from others.
        data: directory of the cluster that archives or recovers.
        workload: whose cluster it is.
    """

    home: Path
    spool: Path
    data: Path
    workload: Workload

    @property
    def repository(self) -> Path:
        return self.home / "repository"

    @property
    def log(self) -> Path:
        return self.spool / "said"


class Tool(ABC):
    """One contender.

    Args:
        key: short name, for ``--only`` and for directories.
        name: as the tables show it.
        share: part of the segments that the archiver is timed over; a tool that takes them one by one, at one
            rate, need not have them all.
        batches: one call archives more than its own segment.
        resident: a background process stays after a push and serves the next.
    """

    key: str
    name: str
    share: float = 1.0
    batches: bool = False
    resident: bool = False

    @property
    def restore_name(self) -> str:
        """As the table of recoveries shows it."""
        return self.name

    def missing(self) -> str:
        """Why it cannot be measured here; empty when it can."""
        return ""

    @abstractmethod
    def version(self) -> str:
        """What it says about itself."""

    @abstractmethod
    def prepare(self, site: Site) -> None:
        """Make a fresh repository, untimed; the cluster is running."""

    @abstractmethod
    def push(self, site: Site) -> str:
        """The archive_command."""

    @abstractmethod
    def fetch(self, site: Site) -> str:
        """The restore_command."""

    def settle(self, site: Site) -> None:  # noqa: B027 -- most tools have nothing to do
        """What must be done before archived segments can be fetched, untimed."""

    def stored(self, site: Site) -> int:
        """How many segments are in the repository."""
        return len({found[0] for path in site.repository.rglob("*") if (found := _STORED.match(path.name))})
