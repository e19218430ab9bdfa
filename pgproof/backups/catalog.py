"""The catalog is every backup that exists, with what is known of it: taken, complete, verified, proven."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from pgproof.backups.record import BackupRecord
from pgproof.backups.verification import Verification, read_verification
from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing, WrongSystem
from pgproof.repository.reading import reading_ahead
from pgproof.repository.repository import Archive, check_system
from pgproof.repository.shape import moment

T = TypeVar("T")
_RECORD, _VERIFIED = 1, 2  # what is there of a label
# The verdicts of a restore drill; NOT_EXACT says nothing of the backup
PROVEN, NOT_EQUAL, NOT_EXACT, NOT_RECOVERED = "proven", "not equal", "not exact", "not recovered"
NOT_SOUND = "not sound"  # equal, and a check found something
VERIFICATION, CHAIN = "verification", "chain"  # what a backup may have failed besides a drill


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
        return cls(str(tree["label"]), str(tree["reason"]), moment(until) if until else None)


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What the catalog needs of a proof record; a foreign one is of a backup that another tool took."""

    backup: str
    verdict: str
    at: datetime
    summary: str
    foreign: bool = False
    identifier: str = ""

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> DrillResult:
        """Read a proof as the repository holds it; raises KeyError, TypeError or ValueError."""
        at = moment(tree["at"])
        foreign, identifier = bool(tree.get("origin")), str(tree.get("identifier", ""))
        return cls(str(tree["backup"]), str(tree["verdict"]), at, str(tree["summary"]), foreign, identifier)


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """A backup as the catalog shows it.

    Args:
        record: its record.
        proven_at: when a restore drill last proved it.
        failed: why its last drill or its verification failed, when that is newer than its last proof.
        hold: why it must not expire.
        verified_at: when every stored byte was last read and found as recorded.
        failed_at: when it failed.
        by: what failed or proved it: identifier of a proof record, VERIFICATION, or CHAIN.
    """

    record: BackupRecord
    proven_at: datetime | None = None
    failed: str | None = None
    hold: Hold | None = None
    verified_at: datetime | None = None
    failed_at: datetime | None = None
    by: str = ""

    @property
    def label(self) -> str:
        return self.record.label

    @property
    def state(self) -> str:
        """failed, proven, verified or complete; a proof that has become stale is a proof all the same."""
        if self.failed:
            return "failed"
        if self.proven_at:
            return "proven"
        return "verified" if self.verified_at else "complete"

    @property
    def failed_what(self) -> str:
        """What it failed: ``last drill``, ``verification``, or ``chain``."""
        return self.by if self.by in (VERIFICATION, CHAIN) else "last drill"


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every backup of one archive, oldest first.

    Args:
        entries: of the backups.
        torn: labels of data without a record.
        damaged: label and reason of each record that cannot be read.
        unread: key and reason of each proof, hold and verification that cannot be read.
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
            NoBackup: a parent is missing, or is one that this backup cannot be built on.
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
        if fault := break_in(records[0], records[1:]):
            raise NoBackup(
                f'backup "{label}" cannot be restored',
                f"Reason: {fault}. The restored server would refuse every page that was not changed since.",
                f"pgproof backup {records[0].cluster} begins a new chain; when this one is all that is left: "
                'docs/runbooks/restore-by-hand.md, "An incremental backup"',
            )
        return tuple(reversed(records))

    def is_whole(self, label: str) -> bool:
        """Whether a backup and all that it builds on are there."""
        try:
            return bool(self.chain(label))
        except (NoBackup, ObjectDamaged):
            return False

    def doubtful_parents(self, entry: BackupEntry) -> list[BackupEntry]:
        """What a backup builds on and has failed; nothing that failed before the backup itself was proven.

        Raises:
            NoBackup, ObjectDamaged: as of ``chain``.
        """
        since = entry.proven_at if entry.state == "proven" else None
        parents = [self.entry(record.label) for record in self.chain(entry.label)[:-1]]
        return [
            parent
            for parent in parents
            if parent.failed and not (since and parent.failed_at and since > parent.failed_at)
        ]

    @property
    def newest(self) -> BackupEntry:
        """The newest backup.

        Raises:
            NoBackup: there is none yet.
        """
        if not self.entries:
            if self.damaged:
                said = " ".join(f"{label}: {fault}" for label, fault in self.damaged[:3])
                raise NoBackup("no record of a backup can be used", said, "pgproof list NAME names each")
            raise NoBackup("there is no backup yet", hint="pgproof backup NAME")
        return self.entries[-1]


def read_catalog(archive: Archive) -> Catalog:
    """Read every record, proof and hold of an archive.

    What cannot be read is named, and stands in the way of nothing else. So is a record that names another system
    identifier than the place where it lies (invariant 6). Who decides what may go takes the catalog of
    ``pgproof.retention.unread``, in which what is named stays.

    Args:
        archive: of one system identifier.
    """
    labels: dict[str, int] = {}
    for info in archive.store.list(archive.layout.backups):
        label = info.key.removeprefix(archive.layout.backups).partition("/")[0]
        found = _RECORD if info.key == archive.layout.backup_record(label) else 0
        found |= _VERIFIED if info.key == archive.layout.verification(label) else 0
        labels[label] = labels.get(label, 0) | found
    there = [label for label, found in labels.items() if found & _RECORD]
    unread: list[tuple[str, str]] = []
    proofs = _read_below(archive, archive.layout.proofs, DrillResult.from_dict, unread, _may_be_of(there))
    holds = {hold.label: hold for hold in _read_below(archive, archive.layout.holds, Hold.from_dict, unread)}
    entries, damaged = [], []
    there.sort()
    keys = [archive.layout.backup_record(label) for label in there]
    keys += [archive.layout.verification(label) for label in there if labels[label] & _VERIFIED]
    with reading_ahead(archive, keys) as ahead:
        for label in there:
            try:
                record = _read_record(ahead, label)
                verification = None
                if labels[label] & _VERIFIED:
                    verification = _read_verification(ahead, label, unread)
                entries.append(_entry(record, proofs, verification, holds.get(label)))
            except ObjectMissing:  # expired while we looked
                continue
            except (ObjectDamaged, WrongSystem) as error:
                damaged.append((label, f"{error.fact}. {error.detail}"))
    entries.sort(key=lambda entry: (entry.record.stopped_at, entry.label))
    torn = sorted(label for label, found in labels.items() if not found & _RECORD)
    return Catalog(tuple(_inherited(entries)), tuple(torn), tuple(damaged), tuple(unread))


def _read_verification(archive: Archive, label: str, unread: list[tuple[str, str]]) -> Verification | None:
    """The verification of a backup; one that is damaged counts as none, and is named."""
    try:
        return read_verification(archive, label)
    except ObjectDamaged as error:
        unread.append((archive.layout.verification(label), error.detail))
        return None


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
    """Every hold that can be read, active or not."""
    return _read_below(archive, archive.layout.holds, Hold.from_dict, [])


def _may_be_of(labels: Collection[str]) -> Callable[[str], bool]:
    """Whether a proof may be of one of these backups, by its name ``<time>-<label>``.

    Proofs outlive their backups, and are never removed: who decides about the backups that there are, many times a
    day, need not read those of the others. A name of another form is read.
    """

    def wanted(name: str) -> bool:
        _, dash, rest = name.partition("-")
        return not dash or any(f"-{rest}".endswith(f"-{label}") for label in labels)

    return wanted


def _read_below(
    archive: Archive,
    prefix: str,
    parse: Callable[[Any], T],
    unread: list[tuple[str, str]],
    wanted: Callable[[str], bool] = lambda name: True,
) -> list[T]:
    """The JSON records directly below a prefix, in the order of their keys.

    Args:
        archive, prefix: where.
        parse: a record.
        unread: gets key and reason of damaged ones.
        wanted: whether to read one, by its name without ``.json``.
    """
    records = []
    keys = [f"{prefix}{name}.json" for name in archive.record_names(prefix) if wanted(name)]
    with reading_ahead(archive, keys) as ahead:
        for key in keys:
            try:
                records.append(parse(ahead.read_json(key)))
            except ObjectMissing:
                continue
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                unread.append((key, f"{error!r}."))
            except ObjectDamaged as error:
                unread.append((key, error.detail))
    return records


def _entry(
    record: BackupRecord,
    proofs: Sequence[DrillResult],
    verification: Verification | None,
    hold: Hold | None,
) -> BackupEntry:
    """A backup with what its newest drill and its verification say.

    A proof undoes a failed verification that is older: a drill reads every byte of the backup, too. A verification
    undoes no failed drill, and a newer one that failed undoes a proof.
    """
    # another tool's label may equal ours
    drills = [proof for proof in proofs if proof.backup == record.label and not proof.foreign]
    drills = [p for p in drills if p.verdict in (PROVEN, NOT_EQUAL, NOT_SOUND, NOT_RECOVERED)]
    proven = [proof.at for proof in drills if proof.verdict == PROVEN]
    entry = BackupEntry(record, proven[-1] if proven else None, hold=hold)  # oldest first: keys are times
    if drills:
        last = drills[-1]
        failed = None if last.verdict == PROVEN else last.summary
        entry = replace(entry, failed=failed, failed_at=last.at if failed else None, by=last.identifier)
    if verification is not None and verification.ok:
        return replace(entry, verified_at=verification.at)
    if verification is not None and (not drills or verification.at > drills[-1].at):
        return replace(entry, failed=verification.fault, failed_at=verification.at, by=VERIFICATION)
    return entry


def break_in(record: BackupRecord, below: Iterable[BackupRecord]) -> str:
    """Why a backup cannot be built on the backups below it; empty when it can.

    ``pg_checksums --enable`` writes a checksum into every page and tells nobody: an incremental backup after it brings
    only the pages that the server has changed since, and a combined cluster refuses the others. The other way round
    does no harm: a cluster without data checksums looks at none.

    Args:
        record: of the backup.
        below: its parent, the parent of that, and so on.
    """
    old = [parent.label for parent in below if record.data_checksums and not parent.data_checksums]
    return f"it builds on {old[0]}, from before data checksums were enabled" if old else ""


def _inherited(entries: Sequence[BackupEntry]) -> list[BackupEntry]:
    """The entries, oldest first, where what builds on a backup that it cannot build on has failed.

    That are damaged bytes, unless it was proven since; what a drill found in a parent, unless it was proven itself; and
    another state of the data checksums.
    """
    known: dict[str, BackupEntry] = {}
    for entry in entries:
        known[entry.label] = _of_parent(entry, known.get(entry.record.parent or ""))
        fault = break_in(entry.record, _parents(entry.record, known))
        if fault:
            since = entry.record.stopped_at
            known[entry.label] = replace(entry, failed=fault, failed_at=since, by=CHAIN)
    return list(known.values())


def _of_parent(entry: BackupEntry, parent: BackupEntry | None) -> BackupEntry:
    """A backup with what its parent has failed.

    A proof of the backup itself stands against a drill of its parent, as each drill is of other WAL; not against bytes
    that have rotted since.
    """
    if parent is None or not parent.failed or not parent.failed_at or entry.failed:
        return entry
    rotten = parent.by == VERIFICATION
    if entry.proven_at is not None and (not rotten or entry.proven_at > parent.failed_at):
        return entry
    fault = f"it builds on {parent.label}: {parent.failed}"
    return replace(entry, failed=fault, failed_at=parent.failed_at, by=VERIFICATION if rotten else CHAIN)


def _parents(record: BackupRecord, known: Mapping[str, BackupEntry]) -> Iterator[BackupRecord]:
    """The backups below one, as far as they are there, each once: parents may go round in a circle."""
    below: list[BackupRecord] = [record]
    while (parent := known.get(below[-1].parent or "")) is not None and parent.record not in below:
        below.append(parent.record)
        yield parent.record
