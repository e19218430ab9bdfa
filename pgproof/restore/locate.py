"""Locate a recovery target in archived WAL, so that one outside the window is refused before any write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path

from pgproof.errors import ObjectMissing
from pgproof.held import temporary_directory
from pgproof.repository.repository import Archive
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, find_part
from pgproof.wal.fetch import fetch
from pgproof.wal.records import CommitRecord, QuietPoint, Record, RestorePoint, read_records

LOOK_BACK = 64  # segments without any commit that are read before giving up


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

    def records(self, *segments: WalSegment, rmgrs: tuple[str, ...] = ("Transaction",)) -> list[Record]:
        """The records of segments in a row; one that continues after the last is left out.

        The last one may be a received part: it is read as far as it was received.
        """
        first, last = segments[0], segments[-1]
        with temporary_directory("wal") as directory:
            end = last.end
            for segment in segments:  # all under the timeline that pg_waldump is told
                end = self._bring(segment, directory / segment.on(last.timeline).name)
            return list(read_records(self._bin, directory, first.start, end, last.timeline, rmgrs))

    def _bring(self, segment: WalSegment, path: Path) -> LSN:
        """Fetch a segment, or else what was received of it; the LSN up to which it holds WAL."""
        try:
            find_key(self._archive, segment.name)
        except ObjectMissing:
            part = find_part(self._archive, segment)
            if part is None:
                raise
            with open(path, "wb") as file:
                file.writelines(self._archive.open(part.key))
            return part.end
        fetch(self._archive, segment.name, path)
        return segment.end

    def commits(self, segment: WalSegment) -> list[CommitRecord]:
        """The commits of one segment that carry a time."""
        return _timed(self.records(segment))

    def newest_commit(self, segments: Iterable[WalSegment]) -> CommitRecord | None:
        """The newest commit by LSN, for its time may be older than that of one before it: clocks jump.

        Args:
            segments: that are there, the newest first.
        """
        for segment in islice(segments, LOOK_BACK):
            if commits := self.commits(segment):
                return commits[-1]
        return None

    def newest(self, segments: Iterable[WalSegment]) -> tuple[CommitRecord | None, QuietPoint | None]:
        """The newest commit, and the newest quiet point of the segments that were read for it.

        Args:
            segments: that are there, the newest first.
        """
        quiet: QuietPoint | None = None
        for segment in islice(segments, LOOK_BACK):
            records = self.records(segment, rmgrs=("Transaction", "Standby"))
            points = [record for record in records if isinstance(record, QuietPoint)]
            quiet = quiet or (points[-1] if points else None)
            if commits := _timed(records):
                return commits[-1], quiet
        return None, quiet

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


def _timed(records: Iterable[Record]) -> list[CommitRecord]:
    return [r for r in records if isinstance(r, CommitRecord) and r.committed and r.time is not None]
