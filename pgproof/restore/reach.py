"""The reach of a recovery: where its target lies on the path that it follows, or that it lies outside every window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgproof.backups.catalog import BackupEntry
from pgproof.backups.record import BackupRecord
from pgproof.errors import TargetOutsideWindow
from pgproof.restore.futures import Choice
from pgproof.restore.locate import Located, WalReader
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, end_of_path, present_between

_ENDLESS = LSN((1 << 64) - 1)
# The source's last segment is archived when it is full, or after archive_timeout
_NOT_YET = (
    "SELECT pg_switch_wal();  -- on the server, while it lives: it archives what it has not archived yet"
)


def locate_target(
    choice: Choice,
    target: RecoveryTarget,
    on_path: Sequence[BackupEntry],
    listing: WalListing,
    reader_of: Callable[[int], WalReader],
) -> Located:
    """Where the target lies on the chosen future; refused where it is not clear that this is the one."""
    try:
        located = _locate(target, choice.history, on_path, listing, reader_of)
    except TargetOutsideWindow:
        choice.refuse(_ENDLESS)
        raise
    choice.refuse(_ENDLESS if target.kind == "immediate" else located.lsn)
    return located


def _locate(
    target: RecoveryTarget,
    history: TimelineHistory,
    on_path: Sequence[BackupEntry],
    listing: WalListing,
    reader_of: Callable[[int], WalReader],
) -> Located:
    oldest, newest = on_path[0].record, on_path[-1].record
    end = max(newest.stop_lsn, end_of_path(listing, history))
    if target.kind in ("end", "immediate"):
        return Located(end if target.kind == "end" else LSN(0), None)
    if target.kind == "lsn":
        if not oldest.stop_lsn <= target.lsn <= end:
            late = _NOT_YET if target.lsn > end else ""
            raise outside(target, oldest, f"The archive reaches from {oldest.stop_lsn} to {end}.", late)
        return Located(target.lsn, None)
    if target.kind == "time" and target.time < oldest.reachable_from:
        raise outside(target, oldest, "")
    reader = reader_of(newest.major)
    if target.kind == "time":
        return _locate_time(target, history, on_path, listing, reader, end)
    for index in range(len(on_path) - 1, -1, -1):  # the newest occurrence, window by window
        start = WalSegment.containing(
            on_path[index].record.timeline, on_path[index].record.stop_lsn, listing.segment_size
        )
        until = on_path[index + 1].record.stop_lsn if index + 1 < len(on_path) else end
        present = present_between(listing, history, start, until)
        located = reader.locate_record(present, target.kind, target.value)
        if located is not None and located.lsn >= on_path[index].record.stop_lsn:
            return located
    raise outside(target, oldest, f"It is in no archived WAL from {oldest.stop_lsn} to {end}.", _NOT_YET)


def _locate_time(
    target: RecoveryTarget,
    history: TimelineHistory,
    on_path: Sequence[BackupEntry],
    listing: WalListing,
    reader: WalReader,
    end: LSN,
) -> Located:
    before = [entry.record for entry in on_path if entry.record.reachable_from <= target.time]
    present = present_between(listing, history, before[-1].last_segment, end)
    located = reader.locate_time(present, target.time)
    if located is None:
        newest = reader.newest_commit(reversed(present))
        raise outside(
            target,
            on_path[0].record,
            f"The newest commit in the archive is of {newest.time:%F %T%z}."
            if newest and newest.time
            else "The archive holds no commit after the backup.",
            _NOT_YET,
        )
    return Located(max(located.lsn, before[-1].stop_lsn), located.time)


def outside(target: RecoveryTarget, oldest: BackupRecord, detail: str, hint: str = "") -> TargetOutsideWindow:
    """The error for a target that no window holds.

    Args:
        target: that was asked for.
        oldest: the first backup, where the windows begin.
        detail: what the archive has instead.
        hint: what to do; by default where the windows are shown.
    """
    return TargetOutsideWindow(
        f"recovery target {target} is outside the recovery window",
        f"{detail} The first backup ended at {oldest.reachable_from:%F %T%z}, LSN {oldest.stop_lsn}.".strip(),
        hint or "pgproof wal check NAME shows the recovery windows",
    )
