"""The retention policy: which backups are kept by themselves, and every reason why.

Slots count as restic's do: the newest N days, ISO weeks and months *that have backups*, in UTC, so that a
break in backups never makes the last ones expire. A slot is taken by the newest proven backup of its period, else by
the newest one; one that failed takes none, and one whose chain is broken only where there is no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.config import RetentionConfig

Reasons = dict[str, list[str]]  # of the kept backups, by label
UNPROVEN_CHAINS = 2  # newest full backups kept with all that builds on them while nothing is proven


@dataclass(frozen=True, slots=True)
class Chain:
    """What a backup builds on: its ancestors, parent first, and the one that is missing where it breaks."""

    ancestors: tuple[str, ...] = ()
    missing: str | None = None


def chains_of(catalog: Catalog) -> dict[str, Chain]:
    """The chain of every backup; a parent that is missing, or a circle of parents, breaks it and no more."""
    parents = {entry.label: entry.record.parent for entry in catalog.entries}
    return {label: _chain(label, parents) for label in parents}


def _chain(label: str, parents: Mapping[str, str | None]) -> Chain:
    ancestors: list[str] = []
    following = parents[label]
    while following is not None and following in parents and following not in (label, *ancestors):
        ancestors.append(following)
        following = parents[following]
    return Chain(tuple(ancestors), following)


def newest_proven(catalog: Catalog, chains: Mapping[str, Chain]) -> str | None:
    """The newest proven backup that can still be restored: its chain is whole."""
    proven = [e.label for e in catalog.entries if e.state == "proven" and chains[e.label].missing is None]
    return proven[-1] if proven else None


def is_usable(entry: BackupEntry, chains: Mapping[str, Chain]) -> bool:
    """Whether a backup can be restored, as far as we know: nothing found it faulty, and its chain is whole."""
    return not entry.failed and chains[entry.label].missing is None


def keep_reasons(
    catalog: Catalog, chains: Mapping[str, Chain], policy: RetentionConfig, now: datetime
) -> Reasons:
    """Why backups are kept that need no other to be kept; the rest has no entry.

    Args:
        catalog: every backup, oldest first.
        chains: of ``chains_of``.
        policy: how many days, weeks and months.
        now: for the holds.
    """
    reasons: Reasons = {}
    for label, reason in _rules(catalog, chains, policy, now):
        reasons.setdefault(label, []).append(reason)
    return reasons


def _rules(
    catalog: Catalog, chains: Mapping[str, Chain], policy: RetentionConfig, now: datetime
) -> Iterator[tuple[str, str]]:
    if not catalog.entries:
        return
    yield catalog.newest.label, "newest"
    proven = [entry.label for entry in catalog.entries if entry.state == "proven"]
    if proven:
        yield proven[-1], "newest proven"
    relied = newest_proven(catalog, chains)
    if relied is None:
        yield from _newest_chains(catalog, chains)
    elif relied != proven[-1]:
        yield relied, "newest proven with a whole chain"
    yield from _slots([entry for entry in catalog.entries if not entry.failed], chains, policy)
    for entry in catalog.entries:
        if entry.hold is not None and entry.hold.active(now):
            until = f" until {entry.hold.until.isoformat()}" if entry.hold.until else ""
            yield entry.label, f"held: {entry.hold.reason}{until}"


def _newest_chains(catalog: Catalog, chains: Mapping[str, Chain]) -> Iterator[tuple[str, str]]:
    """Chains whose full backup failed count only where there are no others."""
    fulls = [entry for entry in catalog.entries if entry.record.parent is None]
    newest = ([entry for entry in fulls if not entry.failed] or fulls)[-UNPROVEN_CHAINS:]
    labels = {entry.label for entry in newest}
    for label, chain in chains.items():
        if (chain.ancestors or (label,))[-1] in labels:
            yield label, f"no backup is proven: in one of the newest {UNPROVEN_CHAINS} chains"


def _slots(
    entries: Sequence[BackupEntry], chains: Mapping[str, Chain], policy: RetentionConfig
) -> Iterator[tuple[str, str]]:
    periods: tuple[tuple[str, int, Callable[[datetime], str]], ...] = (
        ("daily", policy.daily, lambda time: f"{time:%Y-%m-%d}"),
        ("weekly", policy.weekly, lambda time: f"{time:%G-W%V}"),
        ("monthly", policy.monthly, lambda time: f"{time:%Y-%m}"),
    )
    for name, count, period_of in periods:
        inside: dict[str, list[BackupEntry]] = {}
        for entry in reversed(entries):
            inside.setdefault(period_of(entry.record.stopped_at.astimezone(UTC)), []).append(entry)
        for place, (period, within) in enumerate(islice(inside.items(), count), start=1):
            best = max(within, key=lambda entry: (is_usable(entry, chains), entry.state == "proven"))
            yield best.label, f"backup of {period} ({name} {place} of {count})"


def keep_parents(reasons: Reasons, chains: Mapping[str, Chain]) -> None:
    """Add what the kept backups build on, each with the kept child that needs it."""
    children: dict[str, list[str]] = {}
    for label in sorted(reasons, reverse=True):
        child = label
        for ancestor in chains[label].ancestors:
            if child not in children.setdefault(ancestor, []):
                children[ancestor].append(child)
            child = ancestor
    for parent, known in children.items():
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        reasons.setdefault(parent, []).append(f"parent of {known[0]}{more}")


def why_not(entry: BackupEntry, proven: BackupEntry | None) -> tuple[str, ...]:
    """Why a backup is not kept.

    Args:
        entry: the backup.
        proven: the newest proven one, which is kept.
    """
    if proven is None:
        safety = "no backup is proven"
    elif proven.record.stopped_at >= entry.record.stopped_at:
        safety = f"newer proven backup is {proven.label}"
    else:
        safety = f"proven backup {proven.label} is kept"
    reasons = [f"no daily, weekly or monthly slot left; {safety}"]
    if entry.failed:
        reasons.append(f"failed its {entry.failed_what}: {entry.failed}")
    if entry.hold is not None and entry.hold.until is not None:
        reasons.append(f"its hold ended {entry.hold.until.isoformat()}")
    return tuple(reasons)
