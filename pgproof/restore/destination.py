"""The destination of a restore: whether its directories can be filled, and the room that they have."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.backups.record import BackupRecord
from pgproof.errors import DestinationRefused, NoRoom
from pgproof.postgres.names import shown
from pgproof.private import shared_by_all
from pgproof.repository.layout import ROOT_KEY

# What a directory is that has such a file: nothing else may lie in it, as it would be backed up, or expired, with it
_OTHERS = {"PG_VERSION": "the data directory of another cluster", ROOT_KEY: "a repository"}


@dataclass(frozen=True)
class Destination:
    """What is at the destination: of each directory its fault, bytes free there, and its file system."""

    usable: Mapping[Path, str | None]
    free: Mapping[Path, int]
    device: Mapping[Path, int] = field(default_factory=dict)


def look_at_destination(data: Path, tablespaces: Sequence[Path]) -> Destination:
    """Look at the directories that a restore would fill; nothing is written.

    Args:
        data: the data directory to make.
        tablespaces: directories of its tablespaces.
    """
    usable: dict[Path, str | None] = {}
    free: dict[Path, int] = {}
    device: dict[Path, int] = {}
    directories = (data, *tablespaces)
    for path in directories:
        if path in usable:
            usable[path] = "two directories of the backup would share it"
            continue
        try:
            usable[path] = fault_of(path, directories)
            state, parent = os.statvfs(existing(path)), existing(path).stat()
        except OSError as error:  # such as one below a directory that we may not enter
            usable[path] = f"it cannot be looked at: {error.strerror}"
            continue
        free[path], device[path] = state.f_bavail * state.f_frsize, parent.st_dev
    return Destination(usable, free, device)


def fault_of(path: Path, others: Sequence[Path]) -> str | None:
    """Why a restore cannot fill a directory; None when it can.

    Args:
        path: of the directory.
        others: directories of the same restore, of which one may lie inside another.

    Raises:
        OSError: nobody lets us see.
    """
    if not path.is_absolute():
        return "it is not an absolute path"
    if "\n" in str(path) or shown(str(path)) != str(path):
        return "its name has a line break or is not UTF-8, so that the server could not say which one it is"
    parent = existing(path)
    for above in path.parents:
        if what := next((what for name, what in _OTHERS.items() if (above / name).exists()), None):
            return f"it lies in {above}, which is {what}"
    if not parent.is_dir():
        return "it is not a directory" if parent == path else f"{parent} is not a directory"
    if parent == path and (names := entries_besides(path, others)):
        return f"it is not empty: it has {len(names)} entries, such as {names[0]}"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} is not writable"
    if (shared := shared_by_all(path)) is not None:
        return f"every account can write in {shared}, and could exchange what is restored there"
    return None


def entries_besides(path: Path, others: Sequence[Path]) -> list[str]:
    """What a directory holds besides other directories of the same restore, such as a mount point of a tablespace.

    Raises:
        OSError: it cannot be read.
    """
    found: list[str] = []
    for name in sorted(os.listdir(path)):
        inner = path / name
        if inner in others and inner.is_dir():
            continue
        leads = any(inner in other.parents for other in others) and inner.is_dir() and not inner.is_symlink()
        found += entries_besides(inner, others) if leads else [name]
    return found


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there.

    Raises:
        OSError: nobody lets us see.
    """
    while not path.exists():
        path = path.parent
    return path


def room_for(
    destination: Path, chain: Sequence[BackupRecord], tablespaces: Mapping[int, Path]
) -> dict[Path, int]:
    """Bytes that each directory needs; a chain is extracted in the data directory before it is combined."""
    room = {destination: 0, **dict.fromkeys(tablespaces.values(), 0)}
    for record in chain:
        for volume in record.volumes:
            path = (
                destination if volume.tablespace is None else tablespaces.get(volume.tablespace, destination)
            )
            room[path] += volume.raw_size
    if len(chain) > 1:
        room[destination] += sum(record.raw_size for record in chain)
    return room


def check_destination(found: Destination, room: Mapping[Path, int]) -> None:
    """Refuse what cannot be filled.

    Raises:
        DestinationRefused: a directory is not empty, or cannot be used.
        NoRoom: a file system has too little.
    """
    for path, fault in found.usable.items():
        if fault is not None:
            raise DestinationRefused(
                f'cannot restore into "{path}"',
                f"Reason: {fault}. Nothing was written.",
                "name a new directory; a tablespace's with --tablespace OLD=NEW",
            )
    for path, free in found.free.items():
        device = found.device.get(path)
        need = sum(size for other, size in room.items() if found.device.get(other) == device)
        if free < need:
            raise NoRoom(
                f'too little room at "{path}"',
                f"The restore needs {need:,} bytes there; {free:,} are free. Nothing was written.",
            )
