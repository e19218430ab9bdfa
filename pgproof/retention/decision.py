"""The decision of retention: which backups and which WAL stay, for expire and for the gap check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.config import RetentionConfig
from pgproof.restore.running import RunningRestore
from pgproof.retention.life import find_futures
from pgproof.retention.policy import (
    Chain,
    Reasons,
    chains_of,
    is_usable,
    keep_parents,
    keep_reasons,
    newest_proven,
)
from pgproof.retention.window import Holdings, Need, WalNeeds, Window, find_windows, wal_needs
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment


def cutoff_of(catalog: Catalog, policy: RetentionConfig, now: datetime) -> datetime:
    """How far back windows reach: from the newest backup, which has the server's time, not from a later moment.

    So a clock that runs ahead takes nothing, and nothing goes while no new backup comes.
    """
    newest = max((entry.record.stopped_at for entry in catalog.entries), default=now)
    return min(now, newest) - timedelta(seconds=policy.wal_window)


@dataclass(frozen=True, slots=True)
class Kept:
    """What retention keeps.

    Args:
        entries: the backups, oldest first.
        reasons: of each, by label.
        chains: of every backup.
        proven: the newest proven backup whose chain is whole.
        wal: what the backups and their recovery windows need, and what is in doubt.
        doubts: why it is, as warnings.
    """

    entries: tuple[BackupEntry, ...]
    reasons: Reasons
    chains: Mapping[str, Chain]
    proven: str | None
    wal: WalNeeds
    doubts: tuple[str, ...] = ()


def decide(
    catalog: Catalog,
    timelines: set[int],
    histories: Mapping[int, TimelineHistory],
    policy: RetentionConfig,
    now: datetime,
    holdings: Holdings | None = None,
    restores: Sequence[RunningRestore] = (),
) -> Kept:
    """What is kept, and which WAL stays for it: the one decision of expire and of the gap check.

    Args:
        catalog: every backup, one at least.
        timelines: every timeline that has WAL, a history or a backup.
        histories: of every timeline that has a history file.
        policy: what is to be kept.
        now: aware.
        holdings: of the archive; None takes all WAL as there.
        restores: that run just now, or whose recovery may.
    """
    chains = chains_of(catalog)
    reasons = keep_reasons(catalog, chains, policy, now)
    cutoff = cutoff_of(catalog, policy, now)
    usable = {entry.label for entry in catalog.entries if is_usable(entry, chains)}
    proven = newest_proven(catalog, chains)
    relied = catalog.entry(proven) if proven else None
    futures = find_futures(catalog.entries, usable, timelines, histories, cutoff, holdings, relied)
    windows = find_windows(catalog.entries, usable, futures.paths, cutoff, holdings, relied)
    for label, reason in _reasons_of(windows):
        reasons.setdefault(label, []).append(reason)
    for running in restores:
        if running.backup in chains:
            reason = f"restored into {running.destination}: needed until {running.until.isoformat(timespec='seconds')}"
            reasons.setdefault(running.backup, []).append(reason)
    keep_parents(reasons, chains)
    kept = tuple(entry for entry in catalog.entries if entry.label in reasons)
    needs = [
        *wal_needs(kept, windows),
        *_needs_of(restores, kept),
        *(Need(timeline, LSN(0)) for timeline in futures.in_doubt),
    ]
    wal = WalNeeds(tuple(needs), kept[-1].record, futures.ended)
    doubts = tuple(_without_history(timeline) for timeline in futures.in_doubt)
    return Kept(kept, reasons, chains, proven, wal, doubts)


def _reasons_of(windows: Sequence[Window]) -> Iterator[tuple[str, str]]:
    """Why bases stay, each reason once: a timeline whose past is not known has a window for each that it may have."""
    found: dict[tuple[str, str], None] = {}
    for window in windows:
        reason = f"base of the WAL window on timeline {window.path.timeline}"
        found[window.base.label, reason] = None
        if window.following:
            found[window.following.label, f"next {reason}"] = None
    yield from found


def _needs_of(restores: Sequence[RunningRestore], kept: Sequence[BackupEntry]) -> list[Need]:
    """The WAL of restores; their names are of the size that their backup has, else of the newest."""
    sizes = {entry.label: entry.record.segment_size for entry in kept}
    needs = []
    for running in restores:
        size = sizes.get(running.backup, kept[-1].record.segment_size)
        for run in running.wal:
            first, last = (WalSegment.parse(name, size) for name in run)
            needs.append(Need(first.timeline, first.start, last.end))
    return needs


def _without_history(timeline: int) -> str:
    """A leaf without its history may continue a lower timeline: its WAL stays until its own base is old."""
    return (
        f"the history of timeline {timeline} is not in the archive; all WAL of the timeline is kept; "
        f"pgproof wal push $PGDATA/pg_wal/{timeline:08X}.history on the source brings it"
    )
