"""The catalog is every backup that exists, with what is known of it: taken, complete, verified, proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.backups.record import BackupRecord
from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing
from pgproof.repository.repository import Archive, check_system

# The verdicts of a restore drill; NOT_EXACT says nothing of the backup
PROVEN, NOT_EQUAL, NOT_EXACT, NOT_RECOVERED = "proven", "not equal", "not exact", "not recovered"


@dataclass(frozen=True, slots=True)
class Hold:
    """A backup that must not expire, and why."""

    label: str
    reason: str
    until: datetime | None = None

    def active(self, now: datetime) -> bool:
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """A backup as the catalog shows it.

    Args:
        record: its record.
        proven_at: when a restore drill last proved it.
        failed: why its last drill failed, when that is newer than its last proof.
        hold: why it must not expire.
    """

    record: BackupRecord
    proven_at: datetime | None = None
    failed: str | None = None
    hold: Hold | None = None

    @property
    def label(self) -> str:
        return self.record.label

    @property
    def state(self) -> str:
        if self.failed:
            return "failed"
        return "proven" if self.proven_at else "complete"


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every backup of one archive, oldest first, and the labels of torn ones (data without a record)."""

    entries: tuple[BackupEntry, ...]
    torn: tuple[str, ...] = ()

    def entry(self, label: str) -> BackupEntry:
        """The backup of this label.

        Raises:
            NoBackup: there is none.
        """
        for entry in self.entries:
            if entry.label == label:
                return entry
        known = ", ".join(entry.label for entry in self.entries) or "none"
        raise NoBackup(f'backup "{label}" does not exist', f"There are: {known}.", "pgproof list NAME")

    def chain(self, label: str) -> tuple[BackupRecord, ...]:
        """A backup and the backups it builds on, the full one first.

        Raises:
            NoBackup: a parent is missing.
        ObjectDamaged: the parents go round in a circle.
        """
        records: list[BackupRecord] = []
        following: str | None = label
        while following is not None:
            record = self.entry(following).record
            if record in records:
                raise ObjectDamaged(f'backup "{label}" builds on itself', "Its parents go round in a circle.")
            records.append(record)
            following = record.parent
        return tuple(reversed(records))

    @property
    def newest(self) -> BackupEntry:
        """The newest backup.

        Raises:
            NoBackup: there is none yet.
        """
        if not self.entries:
            raise NoBackup("there is no backup yet", hint="pgproof backup NAME")
        return self.entries[-1]


def read_catalog(archive: Archive) -> Catalog:
    """Read every record, proof and hold of an archive.

    A record that names another system identifier than the place where it lies is refused (invariant 6).
    """
    labels: dict[str, bool] = {}
    for info in archive.store.list(archive.layout.backups):
        label, _, name = info.key.removeprefix(archive.layout.backups).partition("/")
        labels[label] = labels.get(label, False) or name == "backup.json"
    proofs = read_json_below(archive, archive.layout.proofs)
    holds = {tree["label"]: _hold(tree) for tree in read_json_below(archive, archive.layout.holds)}
    entries = []
    for label in sorted(label for label, exists in labels.items() if exists):
        try:
            record = BackupRecord.from_dict(archive.read_json(archive.layout.backup_record(label)))
        except ObjectMissing:  # expired while we looked
            continue
        check_system(archive.system_identifier, record.system_identifier, f'backup record "{label}"')
        if record.label != label:
            raise ObjectDamaged(
                f'backup record "{label}" names another backup',
                f'It says "{record.label}".',
                "a directory of the repository was copied or renamed; put it back as it was",
            )
        entries.append(_entry(record, proofs, holds.get(label)))
    entries.sort(key=lambda entry: (entry.record.stopped_at, entry.label))
    return Catalog(tuple(entries), tuple(sorted(label for label, exists in labels.items() if not exists)))


def read_json_below(archive: Archive, prefix: str) -> list[Any]:
    """Every JSON record directly below a prefix, in the order of their keys."""
    keys = sorted(
        info.key
        for info in archive.store.list(prefix)
        if info.key.endswith(".json") and "/" not in info.key.removeprefix(prefix)
    )
    records = []
    for key in keys:
        try:
            records.append(archive.read_json(key))
        except ObjectMissing:
            continue
    return records


def _hold(tree: dict[str, Any]) -> Hold:
    until = tree.get("until")
    return Hold(tree["label"], tree["reason"], datetime.fromisoformat(until) if until else None)


def _entry(record: BackupRecord, proofs: Sequence[Any], hold: Hold | None) -> BackupEntry:
    proven_at, failed = None, None
    for proof in proofs:  # oldest first: keys are times
        if proof.get("backup") != record.label:
            continue
        if proof.get("verdict") == PROVEN:
            proven_at, failed = datetime.fromisoformat(proof["at"]), None
        elif proof.get("verdict") in (NOT_EQUAL, NOT_RECOVERED):
            failed = str(proof.get("summary"))
    return BackupEntry(record, proven_at, failed, hold)
