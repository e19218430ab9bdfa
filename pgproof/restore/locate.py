"""Locate a recovery target in archived WAL, so that one outside the window is refused before any write."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from pgproof.repository.repository import Archive
from pgproof.wal.archive import WalListing
from pgproof.wal.fetch import fetch
from pgproof.wal.lsn import LSN
from pgproof.wal.records import CommitRecord, RestorePoint, read_records
from pgproof.wal.segment import WalSegment

_LOOK_BACK = 64  # segments without any commit that are read before giving up


@dataclass(frozen=True, slots=True)
class Located:
    """Where a target lies: recovery must read at least up to ``lsn``."""

    lsn: LSN
    time: datetime | None


class WalReader:
    """Reads records of single archived segments, each fetched to a temporary directory.

    Args:
        archive: to fetch from.
        bin_directory: with pg_waldump.
    """

    def __init__(self, archive: Archive, bin_directory: Path) -> None:
        self._archive, self._bin = archive, bin_directory

    def records(
        self, *segments: WalSegment, rmgrs: tuple[str, ...] = ("Transaction",)
    ) -> list[CommitRecord | RestorePoint]:
        """The records of segments in a row; one that continues after the last is left out."""
        first, last = segments[0], segments[-1]
        with tempfile.TemporaryDirectory(prefix="pgproof-wal-") as text:
            directory = Path(text)
            for segment in segments:  # all under the timeline that pg_waldump is told
                fetch(self._archive, segment.name, directory / segment.on(last.timeline).name)
            return list(read_records(self._bin, directory, first.start, last.end, last.timeline, rmgrs))

    def commits(self, segment: WalSegment) -> list[CommitRecord]:
        """The commits of one segment that carry a time."""
        records = self.records(segment)
        return [r for r in records if isinstance(r, CommitRecord) and r.committed and r.time is not None]

    def newest_commit(self, listing: WalListing, newest: WalSegment) -> CommitRecord | None:
        """The newest commit in the archive, looking back from a segment."""
        for back in range(_LOOK_BACK):
            if newest.number < back:
                break
            segment = WalSegment(newest.timeline, newest.number - back, newest.size)
            if segment not in listing:
                break
            if commits := self.commits(segment):
                return commits[-1]
        return None

    def locate_time(self, segments: Sequence[WalSegment], time: datetime) -> Located | None:
        """The first commit after a time, by bisection over segments (commit times rise with the LSN).

        Returns:
            None when no archived commit is newer.
        """
        low, high = 0, len(segments)  # the answer's segment is in [low, high)
        found: Located | None = None
        while low < high:
            middle = (low + high) // 2
            probe, commits = middle, self.commits(segments[middle])
            while not commits and probe + 1 < high:
                probe += 1
                commits = self.commits(segments[probe])
            later = [commit for commit in commits if commit.time is not None and commit.time > time]
            if later:
                found = Located(later[0].lsn, later[0].time)
                high = middle
            else:
                low = probe + 1
        return found

    def locate_record(self, segments: Sequence[WalSegment], kind: str, value: str) -> Located | None:
        """The end of a transaction (``xid``) or a restore point (``name``), read from first to last."""
        rows = [(segment,) for segment in segments]
        pairs = [(one, two) for one, two in pairwise(segments) if two.number == one.number + 1]
        for row in (*rows, *pairs):  # in pairs for a record that lies across their border
            for record in self.records(*row, rmgrs=("Transaction",) if kind == "xid" else ("XLOG",)):
                if kind == "xid" and isinstance(record, CommitRecord):
                    if record.xid == int(value) & 0xFFFFFFFF:
                        return Located(record.lsn, record.time)
                elif kind == "name" and isinstance(record, RestorePoint) and record.name == value:
                    return Located(record.lsn, record.time)
        return None
