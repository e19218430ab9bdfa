"""Real WAL, and what can happen to it: segments of a running server, altered under their names in a repository."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgproof.config import RepositoryConfig
from pgproof.repository.repository import Archive, create_repository, open_repository
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, list_wal
from pgproof.wal.content import ContentReport, check_content_of
from pgproof.wal.survey import rows_of
from tests.servers.postgres import Source

NOW = datetime.now(UTC) + timedelta(
    days=1
)  # so that what the tests store counts as settled, however long they run
MONTH = timedelta(days=30)


@dataclass
class Wal:
    """An archive of real WAL.

    Args:
        archive: that the tests may harm.
        segments: in order.
        bin: of the server that wrote it.
    """

    archive: Archive
    segments: list[WalSegment]
    bin: Path | None

    @classmethod
    def of(cls, source: Source, size: int) -> Wal:
        """The archive of a source itself."""
        listing = list_wal(source.archive, size)
        segments = [
            WalSegment(timeline, number, size)
            for timeline, numbers in sorted(listing.numbers.items())
            for number in sorted(numbers)
        ]
        return cls(source.archive, segments, source.bin)

    def copy(self, directory: Path, **settings: object) -> Wal:
        """The same WAL in a repository of its own, through another codec when settings say so."""
        url = f"file://{directory}/repository"
        config = RepositoryConfig.model_validate({"url": url, **settings})
        source = Path(self.archive.store.url.removeprefix("file://"))
        if settings:
            archive = create_repository(config).archive("main", self.archive.system_identifier)
            for info in self.archive.store.list(self.archive.layout.wal):
                key = info.key.removesuffix(".zst")
                archive.write(key, self.archive.open(info.key))
            return Wal(archive, self.segments, self.bin)
        shutil.copytree(source, directory / "repository")
        archive = open_repository(config).archive("main", self.archive.system_identifier)
        return Wal(archive, self.segments, self.bin)

    def content(self, segment: WalSegment) -> bytes:
        return b"".join(self.archive.open(find_key(self.archive, segment.name)))

    def path(self, segment: WalSegment) -> Path:
        root = Path(self.archive.store.url.removeprefix("file://"))
        return root / find_key(self.archive, segment.name)

    def replace(self, segment: WalSegment, content: bytes) -> None:
        """Store other content under a segment's name."""
        self.archive.store.delete(find_key(self.archive, segment.name))
        self.archive.write(self.archive.layout.wal_file(segment.name), [content])

    def flip(self, segment: WalSegment, offset: int, bit: int = 0) -> None:
        """Alter one bit of a segment's content, under a checksum of its own."""
        content = bytearray(self.content(segment))
        content[offset] ^= 1 << bit
        self.replace(segment, bytes(content))

    def check(self, now: datetime = NOW, **options: object) -> ContentReport:
        arguments = {"bin_directory": self.bin, "workers": 2, "recheck_after": MONTH, **options}
        return check_content_of(self.archive, rows_of(self.segments), now=now, **arguments)  # type: ignore[arg-type]

    def damaged(self, **options: object) -> list[str]:
        """The names of what a whole check finds damaged."""
        return [name for name, _ in self.check(everything=True, **options).damaged]
