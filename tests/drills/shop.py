"""A shop: one source with one backup and some WAL after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgproof.backups.record import BackupRecord
from tests.servers.postgres import Source


@dataclass
class Shop:
    """A source with one backup and some WAL after it; every test leaves it as it was."""

    source: Source
    record: BackupRecord
    newest: str
    newest_commit: datetime

    @property
    def prefix(self) -> str:
        return f"main/{self.record.system_identifier}"

    def restore(self, *options: str) -> list[str]:
        return ["restore", "main", "--to", str(self.source.root / "restored"), *options]
