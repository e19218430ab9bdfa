"""Removed WAL is what expire took away: a hole that is no gap, and that nobody needs to look for.

Kept in the repository (``Layout.wal_removed``; docs/repository-format.md), and written before the first segment goes.
Without it such a hole is a gap, which is safe: it keeps more, and says more.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.errors import ObjectDamaged, ObjectMissing, PermanentError
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import WalSegment
from pgproof.wal.runs import Numbered, Numbers, Run, by_timeline, runs_of


def read_removed(archive: Archive, segment_size: int) -> Numbered:
    """The numbers of the segments that expire has removed; none where the record is of no use."""
    try:
        tree = archive.read_json(archive.layout.wal_removed)
    except (ObjectMissing, ObjectDamaged):
        return {}
    try:
        if tree["segment_size"] != segment_size:
            return {}
        return by_timeline(
            Run(*(WalSegment.parse(run[end], segment_size) for end in ("first", "last")))
            for run in tree["runs"]
        )
    except (PermanentError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def remember_removed(archive: Archive, segments: Iterable[WalSegment], segment_size: int) -> None:
    """Add segments that are about to be removed. The lease is held."""
    known = read_removed(archive, segment_size)
    added = by_timeline(Run(segment, segment) for segment in segments)
    if not added:
        return
    for timeline, numbers in added.items():
        known[timeline] = known.get(timeline, Numbers()) | numbers
    runs = [{"first": run.first.name, "last": run.last.name} for run in runs_of(known, segment_size)]
    content = {"segment_size": segment_size, "runs": runs}
    archive.write_json(archive.layout.wal_removed, content, create=False)
