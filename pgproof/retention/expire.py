"""Expire carries out an expire plan in an order that makes a crash harmless.

Write order (invariant 5: record, then data):

1. each expired backup, incremental ones before those they build on: its ``backup.json``, then its data;
2. what WAL goes, in ``wal-removed.json``; WAL, oldest first: no backup that is still listed needs it by now;
   received parts; damaged objects that a repair kept aside;
3. data of torn backups, those that a crash left without a record; unfinished files of writers that died.

A crash anywhere leaves backups that are complete, data that no record lists (torn: the next expire removes
it), or WAL that nothing needs (the next plan removes it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgproof.backups.catalog import Hold, read_catalog
from pgproof.config import RetentionConfig
from pgproof.errors import ObjectDamaged, ObjectMissing, PermanentError, WrongSystem
from pgproof.repository.lease import Lease
from pgproof.repository.repository import Archive
from pgproof.repository.store import ObjectInfo
from pgproof.restore.running import read_running
from pgproof.retention.hold import read_hold
from pgproof.retention.plan import ExpireFacts, ExpirePlan
from pgproof.retention.unread import with_unread_held
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.segment import HISTORY_NAME, SEGMENT_NAME, WalSegment
from pgproof.wal.archive import read_history, wal_name
from pgproof.wal.removed import read_removed, remember_removed

_LABEL = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")
_BATCH = 64  # objects removed between two looks at the lease
_WORKERS = 8
_UNFINISHED = timedelta(days=1)  # a file that was not written to for so long has no writer any more


@dataclass(frozen=True, slots=True)
class ExpireResult:
    """What was removed: labels of backups and of torn ones, WAL objects, and bytes in all."""

    backups: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    wal_objects: int = 0
    freed: int = 0


def gather_facts(archive: Archive, policy: RetentionConfig, now: datetime) -> ExpireFacts:
    """Read what a plan needs. Hold the lease before, when the plan is to be carried out.

    Args:
        archive: of one system identifier.
        policy: of the cluster.
        now: aware.

    Raises:
        ObjectDamaged: the note of a restore cannot be read; nothing may expire by guess.
    """
    catalog = with_unread_held(read_catalog(archive), archive.layout)
    received = tuple(archive.store.list(archive.layout.received))
    wal = tuple(archive.store.list(archive.layout.wal))
    damaged = tuple(archive.store.list(archive.layout.damaged))
    torn = tuple(info for label in catalog.torn for info in archive.store.list(archive.layout.backup(label)))
    held = frozenset(label for label in catalog.torn if _may_be_held(archive, label, now))
    histories = _histories(archive, wal)
    size = catalog.entries[-1].record.segment_size if catalog.entries else 0
    restores = tuple(running for running in read_running(archive) if running.active(now))
    return ExpireFacts(
        catalog,
        wal,
        histories,
        policy,
        now,
        archive.layout,
        torn,
        held,
        received,
        damaged,
        read_removed(archive, size),
        restores,
    )


def _may_be_held(archive: Archive, label: str, now: datetime) -> bool:
    try:
        hold = read_hold(archive, label)
    except ObjectDamaged:
        return True
    return hold is not None and hold.active(now)


def _histories(archive: Archive, wal: Sequence[ObjectInfo]) -> dict[int, TimelineHistory]:
    histories = {}
    for info in wal:
        name = wal_name(archive.layout, info.key)
        if name is not None and HISTORY_NAME.fullmatch(name):
            with suppress(ObjectDamaged):  # as one that is missing: the plan says what it doubts
                history = read_history(archive, info.key)
                histories[history.timeline] = history
    return histories


def expire(archive: Archive, plan: ExpirePlan, lease: Lease) -> ExpireResult:
    """Carry out a plan, in the order that the module's docstring gives. A second run finds nothing to do.

    Args:
        archive: the one the plan was made for.
        plan: of ``plan_expire``, best made while the same lease was held.
        lease: of the archive, held.

    Returns:
        what was removed.

    Raises:
        LeaseHeld: the lease was lost; what was removed until then is harmless.
        PermanentError: the repository is no longer what the plan was made from, such as when the newest
            proven backup is gone; nothing more was removed.
        WrongSystem: the plan was made for another archive.
        StoreUnavailable, RepositoryReadOnly: the store refused; run it again.
    """
    lease.check()
    _check_plan(archive, plan)
    freed = 0
    for label in plan.remove_backups:
        lease.check()
        _check_backup(archive, plan, label)
        archive.store.delete(archive.layout.backup_record(label))
        freed += _remove_data(archive, label, lease)
    _check_restores(archive, plan)
    _remember(archive, plan)
    freed += _remove(archive, plan.remove_objects, lease)
    for label in plan.torn:
        if _has_record(archive, label):
            raise _out_of_date(f'Torn backup "{label}" has a backup record by now.')
        freed += _remove_data(archive, label, lease)
    lease.check()
    _remove_restores(archive, plan)
    _remove_unfinished(archive, plan)
    _remove_empty_directories(archive, plan)
    return ExpireResult(plan.remove_backups, plan.torn, len(plan.remove_objects), freed)


def _check_plan(archive: Archive, plan: ExpirePlan) -> None:
    """Refuse a plan that was made for another archive, or from facts that have changed since."""
    if plan.root != archive.layout.root:
        raise WrongSystem(
            f'the expire plan belongs to "{plan.root}"', f'The archive is "{archive.layout.root}".'
        )
    places = (archive.layout.wal, archive.layout.received, archive.layout.damaged)
    foreign = [info.key for info in plan.remove_objects if not info.key.startswith(places)]
    foreign += [label for label in (*plan.remove_backups, *plan.torn) if not _LABEL.fullmatch(label)]
    if foreign:
        raise PermanentError(
            f'cannot expire "{foreign[0]}"', f'It lies outside "{archive.layout.root}". Nothing was removed.'
        )
    catalog = read_catalog(archive)
    if damaged := sorted(set(dict(catalog.damaged)) - set(plan.unreadable)):
        raise _out_of_date(f'The record of backup "{damaged[0]}" cannot be read any more.')
    entries = {entry.label: entry for entry in with_unread_held(catalog, archive.layout).entries}
    if new := sorted(set(entries) - {verdict.label for verdict in plan.verdicts}):
        raise _out_of_date(f'Backup "{new[0]}" was not there when the plan was made.')
    if gone := sorted(set(plan.kept) - set(entries)):
        raise _out_of_date(f'Backup "{gone[0]}" was to be kept and has no backup record any more.')
    for label in plan.remove_backups:
        if label in entries:
            _check_hold(plan, entries[label].hold)
    if plan.proven is not None and entries[plan.proven].state != "proven":
        raise _out_of_date(f'Backup "{plan.proven}" was proven and has failed a drill since.')


def _check_backup(archive: Archive, plan: ExpirePlan, label: str) -> None:
    """Right before a record goes: what makes the backup unnecessary is still there, and nobody holds it."""
    relied = plan.proven or plan.kept[-1]
    if not _has_record(archive, relied):
        what = "newest proven" if plan.proven else "newest"
        raise _out_of_date(f'Backup "{relied}", the {what} one, has no backup record any more.')
    _check_hold(plan, read_hold(archive, label))
    _check_restores(archive, plan)


def _check_restores(archive: Archive, plan: ExpirePlan) -> None:
    """Nobody has begun to restore since the plan was made: what it needs is not known to the plan."""
    for running in read_running(archive):
        if running.active(plan.now) and running.identifier not in plan.restores:
            raise _out_of_date(f'Backup "{running.backup}" is being restored into {running.destination}.')


def _check_hold(plan: ExpirePlan, hold: Hold | None) -> None:
    if hold is not None and hold.active(plan.now):
        raise _out_of_date(f'Backup "{hold.label}" is held since: {hold.reason}.')


def _out_of_date(detail: str) -> PermanentError:
    return PermanentError(
        "cannot expire by a plan that is out of date",
        f"{detail} Nothing more was removed.",
        "pgproof expire NAME --dry-run shows a new plan",
    )


def _has_record(archive: Archive, label: str) -> bool:
    try:
        archive.store.head(archive.layout.backup_record(label))
    except ObjectMissing:
        return False
    return True


def _remove_data(archive: Archive, label: str, lease: Lease) -> int:
    return _remove(archive, sorted(archive.store.list(archive.layout.backup(label))), lease)


def _remove(archive: Archive, objects: Sequence[ObjectInfo], lease: Lease) -> int:
    """Remove objects in batches, in their order, some at once within a batch; the bytes they had."""
    with ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="expire") as pool:
        for start in range(0, len(objects), _BATCH):
            lease.check()
            list(pool.map(archive.store.delete, [info.key for info in objects[start : start + _BATCH]]))
    return sum(info.size for info in objects)


def _remember(archive: Archive, plan: ExpirePlan) -> None:
    """Before WAL goes, the archive knows that it was expire that took it."""
    if not plan.segment_size:
        return
    names = (wal_name(archive.layout, info.key) or "" for info in plan.remove_wal)
    segments = [WalSegment.parse(name, plan.segment_size) for name in names if SEGMENT_NAME.fullmatch(name)]
    remember_removed(archive, segments, plan.segment_size)


def _remove_restores(archive: Archive, plan: ExpirePlan) -> None:
    """Notes of restores whose time was over a day ago."""
    for running in read_running(archive):
        if not running.active(plan.now - _UNFINISHED):
            archive.store.delete(f"{archive.layout.restores}{running.identifier}.json")


def _remove_unfinished(archive: Archive, plan: ExpirePlan) -> None:
    """Below ``backups/`` nobody else writes while we hold the lease; elsewhere a writer is given a day."""
    remove = getattr(archive.store, "remove_unfinished", None)
    if remove is not None:
        remove(archive.layout.backups)
        remove(archive.layout.root, (plan.now - _UNFINISHED).timestamp())


def _remove_empty_directories(archive: Archive, plan: ExpirePlan) -> None:
    """Those of backups, and others that this plan emptied: ``wal push`` works without the lease and makes new ones."""
    remove = getattr(archive.store, "remove_empty_directories", None)
    if remove is None:
        return
    prefixes = {info.key.rpartition("/")[0] + "/" for info in plan.remove_objects}
    prefixes.add(archive.layout.backups)
    for prefix in sorted(prefixes):
        remove(prefix)
