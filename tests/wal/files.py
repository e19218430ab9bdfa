"""WAL files made by hand: a segment with the header that PostgreSQL would write, in a data directory's pg_wal."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from pgproof.config import RepositoryConfig
from pgproof.repository.repository import Archive, create_repository
from pgproof.timelines.segment import WalSegment

SYSTEM = 7412345678901234567
OTHER = 7499999999999999999
MB = 1 << 20
_HEADER = struct.Struct("=HHIQI4xQII")
_SHORT_HEADER = struct.Struct("=HHIQI4x")
_BLOCK = 8192


def segment_bytes(
    segment: WalSegment, *, system: int = SYSTEM, seed: str = "", timeline: int | None = None
) -> bytes:
    """The content of a segment: pages with their headers and bytes that follow from the seed, then empty ones."""
    magic, long_header = 0xD116, 0x0002
    on = segment.timeline if timeline is None else timeline
    body = hashlib.sha256(f"{segment}{seed}".encode()).digest() * (_BLOCK // 32)
    content = b""
    for address in range(segment.start, segment.start + min(4 * _BLOCK, segment.size), _BLOCK):
        header = _SHORT_HEADER.pack(magic, 0, on, address, 0)
        if not content:
            header = _HEADER.pack(magic, long_header, on, address, 0, system, segment.size, _BLOCK)
        content += (header + body)[:_BLOCK]
    return content.ljust(segment.size, b"\0")


class DataDirectory:
    """As much of a data directory as push and fetch look at."""

    def __init__(self, root: Path, system: int = SYSTEM) -> None:
        self.root, self.wal = root, root / "pg_wal"
        self.wal.mkdir(parents=True)
        (root / "global").mkdir()
        (root / "global" / "pg_control").write_bytes(struct.pack("=Q", system) + bytes(8184))

    def write(self, name: str, content: bytes) -> Path:
        path = self.wal / name
        path.write_bytes(content)
        return path

    def segment(self, number: int = 5, size: int = MB, timeline: int = 1, **options: object) -> Path:
        segment = WalSegment(timeline, number, size)
        return self.write(segment.name, segment_bytes(segment, **options))  # type: ignore[arg-type]


def make_archive(directory: Path, system: int = SYSTEM, **settings: object) -> Archive:
    """A repository in a directory, and in it the archive of cluster ``shop``."""
    url = f"file://{directory}/repository"
    config = RepositoryConfig.model_validate({"url": url, **settings})
    return create_repository(config).archive("shop", system)
