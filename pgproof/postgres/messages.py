"""The messages of a running BASE_BACKUP (PostgreSQL manual, 55.4, "BASE_BACKUP")."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArchiveStart:
    """A new tar begins; ``tablespace`` is None for the data directory."""

    name: str
    tablespace: int | None


@dataclass(frozen=True, slots=True)
class ManifestStart:
    """What follows is the backup manifest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many bytes of the current tar the server has read."""

    done: int


Message = ArchiveStart | ManifestStart | Progress | bytes


def message_of(data: bytes) -> Message | None:
    """What the server sent in one CopyData message; None for a kind that is not known."""
    kind, body = data[:1], data[1:]
    if kind == b"d":
        return body
    if kind == b"n":
        name, path, _ = body.split(b"\0", 2)
        oid = name.removesuffix(b".tar").decode()
        return ArchiveStart(name.decode(), int(oid) if path and oid.isdigit() else None)
    if kind == b"m":
        return ManifestStart()
    return Progress(struct.unpack("!q", body)[0]) if kind == b"p" else None
