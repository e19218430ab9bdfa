"""An expire plan says of every backup whether it is kept and why, and what else goes.

The plan is a pure function of the facts: the same plan is the dry run, the log and what is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.config import RetentionConfig
from pgproof.repository.layout import Layout
from pgproof.repository.store import ObjectInfo
from pgproof.restore.running import RunningRestore
from pgproof.retention.decision import Kept, cutoff_of, decide
from pgproof.retention.policy import (
    UNPROVEN_CHAINS,
    Chain,
    Reasons,
    why_not,
)
from pgproof.retention.unread import warnings_of
from pgproof.retention.window import Holdings, WalNeeds, reaching, unneeded
from pgproof.timelines.history import TimelineHistory, history_of
from pgproof.wal.archive import listing_of, part_name, wal_name
from pgproof.wal.runs import Numbered, intersect

DAMAGED_KEPT = timedelta(days=30)  # what a repair replaced: long enough to find out what damaged it


@dataclass(frozen=True, slots=True)
class ExpireFacts:
    """What a plan is made from.

    Args:
        catalog: every backup of the archive.
        wal: every object below ``wal/``.
        histories: of every timeline that has a history file in the archive.
        policy: what is to be kept.
        now: aware.
        layout: of the archive.
        torn: the objects of the catalog's torn backups, for their sizes.
        held: labels that a hold names and that may have no record.
        received: every object below ``received/``.
        damaged: every object below ``damaged/``.
        removed: WAL that expire has removed before.
        restores: notes of restores whose time is not over.
    """

    catalog: Catalog
    wal: tuple[ObjectInfo, ...]
    histories: Mapping[int, TimelineHistory]
    policy: RetentionConfig
    now: datetime
    layout: Layout
    torn: tuple[ObjectInfo, ...] = ()
    held: frozenset[str] = frozenset()
    received: tuple[ObjectInfo, ...] = ()
    damaged: tuple[ObjectInfo, ...] = ()
    removed: Numbered = field(default_factory=dict)
    restores: tuple[RunningRestore, ...] = ()

    @property
    def timelines(self) -> set[int]:
        """Every timeline that has WAL, a history or a backup."""
        names = [wal_name(self.layout, info.key) for info in self.wal]
        names += [part_name(self.layout, info.key) for info in self.received]
        backups = {entry.record.timeline for entry in self.catalog.entries}
        return {int(name[:8], 16) for name in names if name} | set(self.histories) | backups

    @property
    def segment_size(self) -> int:
        """Of WAL, in bytes; 0 where the records differ in it, so that names have two meanings."""
        sizes = {entry.record.segment_size for entry in self.catalog.entries}
        return sizes.pop() if len(sizes) == 1 else 0

    @property
    def holdings(self) -> Holdings | None:
        """What is archived, by number; None where records differ in segment size."""
        size = self.segment_size
        if not size:
            return None
        listing = listing_of(self.layout, (*self.wal, *self.received), size, self._history_at)
        return Holdings(listing, self.removed)

    def _history_at(self, key: str) -> TimelineHistory:
        return history_of(int((wal_name(self.layout, key) or "")[:8], 16), self.histories)

    @property
    def cutoff(self) -> datetime:
        """Recovery windows reach back to this time."""
        return cutoff_of(self.catalog, self.policy, self.now)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one backup, and why."""

    label: str
    keep: bool
    reasons: tuple[str, ...]
    kind: str
    state: str
    stored_size: int


@dataclass(frozen=True, slots=True)
class TornBackup:
    """Data without a backup record, of an interrupted backup or expire, and its size in bytes."""

    label: str
    stored_size: int


@dataclass(frozen=True, slots=True)
class ExpirePlan:
    """Everything that an expire does.

    Args:
        root: the archive's; a plan is of no use for another.
        now: when it was made.
        verdicts: of every backup, oldest first.
        remove_backups: labels in the order of removal, incremental backups before those they build on.
        remove_wal: oldest first.
        torn_backups: whose data is removed.
        proven: the proven backup that makes the others unnecessary.
        warnings: what whoever keeps the backups should look into.
        remove_received: received parts of segments that are archived whole, or that nothing needs.
        remove_damaged: damaged objects that a repair kept aside, once they are old.
        segment_size: of WAL, in bytes; 0 where records differ.
        reaching: backups from which all WAL to the end of a timeline is there.
        cut_off: those of them from which it is not any more.
        restores: identifiers of the restores that were known.
        unreadable: labels whose record could not be read.
    """

    root: str
    now: datetime
    verdicts: tuple[Verdict, ...] = ()
    remove_backups: tuple[str, ...] = ()
    remove_wal: tuple[ObjectInfo, ...] = ()
    torn_backups: tuple[TornBackup, ...] = ()
    proven: str | None = None
    warnings: tuple[str, ...] = ()
    remove_received: tuple[ObjectInfo, ...] = ()
    remove_damaged: tuple[ObjectInfo, ...] = ()
    segment_size: int = 0
    reaching: tuple[str, ...] = ()
    cut_off: tuple[str, ...] = ()
    restores: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def to_agree(self) -> tuple[str, ...]:
        """All that somebody agrees to with this plan: backups, and WAL after backups, as words."""
        return (*self.remove_backups, *(f"the WAL after {label}" for label in self.cut_off))

    @property
    def remove_objects(self) -> tuple[ObjectInfo, ...]:
        """All but backups, in the order of removal."""
        return (*self.remove_wal, *self.remove_received, *self.remove_damaged)

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(verdict.label for verdict in self.verdicts if verdict.keep)

    @property
    def expired(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if not verdict.keep)

    @property
    def torn(self) -> tuple[str, ...]:
        return tuple(backup.label for backup in self.torn_backups)

    @property
    def freed(self) -> int:
        """Bytes that the plan frees in the repository."""
        backups = sum(verdict.stored_size for verdict in self.expired)
        torn = sum(backup.stored_size for backup in self.torn_backups)
        return backups + torn + sum(info.size for info in self.remove_objects)

    @property
    def is_empty(self) -> bool:
        return not (self.remove_backups or self.remove_objects or self.torn_backups)


def plan_expire(facts: ExpireFacts) -> ExpirePlan:
    """Decide what is kept and what goes. Nothing is read or written.

    A backup is kept when it is the newest, the newest proven, the one of a day, week or month that the policy counts,
    held, needed by a running restore, the base of a recovery window, now or later, or an ancestor of a kept one. Each
    kept backup keeps the WAL from its start to its stop, and each recovery window all WAL of its path from its base on.
    """
    catalog = facts.catalog
    if not catalog.entries:
        torn, warnings = _plan_torn(facts, ())
        warnings = (*warnings_of(catalog), "there is no backup; all WAL is kept", *warnings)
        return ExpirePlan(
            facts.layout.root,
            facts.now,
            torn_backups=torn,
            warnings=warnings,
            remove_damaged=_old_damaged(facts),
            unreadable=tuple(dict(catalog.damaged)),
        )
    kept = decide(
        catalog,
        facts.timelines,
        facts.histories,
        facts.policy,
        facts.now,
        facts.holdings,
        facts.restores,
    )
    torn, torn_warnings = _plan_torn(facts, kept.entries)
    reached, cut_off = _reach(facts, kept)
    sizes = sorted({entry.record.segment_size for entry in kept.entries})
    return ExpirePlan(
        root=facts.layout.root,
        now=facts.now,
        verdicts=_verdicts(catalog, kept.reasons, kept.proven),
        remove_backups=_removal_order(catalog, kept.reasons, kept.chains),
        remove_wal=() if catalog.damaged else unneeded(facts.layout, facts.wal, sizes, kept.wal),
        torn_backups=torn,
        proven=kept.proven,
        warnings=(
            *warnings_of(catalog),
            *_warnings(kept),
            *kept.doubts,
            *_unknown_names(facts),
            *torn_warnings,
        ),
        remove_received=() if catalog.damaged else _old_received(facts, sizes, kept.wal),
        remove_damaged=_old_damaged(facts),
        segment_size=facts.segment_size,
        reaching=reached,
        cut_off=cut_off,
        restores=tuple(running.identifier for running in facts.restores),
        unreadable=tuple(dict(catalog.damaged)),
    )


def _reach(facts: ExpireFacts, kept: Kept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The backups from which WAL reaches the end of a timeline: before, and no more afterwards."""
    holdings = facts.holdings
    if holdings is None:
        return (), ()
    stays = {timeline: kept.wal.on(timeline, facts.segment_size) for timeline in facts.timelines}
    paths = [history_of(timeline, facts.histories) for timeline in sorted(facts.timelines)]
    there = holdings.listing.numbers
    before, after = (
        reaching(paths, facts.catalog.entries, holdings.listing, numbers)
        for numbers in (there, intersect(there, stays))
    )
    return tuple(before), tuple(label for label in before if label not in after)


def _verdicts(catalog: Catalog, reasons: Reasons, proven: str | None) -> tuple[Verdict, ...]:
    safety = catalog.entry(proven) if proven else None
    verdicts = []
    for entry in catalog.entries:
        keep = entry.label in reasons
        why = tuple(reasons[entry.label]) if keep else why_not(entry, safety)
        verdicts.append(
            Verdict(entry.label, keep, why, entry.record.kind, entry.state, entry.record.stored_size)
        )
    return tuple(verdicts)


def _removal_order(catalog: Catalog, reasons: Reasons, chains: Mapping[str, Chain]) -> tuple[str, ...]:
    """Children before their parents, otherwise oldest first."""
    expired = [entry.label for entry in catalog.entries if entry.label not in reasons]
    return tuple(sorted(expired, key=lambda label: -len(chains[label].ancestors)))


def _plan_torn(
    facts: ExpireFacts, kept: Sequence[BackupEntry]
) -> tuple[tuple[TornBackup, ...], tuple[str, ...]]:
    """Data without a record goes, unless the record seems lost: a hold or a kept child names it."""
    parents = {entry.record.parent for entry in kept}
    torn, warnings = [], []
    for label in facts.catalog.torn:
        if label in facts.held or label in parents:
            why = "a hold names it" if label in facts.held else "a kept backup builds on it"
            warnings.append(f'backup "{label}" has lost its backup record; {why}, so its data is kept')
            continue
        prefix = facts.layout.backup(label)
        size = sum(info.size for info in facts.torn if info.key.startswith(prefix))
        torn.append(TornBackup(label, size))
    return tuple(torn), tuple(warnings)


def _warnings(kept: Kept) -> list[str]:
    warnings = []
    if kept.proven is None:
        warnings.append(
            f"no backup is proven; the newest {UNPROVEN_CHAINS} chains are kept whatever the policy says; "
            "pgproof drill NAME proves a backup"
        )
    for entry in kept.entries:
        missing = kept.chains[entry.label].missing
        if missing is not None:
            warnings.append(
                f'backup "{entry.label}" cannot be restored: it builds on "{missing}", which is missing'
            )
    return warnings


def _old_received(facts: ExpireFacts, sizes: Sequence[int], needs: WalNeeds) -> tuple[ObjectInfo, ...]:
    """Received parts that are of no more use: their segment is archived whole, or nothing kept needs it."""
    whole = {name for info in facts.wal if (name := wal_name(facts.layout, info.key))}
    gone = set(unneeded(facts.layout, facts.received, sizes, needs))
    return tuple(
        info for info in sorted(facts.received) if info in gone or part_name(facts.layout, info.key) in whole
    )


def _old_damaged(facts: ExpireFacts) -> tuple[ObjectInfo, ...]:
    """What was kept aside as damaged long ago; an object that does not tell its age stays."""
    before = (facts.now - DAMAGED_KEPT).timestamp()
    return tuple(info for info in sorted(facts.damaged) if 0 < info.modified < before)


def _unknown_names(facts: ExpireFacts) -> list[str]:
    unknown = sorted(info.key for info in facts.wal if wal_name(facts.layout, info.key) is None)
    if not unknown:
        return []
    where = facts.layout.wal
    return [f'objects that are no WAL files are kept below "{where}": {len(unknown)}, first "{unknown[0]}"']
