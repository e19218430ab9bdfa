"""An origin is another tool's place for backups and WAL of a cluster: what a drill asks of it.

An origin only reads its tool's repository. It runs the tool's own programs, so that what is proven is what the tool
would give back in an emergency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pgproof.errors import NoBackup
from pgproof.timelines.lsn import LSN


@dataclass(frozen=True, slots=True)
class ForeignBackup:
    """A backup that another tool has, as far as the tool tells.

    Args:
        label: the tool's own name for it.
        stopped_at: when it ended, aware.
        stop_lsn: where it ended.
        system_identifier: of its cluster.
        size: bytes of the restored files.
        tablespaces: names of its tablespaces.
    """

    label: str
    stopped_at: datetime | None = None
    stop_lsn: LSN | None = None
    system_identifier: int | None = None
    size: int | None = None
    tablespaces: tuple[str, ...] = ()


class Origin(Protocol):
    """What a drill needs of another tool."""

    @property
    def kind(self) -> str:
        """The word of ``--from``."""

    @property
    def title(self) -> str:
        """The tool and the name of the cluster there, for messages."""

    def version(self) -> str:
        """The tool's version, as it says it."""

    def backups(self) -> Sequence[ForeignBackup]:
        """Every backup that can be restored, oldest first."""

    def restore(self, backup: ForeignBackup, data: Path, tablespaces: Path) -> tuple[str, ...]:
        """Put a backup's files into the empty directory ``data``, and its tablespaces below ``tablespaces``.

        Returns:
            what its program warned of, though it ended well.

        Raises:
            ObjectDamaged: the tool says that its backup is damaged.
            ToolFailed: it failed for another reason.
        """

    def fetch(self, name: str, destination: Path, data: Path) -> None:
        """Write a WAL file to a path in an empty directory.

        Args:
            name: as PostgreSQL's ``%f``.
            destination: where.
            data: the restored data directory; pgBackRest asks its control data which cluster this is.

        Raises:
            ObjectMissing: the tool does not have it.
            ObjectDamaged: it has it, damaged.
            ToolFailed: it could not say.
        """


def choose(origin: Origin, label: str | None, *, oldest: bool = False) -> ForeignBackup:
    """A backup of an origin: one that is named, else the newest or the oldest.

    Raises:
        NoBackup: there is none, or none of this label.
    """
    backups = list(origin.backups())
    if not backups:
        raise NoBackup(f"{origin.title} has no backup that can be restored")
    if label is None:
        return backups[0 if oldest else -1]
    for backup in backups:
        if backup.label == label:
            return backup
    raise NoBackup(
        f'backup "{label}" does not exist in {origin.title}',
        f"There are: {', '.join(backup.label for backup in backups)}.",
        "leave out --backup to take the newest",
    )
