"""The content check: archived segments are read, and every page and record of them is looked at.

Order of one check: list the archive once; leave out what an earlier check found good and that has not changed since;
read the rest in windows of a few segments, several windows at once; remember what was good. A window also takes the
segment before it and the one after it, so that a record that crosses a border is read whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pgproof.config import ClusterConfig
from pgproof.errors import ProgramMissing
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.breaks import Break
from pgproof.wal.checked import MARGIN, CheckedRun, Recall, read_memory, write_memory
from pgproof.wal.survey import Needed, Row, Span, Stored, Survey, take_survey
from pgproof.wal.window import WindowResult, check_window, windows

_SAVE_EVERY = 300.0  # seconds: how much work a check that dies may lose


@dataclass(frozen=True, slots=True)
class ContentReport:
    """What a content check found.

    Args:
        damaged: names of segments, in order, each with what is wrong.
        read: how many were read.
        remembered: how many were found good earlier, and have not changed.
        breaks: where no recovery goes past, in order.
        crc: whether the CRCs of records were checked; not without pg_waldump of the cluster's major version.
        bytes: read, before compression.
        warnings: what went wrong around it, in words.
    """

    damaged: tuple[tuple[str, str], ...] = ()
    read: int = 0
    remembered: int = 0
    crc: bool = False
    bytes: int = 0
    warnings: tuple[str, ...] = ()
    breaks: tuple[Break, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.breaks

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok, "breaks": [one.as_dict() for one in self.breaks]}


def check_content_of(
    archive: Archive,
    runs: Sequence[Span],
    bin_directory: Path | None,
    workers: int,
    now: datetime | None,
    recheck_after: timedelta,
    *,
    everything: bool = False,
) -> ContentReport:
    """Read the segments of some runs, those that are not known to be good.

    Args:
        archive: that holds them; a segment that is not there is left out: that is a gap, not damage.
        runs: what recoveries need.
        bin_directory: with a pg_waldump of the cluster's major version; None checks pages only.
        workers: windows read at once.
        now: aware; when the check began. None when nobody's clock is known: then everything is read, and nothing
            is remembered.
        recheck_after: a segment that was good is read again after this.
        everything: read all of them, whatever is remembered.

    Raises:
        ConfigError: they are encrypted and no age identity is configured.
        StoreUnavailable: the archive could not be read. What was read until then is remembered.
        NoRoom: the temporary directory is full.
        PermanentError: pg_waldump failed for a reason of its own.
    """
    crc = bin_directory is not None
    if not runs:
        return ContentReport(crc=crc)
    size = runs[0].first.size
    memory = read_memory(archive, size)
    after = timedelta(0) if everything or now is None else recheck_after
    recall = Recall(memory, now or datetime.max.replace(tzinfo=UTC), after, crc=crc)
    check = _Check(archive, take_survey(archive, runs, recall), recall, bin_directory, now)
    check.breaks = {one.segment: one for one in memory.breaks}
    warning = ""
    try:
        check.run(workers)
    finally:
        warning = check.remember(size)
    damaged = tuple((segment.name, fault) for segment, fault in sorted(check.faults.items()))
    warnings = tuple(text for text in (memory.warning, warning) if text)
    return ContentReport(
        damaged, check.read, recall.count(), crc, check.bytes, warnings, check.found_breaks()
    )


class _Check:
    """One check while it runs."""

    def __init__(
        self, archive: Archive, survey: Survey, recall: Recall, directory: Path | None, now: datetime | None
    ) -> None:
        self._archive, self._survey, self._recall = archive, survey, recall
        self._directory, self._now = directory, now
        self._good: list[Stored] = []
        self.faults: dict[WalSegment, str] = {}
        self.breaks: dict[WalSegment, Break] = {}
        self.read = self.bytes = 0

    def run(self, workers: int) -> None:
        """Check every window, several at once; what is good is saved now and then."""
        saved = time.monotonic()
        pool = ThreadPoolExecutor(workers, "check")
        try:
            rows = windows(self._survey)
            jobs = [
                pool.submit(check_window, self._archive, self._survey, row, self._directory) for row in rows
            ]
            for job in as_completed(jobs):
                self._add(job.result())
                if time.monotonic() - saved > _SAVE_EVERY:
                    self.remember(next(iter(self._survey.to_read)).size)
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)

    def _add(self, result: WindowResult) -> None:
        self.read += result.read
        self.bytes += result.bytes
        for segment, fault in result.faults.items():
            self.faults.setdefault(segment, fault)
            self._recall.forget(segment)
        self._good += result.good
        if self._directory is not None:  # else no record was read
            for stored in result.good:
                self.breaks.pop(stored.segment, None)
        self.breaks |= result.breaks
        for segment in result.breaks:
            self._recall.forget(segment)

    def found_breaks(self) -> tuple[Break, ...]:
        """Where no recovery goes past; a segment that breaks is in no run, and so is read each time."""
        return tuple(sorted(self.breaks.values()))

    def remember(self, size: int) -> str:
        """Store what is known to be good; why that failed, if it did.

        Not what was stored so recently that a change might not show, nor what another window found damaged.
        """
        if self._now is None:
            return ""
        crc, settled = self._directory is not None, (self._now - MARGIN).timestamp()
        good = [
            CheckedRun(stored.segment, stored.segment, self._now, crc, stored.modified)
            for stored in self._good
            if stored.segment not in {*self.faults, *self.breaks} and 0 < stored.modified <= settled
        ]
        return write_memory(self._archive, size, [*self._recall.runs(), *good], self.found_breaks())


def check_content_for(
    cluster: ClusterConfig,
    archive: Archive,
    runs: Sequence[Span],
    major: int,
    now: datetime | None,
    *,
    everything: bool = False,
) -> ContentReport:
    """Check the content of a cluster's archive with its settings, and with pg_waldump where that is installed.

    Args:
        cluster: its ``wal`` section gives the workers and when a segment is read again.
        archive: to read.
        runs: what recoveries need.
        major: the cluster's major version; 0 when nothing tells it.
        now: aware; None when nobody's clock is known.
        everything: read all of them, whatever is remembered.

    Raises:
        as ``check_content_of``.
    """
    wal = cluster.wal
    return check_content_of(
        archive,
        runs,
        waldump_directory(cluster, major),
        wal.workers,
        now,
        timedelta(seconds=wal.recheck_after),
        everything=everything,
    )


def waldump_directory(cluster: ClusterConfig, major: int) -> Path | None:
    """The directory of a pg_waldump that reads a cluster's WAL; None when it is not installed here."""
    with suppress(ProgramMissing):
        directory = find_bin_directory(major, cluster.bin_directory) if major else None
        if directory is not None and os.access(directory / "pg_waldump", os.X_OK):
            return directory
    return None


def check_segment_content(archive: Archive, segment: WalSegment) -> str | None:
    """Whether one archived segment can be read whole, by its pages; the reason when it cannot.

    Raises:
        ObjectMissing: it is not archived.
    """
    return check_row(archive, [segment], None).get(segment)


def check_row(
    archive: Archive, segments: Sequence[WalSegment], bin_directory: Path | None
) -> dict[WalSegment, str]:
    """Read segments in a row, whatever is remembered of them, without a listing.

    Args:
        archive: that holds them.
        segments: on one timeline, in order.
        bin_directory: with a pg_waldump of the cluster's major version; None checks pages only.

    Returns:
        the damaged ones, each with what is wrong.

    Raises:
        ObjectMissing: one is not archived.
    """
    stored = {segment: Stored(segment, find_key(archive, segment.name), 0.0) for segment in segments}
    survey = Survey(Needed([Row(segments[0], segments[-1])]), stored)
    faults: dict[WalSegment, str] = {}
    for row in windows(survey):
        for segment, fault in check_window(archive, survey, row, bin_directory).faults.items():
            faults.setdefault(segment, fault)
    return faults
