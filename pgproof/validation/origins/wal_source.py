"""A WAL source is where a drill finds archived WAL: our archive, or that of another tool."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from pgproof.errors import ObjectMissing
from pgproof.repository.repository import Archive
from pgproof.wal.archive import find_key
from pgproof.wal.fetch import fetch


class WalSource(Protocol):
    """What a fence needs of an archive."""

    @property
    def interval(self) -> float:
        """Seconds between two questions for what has not arrived yet."""

    def has(self, name: str) -> bool:
        """Whether a WAL file has arrived."""

    def fetch(self, name: str, destination: Path) -> object:
        """Write a WAL file to a path, whole and checked.

        Raises:
            ObjectMissing: it is not there.
        """


class OwnWal:
    """The WAL of our archive."""

    interval = 0.05

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def has(self, name: str) -> bool:
        with contextlib.suppress(ObjectMissing):
            find_key(self._archive, name)
            return True
        return False

    def fetch(self, name: str, destination: Path) -> object:
        return fetch(self._archive, name, destination)
