"""The catalog is every backup that exists, with what is known of it: taken, complete, verified, proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pgproof.backups.record import BackupRecord
from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing
from pgproof.repository.repository import Archive, check_system

T = TypeVar("T")
# The verdicts of a restore drill; NOT_EXACT says nothing of the backup
PROVEN, NOT_EQUAL, NOT_EXACT, NOT_RECOVERED = "proven", "not equal", "not exact", "not recovered"
NOT_SOUND = "not sound"  # equal, and a check found something


@dataclass(frozen=True, slots=True)
class Hold:
    """A backup that must not expire, and why."""

    label: str
    reason: str
    until: datetime | None = None

    def active(self, now: datetime) -> bool:
        return self.until is None or now < self.until

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Hold:
        """Read a hold as the repository holds it; raises KeyError, TypeError or ValueError."""
        until = tree.get("until")
        return cls(str(tree["label"]), str(tree["reason"]), datetime.fromisoformat(until) if until else None)


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What the catalog needs of a proof record; a foreign one is of a backup that another tool took."""

    backup: str
    verdict: str
    at: datetime
    summary: str
    foreign: bool = False

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> DrillResult:
        """Read a proof as the repository holds it; raises KeyError, TypeError or ValueError."""
        at = datetime.fromisoformat(tree["at"])
        foreign = bool(tree.get("origin"))
        return cls(str(tree["backup"]), str(tree["verdict"]), at, str(tree["summary"]), foreign)


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
    """Every backup of one archive, oldest first.

    Args:
        entries: of the backups.
        torn: labels of data without a record.
        damaged: label and reason of each record that cannot be read; only a tolerant reading has them.
        unread: key and reason of each proof and hold that cannot be read; only a tolerant reading has them.
    """

    entries: tuple[BackupEntry, ...]
    torn: tuple[str, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    def entry(self, label: str) -> BackupEntry:
        """The backup of this label.

        Raises:
            NoBackup: there is none, or its record is damaged.
        """
        for entry in self.entries:
            if entry.label == label:
                return entry
        if fault := dict(self.damaged).get(label):
            raise NoBackup(f'backup "{label}" cannot be used', fault, "pgproof list NAME shows the others")
        known = ", ".join(entry.label for entry in self.entries) or "none"
        raise NoBackup(f'backup "{label}" does not exist', f"There are: {known}.", "pgproof list NAME")

    def chain(self, label: str) -> tuple[BackupRecord, ...]:
        """A backup and the backups it builds on, the full one first.

        Raises:
            NoBackup: a parent is missing.
            ObjectDamaged: the parents go round in a circle.
        """
        records: list[BackupRecord] = []
        known = {entry.label for entry in self.entries}
        following: str | None = label
        while following is not None:
            if records and following not in known:
                raise NoBackup(
                    f'backup "{label}" cannot be restored',
                    f'It builds on "{following}", which does not exist.',
                    "pgproof list NAME shows the others",
                )
            record = self.entry(following).record
            if record in records:
                raise ObjectDamaged(f'backup "{label}" builds on itself', "Its parents go round in a circle.")
            records.append(record)
            following = record.parent
        return tuple(reversed(records))

    def is_whole(self, label: str) -> bool:
        """Whether a backup and all that it builds on are there."""
        try:
            return bool(self.chain(label))
        except (NoBackup, ObjectDamaged):
            return False

    @property
    def newest(self) -> BackupEntry:
        """The newest backup.

        Raises:
            NoBackup: there is none yet.
        """
        if not self.entries:
            raise NoBackup("there is no backup yet", hint="pgproof backup NAME")
        return self.entries[-1]


def read_catalog(archive: Archive, *, tolerant: bool = False) -> Catalog:
    """Read every record, proof and hold of an archive.

    A record that names another system identifier than the place where it lies is refused (invariant 6).

    Args:
        archive: of one system identifier.
        tolerant: leave out what is damaged, so that it does not stand in the way of restoring another backup;
            never for a decision about what may go.

    Raises:
        ObjectDamaged: a record, proof or hold cannot be read, unless tolerant.
    """
    labels: dict[str, bool] = {}
    for info in archive.store.list(archive.layout.backups):
        label, _, name = info.key.removeprefix(archive.layout.backups).partition("/")
        labels[label] = labels.get(label, False) or name == "backup.json"
    unread: list[tuple[str, str]] | None = [] if tolerant else None
    proofs = _read_below(archive, archive.layout.proofs, DrillResult.from_dict, unread)
    holds = {hold.label: hold for hold in _read_below(archive, archive.layout.holds, Hold.from_dict, unread)}
    entries, damaged = [], []
    for label in sorted(label for label, exists in labels.items() if exists):
        try:
            entries.append(_entry(_read_record(archive, label), proofs, holds.get(label)))
        except ObjectMissing:  # expired while we looked
            continue
        except ObjectDamaged as error:
            if not tolerant:
                raise
            damaged.append((label, f"{error.fact}. {error.detail}"))
    entries.sort(key=lambda entry: (entry.record.stopped_at, entry.label))
    torn = sorted(label for label, exists in labels.items() if not exists)
    return Catalog(tuple(entries), tuple(torn), tuple(damaged), tuple(unread or ()))


def _read_record(archive: Archive, label: str) -> BackupRecord:
    record = BackupRecord.from_dict(archive.read_json(archive.layout.backup_record(label)))
    check_system(archive.system_identifier, record.system_identifier, f'backup record "{label}"')
    if record.label != label:
        raise ObjectDamaged(
            f'backup record "{label}" names another backup',
            f'It says "{record.label}".',
            "a directory of the repository was copied or renamed; put it back as it was",
        )
    return record


def read_holds(archive: Archive) -> list[Hold]:
    """Every hold, active or not."""
    return _read_below(archive, archive.layout.holds, Hold.from_dict, None)


def _read_below(
    archive: Archive, prefix: str, parse: Callable[[Any], T], unread: list[tuple[str, str]] | None
) -> list[T]:
    """Every JSON record directly below a prefix, in the order of their keys.

    Args:
        archive, prefix: where.
        parse: a record.
        unread: gets key and reason of damaged ones; None refuses them.
    """
    keys = sorted(
        info.key
        for info in archive.store.list(prefix)
        if info.key.endswith(".json") and "/" not in info.key.removeprefix(prefix)
    )
    records = []
    for key in keys:
        try:
            records.append(parse(archive.read_json(key)))
        except ObjectMissing:
            continue
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if unread is None:
                raise ObjectDamaged(f'record "{key}" cannot be read', f"{error!r}.") from error
            unread.append((key, f"{error!r}."))
        except ObjectDamaged as error:
            if unread is None:
                raise
            unread.append((key, error.detail))
    return records


def _entry(record: BackupRecord, proofs: Sequence[DrillResult], hold: Hold | None) -> BackupEntry:
    proven_at, failed = None, None
    for proof in proofs:  # oldest first: keys are times
        if proof.foreign or proof.backup != record.label:  # another tool's label may equal ours
            continue
        if proof.verdict == PROVEN:
            proven_at, failed = proof.at, None
        elif proof.verdict in (NOT_EQUAL, NOT_SOUND, NOT_RECOVERED):
            failed = proof.summary
    return BackupEntry(record, proven_at, failed, hold)
