"""The layout: every key of the repository, in this one place. The format is docs/repository-format.md."""

from __future__ import annotations

from dataclasses import dataclass

from pgproof.timelines.segment import HISTORY_NAME

FORMAT_VERSION = 1
ROOT_KEY = "pgproof.json"
SUFFIXES = (".zst", ".zst.age")


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one cluster's objects: nothing of another system identifier ever shares a prefix."""

    cluster: str
    system_identifier: int

    @property
    def root(self) -> str:
        return f"{self.cluster}/{self.system_identifier}"

    @property
    def lease(self) -> str:
        return f"{self.root}/lease.json"

    @property
    def backups(self) -> str:
        return f"{self.root}/backups/"

    def backup(self, label: str) -> str:
        return f"{self.backups}{label}/"

    def backup_record(self, label: str) -> str:
        return f"{self.backup(label)}backup.json"

    def verification(self, label: str) -> str:
        """The key of what the last ``verify`` of a backup found; beside the backup, so that it expires with it."""
        return f"{self.backup(label)}verification.json"

    @property
    def wal(self) -> str:
        return f"{self.root}/wal/"

    def wal_file(self, name: str) -> str:
        """The key of a WAL file without its codec suffix: ``wal/<timeline>/<log>/<name>``."""
        if HISTORY_NAME.fullmatch(name):
            return f"{self.wal}{name[:8]}/{name}"
        return f"{self.wal}{name[:8]}/{name[8:16]}/{name}"

    @property
    def received(self) -> str:
        return f"{self.root}/received/"

    def received_part(self, name: str, end: int) -> str:
        """The key of the received beginning of a segment, without its codec suffix.

        Args:
            name: of the segment.
            end: bytes of it that were received; the rest of the content is zeros.
        """
        return f"{self.received}{name[:8]}/{name}.{end:08X}"

    @property
    def damaged(self) -> str:
        return f"{self.root}/damaged/"

    @property
    def wal_checked(self) -> str:
        return f"{self.root}/wal-checked.json"

    @property
    def wal_removed(self) -> str:
        return f"{self.root}/wal-removed.json"

    @property
    def fences(self) -> str:
        return f"{self.root}/fences/"

    @property
    def proofs(self) -> str:
        return f"{self.root}/proofs/"

    @property
    def restores(self) -> str:
        return f"{self.root}/restores/"

    @property
    def holds(self) -> str:
        return f"{self.root}/holds/"


def without_suffix(key: str) -> str:
    """A key as it was before the codec's suffix."""
    return key.removesuffix(".age").removesuffix(".zst")
