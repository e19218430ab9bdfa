"""A received part is the beginning of a segment that is not whole yet, stored so that no commit waits for its end.

Its content is as long as the segment, zeros after what was received, so that recovery can read it as the segment.
Order: the newer part is written under a name of its own, then the older ones of that segment are removed; when the
segment is archived whole, all of them are. A crash between two steps leaves a part too many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgproof.errors import ConfigError, ObjectDamaged, ObjectExists, ObjectMissing, WalConflict
from pgproof.repository.layout import SUFFIXES
from pgproof.repository.repository import Archive
from pgproof.wal.archive import is_archived, part_end, part_name
from pgproof.wal.receiving.received import Piece, ReceivedWal


@dataclass(frozen=True, order=True, slots=True)
class StoredPart:
    """A part in the repository: the segment's name, how many bytes of it were received, its key."""

    name: str
    end: int
    key: str


def list_parts(archive: Archive, timeline: int | None = None) -> list[StoredPart]:
    """The parts in a repository, oldest first.

    Args:
        archive: of the cluster.
        timeline: of one timeline alone.
    """
    prefix = archive.layout.received + ("" if timeline is None else f"{timeline:08X}/")
    return sorted(_parts(archive, prefix))


def _parts(archive: Archive, prefix: str) -> Iterator[StoredPart]:
    for info in archive.store.list(prefix):
        name = part_name(archive.layout, info.key)
        if name is not None:
            yield StoredPart(name, part_end(info.key), info.key)


def store_part(archive: Archive, wal: ReceivedWal, piece: Piece) -> int:
    """Store a part; when this returns, it is durable.

    Args:
        archive: to store it in.
        wal: that holds it.
        piece: the part.

    Returns:
        its stored size in bytes; 0 when one that is as long was there.

    Raises:
        WalConflict: a part of this length with other content is there.
    """
    key = archive.layout.received_part(piece.segment.name, piece.end)
    size = 0
    try:
        size = archive.write(key, wal.content(piece), create=True).size
    except ObjectExists:
        _compare(archive, key, wal, piece)
    return size


def remove_parts(archive: Archive, piece: Piece) -> None:
    """Remove the parts that a stored piece of the same segment makes unnecessary."""
    for part in list_parts(archive, piece.segment.timeline):
        if part.name == piece.segment.name and (piece.whole or part.end < piece.end):
            archive.store.delete(part.key)


def sweep_parts(archive: Archive) -> None:
    """Remove what a run that died left: parts whose segment is archived whole, and those that a longer one replaces."""
    parts = list_parts(archive)
    longest = {part.name: part.end for part in parts}
    for part in parts:
        if part.end < longest[part.name] or is_archived(archive, part.name):
            archive.store.delete(part.key)


def _compare(archive: Archive, key: str, wal: ReceivedWal, piece: Piece) -> None:
    present = [key + suffix for suffix in SUFFIXES]
    for stored in present:
        try:
            content: bytes | None = b"".join(archive.open(stored))
        except ObjectMissing:
            continue
        except (
            ConfigError,
            ObjectDamaged,
        ):  # encrypted and no identity here, or torn: it cannot be the same for sure
            content = None
        if content == b"".join(wal.content(piece)):
            return
        raise WalConflict(
            f'a received part of WAL segment "{piece.segment}" is stored already and is not known to be the same',
            f'It is "{stored}". Two servers of the same origin are received to one place, this machine crashed and '
            "lost what it had written, or the repository is encrypted and its age_identity is not configured here.",
            "nothing was overwritten; the next part has another name",
        )
