"""A state is what is known of a backup now: taken, complete, verified, proven or failed; since when, and by what.

| state | what is known |
|---|---|
| taken | its files are stored, and WAL that makes them consistent is not, or not any more |
| complete | its own WAL, from its start to its stop, is archived whole |
| verified | every stored byte was read and is as recorded |
| proven | a restore drill recovered it and found it equal to the source |
| failed | its last drill or its verification found something |

What was read or proved once may have rotted since: a verification and a proof become stale. A stale proof still chooses
the backup for a restore and protects it from expiry, because there is no better one; it asks for a new drill.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import VERIFICATION, BackupEntry, Catalog
from pgproof.backups.record import BackupRecord
from pgproof.backups.verify import own_segments
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import wal_name

RECORD = "backup record"  # by which a backup is known to be complete


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one backup.

    Args:
        name: failed, taken, proven, verified or complete.
        since: when that became known.
        by: identifier of the proof, VERIFICATION, or RECORD.
        stale: it was proven or verified, and too long ago.
        reason: why it failed, or what it lacks; empty otherwise.
    """

    name: str
    since: datetime
    by: str
    stale: bool = False
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "state": self.name,
            "since": self.since.isoformat(),
            "by": self.by,
            "stale": self.stale,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class ProofAge:
    """The newest proof of all backups that there are.

    Args:
        label: of the backup that has it; empty when none is proven.
        at: when it was made; None when none is proven.
        seconds: its age, or how long there has been a backup and no proof; 0 when there is no backup.
        limit: it is stale after so many seconds.
        failed: the newest backup and what it failed; empty when it did not.
    """

    label: str
    at: datetime | None
    seconds: float
    limit: float
    failed: str = ""

    @property
    def stale(self) -> bool:
        return self.seconds > self.limit


def state_of(entry: BackupEntry, now: datetime, stale_after: float, missing: str = "") -> State:
    """The state of a backup.

    Args:
        entry: of the catalog.
        now: aware.
        stale_after: seconds for which a proof or a verification is good.
        missing: what its own WAL lacks, from ``missing_wal``.
    """
    if entry.failed:
        since = entry.failed_at or entry.record.stopped_at
        return State("failed", since, entry.by, reason=f"its {entry.failed_what} failed: {entry.failed}")
    if missing:
        return State("taken", entry.record.stopped_at, RECORD, reason=missing)
    if entry.proven_at is not None:
        return State("proven", entry.proven_at, entry.by, _is_stale(entry.proven_at, now, stale_after))
    if entry.verified_at is not None:
        stale = _is_stale(entry.verified_at, now, stale_after)
        return State("verified", entry.verified_at, VERIFICATION, stale)
    return State("complete", entry.record.stopped_at, RECORD)


def proof_age(catalog: Catalog, now: datetime, stale_after: float) -> ProofAge:
    """How old the newest proof is.

    A proof of a backup that has expired, or failed since, proves nothing any more. While nothing was ever proven, the
    age is that of the oldest backup: there was time for a drill since then.

    Args:
        catalog: every backup.
        now: aware.
        stale_after: seconds for which a proof is good.
    """
    failed = ""
    if catalog.entries and catalog.newest.failed:
        newest = catalog.newest
        failed = f"backup {newest.label} failed its {newest.failed_what}: {newest.failed}"
    proven = [(e.proven_at, e.label) for e in catalog.entries if e.state == "proven" and e.proven_at]
    if not proven:
        oldest = catalog.entries[0].record.stopped_at if catalog.entries else now
        return ProofAge("", None, max(0.0, (now - oldest).total_seconds()), stale_after, failed)
    at, label = max(proven)
    return ProofAge(label, at, max(0.0, (now - at).total_seconds()), stale_after, failed)


def missing_wal(archive: Archive, records: Iterable[BackupRecord]) -> dict[str, str]:
    """What the backups' own WAL lacks, by label; those that have all of it are left out.

    Only the directories that hold this WAL are listed, each once, not the whole archive.

    Args:
        archive: that holds the backups.
        records: of the backups.

    Raises:
        StoreUnavailable: the archive could not be looked at.
    """
    listed: dict[str, set[str]] = {}
    lacking = {}
    for record in records:
        lost = [
            segment
            for segment in own_segments(record)
            if segment.name not in _beside(archive, segment, listed)
        ]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            lacking[record.label] = f"WAL segment {lost[0]}{more} of its own is not in the archive"
    return lacking


def _beside(archive: Archive, segment: WalSegment, listed: dict[str, set[str]]) -> set[str]:
    """The names of the WAL files in the directory where a segment lies."""
    directory = archive.layout.wal_file(segment.name).rpartition("/")[0] + "/"
    if directory not in listed:
        names = (wal_name(archive.layout, info.key) for info in archive.store.list(directory))
        listed[directory] = {name for name in names if name}
    return listed[directory]


def _is_stale(since: datetime, now: datetime, limit: float) -> bool:
    return (now - since).total_seconds() > limit
