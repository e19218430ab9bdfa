"""A recovery window is the WAL of a timeline's path from a base backup on: any point in it can be reached.

Invariant 4: WAL that a kept backup needs to reach any later point of a window is never removed. Where a
position is in doubt, its WAL stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgproof.backups.catalog import BackupEntry
from pgproof.repository.layout import Layout, without_suffix
from pgproof.repository.store import ObjectInfo
from pgproof.timelines.history import TimelineHistory, history_of
from pgproof.wal.lsn import LSN
from pgproof.wal.segment import BACKUP_HISTORY_NAME, HISTORY_NAME, PARTIAL_NAME, SEGMENT_NAME, WalSegment


@dataclass(frozen=True, slots=True)
class Window:
    """A recovery window: the path of timelines that it follows, and the backup that it starts from."""

    path: TimelineHistory
    base: BackupEntry


@dataclass(frozen=True, slots=True)
class Need:
    """A stretch of WAL that stays: on these timelines, from an LSN to another, or without an end."""

    timelines: frozenset[int]
    start: LSN
    end: LSN | None = None

    def covers(self, segment: WalSegment) -> bool:
        """Whether a byte of the segment is needed."""
        if segment.timeline not in self.timelines or segment.end <= self.start:
            return False
        return self.end is None or segment.start < self.end


def find_windows(
    entries: Sequence[BackupEntry],
    usable: Collection[str],
    kept: Collection[str],
    leaves: Iterable[TimelineHistory],
    histories: Mapping[int, TimelineHistory],
    cutoff: datetime,
) -> tuple[Window, ...]:
    """The windows that the kept backups allow, each with its base.

    A timeline that others forked from is no leaf, yet its server may live on: a test copy was promoted and
    archived its history, say. So a kept backup that lies on no leaf's path opens that of its own timeline.

    Args:
        entries: every backup, oldest first.
        usable: labels of the backups that can be restored as far as we know; preferred as a base.
        kept: labels of the backups that are kept anyway.
        leaves: the timelines that no other continues.
        histories: of every timeline that has a history file.
        cutoff: every window reaches back to this time at least, where a backup does.
    """
    windows: list[Window] = []
    paths, tried, kept_labels = list(leaves), set[int](), set(kept)
    while paths:
        found = [window for path in paths for window in _windows(path, entries, usable, cutoff)]
        windows += found
        kept_labels |= {window.base.label for window in found}
        tried |= {path.timeline for path in paths}
        beside = {
            entry.record.timeline
            for entry in entries
            if entry.label in kept_labels and not any(lies_on(window.path, entry) for window in windows)
        }
        paths = [history_of(timeline, histories) for timeline in sorted(beside - tried)]
    return tuple(windows)


def lies_on(path: TimelineHistory, entry: BackupEntry) -> bool:
    """Whether a recovery along the path can start from the backup; its stop LSN decides."""
    return path.contains(entry.record.timeline, entry.record.stop_lsn)


def _windows(
    path: TimelineHistory, entries: Sequence[BackupEntry], usable: Collection[str], cutoff: datetime
) -> list[Window]:
    on_path = [entry for entry in entries if lies_on(path, entry)]
    old = [entry for entry in on_path if entry.record.stopped_at <= cutoff]
    bases = [entry for entry in old if entry.label in usable][-1:]
    if (
        not bases
    ):  # no backup is both old and usable: keep the one that reaches back, and the oldest usable one
        bases = old[-1:] or on_path[:1]
        good = [entry for entry in on_path if entry.label in usable][:1]
        bases += [entry for entry in good if entry.label != bases[0].label]
    return [Window(path, base) for base in bases]


def wal_needs(kept: Sequence[BackupEntry], windows: Iterable[Window]) -> list[Need]:
    """The WAL that stays for these backups and windows.

    Args:
        kept: every kept backup, oldest first; one at least.
        windows: whose bases are among the kept.
    """
    needs = []
    for entry in kept:  # each can be restored to its own end
        record = entry.record
        own = frozenset({record.timeline})
        needs.append(Need(own, record.first_segment.start, record.last_segment.end))
    for window in windows:
        since = window.base.record.stopped_at
        starts = (
            entry.record.first_segment.start
            for entry in kept
            if entry.record.stopped_at >= since and lies_on(window.path, entry)
        )
        needs.append(Need(frozenset(window.path.path), min(starts)))
    return needs


def is_newest(segment: WalSegment, newest: BackupEntry) -> bool:
    """Whether the segment may be newer than the newest backup; the next backup may build on it."""
    record = newest.record
    return segment.timeline > record.timeline or segment.end > record.first_segment.start


def wal_name(layout: Layout, key: str) -> str | None:
    """The name of the WAL file that an object is; None when it is none, or not where it belongs."""
    base = without_suffix(key)
    name = base.rsplit("/", 1)[-1]
    forms = (SEGMENT_NAME, PARTIAL_NAME, BACKUP_HISTORY_NAME, HISTORY_NAME)
    known = any(form.fullmatch(name) for form in forms)
    return name if known and layout.wal_file(name) == base else None


def unneeded(
    layout: Layout, wal: Iterable[ObjectInfo], kept: Sequence[BackupEntry], needs: Sequence[Need]
) -> tuple[ObjectInfo, ...]:
    """The WAL objects that nothing kept needs, oldest first.

    ``.partial`` and ``.backup`` files share the fate of the segment whose name they carry; histories and
    objects with other names stay. Should records differ in segment size (``pg_resetwal --wal-segsize``), a
    name is read in each size, and one need is enough.

    Args:
        layout: of the archive.
        wal: objects below ``wal/``.
        kept: every kept backup, oldest first; one at least.
        needs: of ``wal_needs``, or more.
    """
    sizes = sorted({entry.record.segment_size for entry in kept})
    removable = []
    for info in wal:
        name = wal_name(layout, info.key)
        if name is None or HISTORY_NAME.fullmatch(name):
            continue
        segments = [WalSegment.parse(name[:24], size) for size in sizes]
        if not any(
            is_newest(segment, kept[-1]) or any(need.covers(segment) for need in needs)
            for segment in segments
        ):
            removable.append((name, info))
    return tuple(info for _, info in sorted(removable))
