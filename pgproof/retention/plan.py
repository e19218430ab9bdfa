"""An expire plan says of every backup whether it is kept and why, and what else goes.

The plan is a pure function of the facts: the same plan is the dry run, the log and what is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.config import RetentionConfig
from pgproof.repository.layout import Layout
from pgproof.repository.store import ObjectInfo
from pgproof.retention.policy import (
    UNPROVEN_CHAINS,
    Chain,
    Reasons,
    chains_of,
    keep_parents,
    keep_reasons,
    newest_proven,
    why_not,
)
from pgproof.retention.window import Need, Window, find_windows, unneeded, wal_name, wal_needs
from pgproof.timelines.history import TimelineHistory, leaves
from pgproof.wal.lsn import LSN


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
    """

    catalog: Catalog
    wal: tuple[ObjectInfo, ...]
    histories: Mapping[int, TimelineHistory]
    policy: RetentionConfig
    now: datetime
    layout: Layout
    torn: tuple[ObjectInfo, ...] = ()
    held: frozenset[str] = frozenset()

    @property
    def timelines(self) -> set[int]:
        """Every timeline that has WAL, a history or a backup."""
        names = (wal_name(self.layout, info.key) for info in self.wal)
        backups = {entry.record.timeline for entry in self.catalog.entries}
        return {int(name[:8], 16) for name in names if name} | set(self.histories) | backups

    @property
    def cutoff(self) -> datetime:
        """Recovery windows reach back to this time."""
        return self.now - timedelta(seconds=self.policy.wal_window)


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
    """

    root: str
    now: datetime
    verdicts: tuple[Verdict, ...] = ()
    remove_backups: tuple[str, ...] = ()
    remove_wal: tuple[ObjectInfo, ...] = ()
    torn_backups: tuple[TornBackup, ...] = ()
    proven: str | None = None
    warnings: tuple[str, ...] = ()

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
        return backups + torn + sum(info.size for info in self.remove_wal)

    @property
    def is_empty(self) -> bool:
        return not (self.remove_backups or self.remove_wal or self.torn_backups)


def plan_expire(facts: ExpireFacts) -> ExpirePlan:
    """Decide what is kept and what goes. Nothing is read or written.

    A backup is kept when it is the newest, the newest proven, the newest of a day, week or month that the
    policy counts, held, the base of a recovery window, or an ancestor of a kept one. Each kept backup keeps
    the WAL from its start to its stop, and each recovery window all WAL from its base on.
    """
    catalog = facts.catalog
    if not catalog.entries:
        torn, warnings = _plan_torn(facts, ())
        warnings = ("there is no backup; all WAL is kept", *warnings)
        return ExpirePlan(facts.layout.root, facts.now, torn_backups=torn, warnings=warnings)
    chains = chains_of(catalog)
    reasons = keep_reasons(catalog, chains, facts.policy, facts.now)
    timelines = facts.timelines
    ends = leaves(timelines, facts.histories)
    usable = {e.label for e in catalog.entries if not e.failed and chains[e.label].missing is None}
    windows = find_windows(catalog.entries, usable, reasons, ends, facts.histories, facts.cutoff)
    for window in windows:
        reason = f"base of the WAL window on timeline {window.path.timeline}"
        reasons.setdefault(window.base.label, []).append(reason)
    keep_parents(reasons, chains)
    kept = [entry for entry in catalog.entries if entry.label in reasons]
    proven = newest_proven(catalog, chains)
    in_doubt, doubts = _without_history(facts, min(timelines), ends, windows)
    torn, torn_warnings = _plan_torn(facts, kept)
    return ExpirePlan(
        root=facts.layout.root,
        now=facts.now,
        verdicts=_verdicts(catalog, reasons, proven),
        remove_backups=_removal_order(catalog, reasons, chains),
        remove_wal=unneeded(facts.layout, facts.wal, kept, [*wal_needs(kept, windows), *in_doubt]),
        torn_backups=torn,
        proven=proven,
        warnings=(*_warnings(kept, chains, proven), *doubts, *_unknown_names(facts), *torn_warnings),
    )


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


def _warnings(kept: Sequence[BackupEntry], chains: Mapping[str, Chain], proven: str | None) -> list[str]:
    warnings = []
    if proven is None:
        warnings.append(
            f"no backup is proven; the newest {UNPROVEN_CHAINS} chains are kept whatever the policy says; "
            "pgproof drill NAME proves a backup"
        )
    for entry in kept:
        missing = chains[entry.label].missing
        if missing is not None:
            warnings.append(
                f'backup "{entry.label}" cannot be restored: it builds on "{missing}", which is missing'
            )
    return warnings


def _without_history(
    facts: ExpireFacts, lowest: int, ends: Sequence[TimelineHistory], windows: Sequence[Window]
) -> tuple[list[Need], list[str]]:
    """A leaf without its history may continue a lower timeline: its WAL stays until its own base is old."""
    covered = {w.path.timeline for w in windows if w.base.record.stopped_at <= facts.cutoff}
    needs, warnings = [], []
    for leaf in ends:
        timeline = leaf.timeline
        if timeline in facts.histories or timeline == lowest or timeline in covered:
            continue
        needs.append(Need(frozenset({timeline}), LSN(0)))
        warnings.append(
            f"the history of timeline {timeline} is not in the archive; all WAL of the timeline is kept; "
            f"pgproof wal push $PGDATA/pg_wal/{timeline:08X}.history on the source mends it"
        )
    return needs, warnings


def _unknown_names(facts: ExpireFacts) -> list[str]:
    unknown = sorted(info.key for info in facts.wal if wal_name(facts.layout, info.key) is None)
    if not unknown:
        return []
    where = facts.layout.wal
    return [f'objects that are no WAL files are kept below "{where}": {len(unknown)}, first "{unknown[0]}"']
