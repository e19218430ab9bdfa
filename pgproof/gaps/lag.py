"""The lag of an archive: how far the repository is behind the source, in commits that would be lost.

Commit times in WAL are the source's clock, and are compared with nothing but that. A clock can jump: the newest
commit is the one with the newest LSN, whatever its time says. While the source's clock says less than its newest
commit does, nobody knows how old that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from pgproof.backups.catalog import Catalog
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError, ProgramMissing
from pgproof.gaps.gap import GapReport, RecoveryWindow
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive
from pgproof.restore.locate import WalReader
from pgproof.timelines.history import TimelineHistory, history_of
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, end_of_path, received_on, runs_between

_ENDS = 16  # different ends of windows whose newest commit is read; a check must not read the whole archive
_XID = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Newest:
    """What stands at the end of a stretch of WAL.

    Args:
        commit: time of the newest commit; None when none was found.
        quiet_xid: the next xid at a point at which no transaction ran.
        fault: why it was not read; empty when it was.
    """

    commit: datetime | None = None
    quiet_xid: int | None = None
    fault: str = ""


@dataclass
class CommitTimes:
    """The newest commit before an LSN, read once for each: a bounded number of reads.

    Args:
        archive: to read.
        listing: of it.
        reader: None where no program can read WAL; then nothing is known.
    """

    archive: Archive
    listing: WalListing
    reader: WalReader | None
    _known: dict[tuple[WalSegment, LSN], Newest] = field(default_factory=dict)

    @classmethod
    def open(cls, cluster: ClusterConfig, archive: Archive, listing: WalListing, major: int) -> CommitTimes:
        """With the programs of a major version; 0 when none is known."""
        reader = None
        if major:
            with suppress(ProgramMissing):
                reader = WalReader(archive, find_bin_directory(major, cluster.bin_directory))
        return cls(archive, listing, reader)

    def before(self, history: TimelineHistory, first: WalSegment, end: LSN) -> Newest:
        """What stands before an LSN of a path; it is looked for back to a segment, not for ever."""
        segments = self._backwards(history, first, end)
        newest = next(segments, None)
        if newest is None:
            return Newest()
        if self.reader is None:
            return Newest(fault="there is no pg_waldump of the cluster's major version here")
        key = (newest, end)
        if key not in self._known:
            if len(self._known) >= _ENDS:
                return Newest(fault="there are more windows than are read")
            try:
                commit, quiet = self.reader.newest(self._backwards(history, first, end))
            except PgproofError as error:
                self._known[key] = Newest(fault=error.fact)
            else:
                xid = quiet.next_xid if quiet else None
                self._known[key] = Newest(commit.time if commit else None, xid)
        return self._known[key]

    def _backwards(self, history: TimelineHistory, first: WalSegment, end: LSN) -> Iterator[WalSegment]:
        """The segments before an LSN that are there in a row, the newest first."""
        part = received_on(self.listing, history)
        if end <= first.start:
            return
        for run in reversed(runs_between(history, first, end)):
            for number in range(run.last.number, run.first.number - 1, -1):
                segment = WalSegment(run.timeline, number, run.first.size)
                if segment not in self.listing and not (part and part.segment == segment):
                    return
                yield segment


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the repository is behind.

    Args:
        newest_commit: the newest commit that a recovery would bring back.
        rpo_seconds: what would be lost if the source died now; None when it cannot be known.
        lag_seconds: age of the newest commit that is archived at all, while the source has newer WAL.
        unknown: why neither can be known, although the source answered; empty else.
    """

    newest_commit: datetime | None = None
    rpo_seconds: float | None = None
    lag_seconds: float | None = None
    unknown: str = ""


def with_times(report: GapReport, catalog: Catalog, times: CommitTimes) -> GapReport:
    """The report, its windows with the time of the newest commit in each."""
    windows = []
    for window in sorted(report.windows, key=lambda one: -one.end):  # the furthest first: reads are bounded
        history = history_of(window.timeline, times.listing.histories)
        first = catalog.entry(window.backup).record.first_segment
        newest = times.before(history, first, window.end).commit
        stopped = newest is not None and newest < window.from_time
        windows.append(replace(window, to_time=window.from_time if stopped else newest))
    order = {(window.backup, window.timeline): window for window in windows}
    return replace(report, windows=tuple(order[w.backup, w.timeline] for w in report.windows))


def measure_lag(report: GapReport, catalog: Catalog, facts: ServerFacts | None, times: CommitTimes) -> Lag:
    """What would be lost if the source died now.

    Args:
        report: of the gap check.
        catalog: the backups.
        facts: of the source; None when it could not be asked.
        times: to read commits with.
    """
    reach = furthest(report, facts)
    if reach is None:
        return Lag(unknown="no backup leads to any timeline")
    history = history_of(reach.timeline, times.listing.histories)
    first = catalog.entry(reach.backup).record.first_segment
    safe = times.before(history, first, reach.end)
    end = end_of_path(times.listing, history)
    archived = safe
    if end > reach.end and not reach.expired:  # a gap lies between
        begin = WalSegment.containing(history.timeline_at(reach.end), reach.end, first.size).next()
        archived = times.before(history, begin, end)
    if facts is None or facts.timeline != reach.timeline:
        where = f"no backup leads to timeline {facts.timeline} of the source" if facts else ""
        return Lag(safe.commit, unknown=where)
    whole = end <= reach.end
    caught_up, since = report.lag == 0, reach.from_time
    rpo = _age(safe, facts, since, caught_up=caught_up and whole)
    lag = _age(archived, facts, since, caught_up=caught_up)
    return Lag(safe.commit, rpo, lag, _why_unknown(safe, facts, since) if rpo is None else "")


def _why_unknown(newest: Newest, facts: ServerFacts, since: datetime) -> str:
    if newest.fault:
        return f"the newest commits cannot be read: {newest.fault}"
    return _set_back(newest.commit or since, facts.clock)


def _set_back(commit: datetime, clock: datetime) -> str:
    """A clock that says less than the newest commit does was set back, and is still behind."""
    return (
        f"the source's clock was set back: it says {clock:%F %T%z}, and the newest archived commit is of "
        f"{commit:%F %T%z}; until then nobody knows how much would be lost"
    )


def furthest(report: GapReport, facts: ServerFacts | None) -> RecoveryWindow | None:
    """The recovery window that reaches furthest: on the source's timeline, else on the newest one.

    One whose backup failed does not count: nobody knows what a recovery from it brings back.
    """
    usable = [window for window in report.windows if not window.unusable]
    timelines = {window.timeline for window in usable}
    timeline = facts.timeline if facts and facts.timeline in timelines else max(timelines, default=0)
    windows = [window for window in usable if window.timeline == timeline]
    return max(windows, key=lambda window: window.end, default=None)


def _age(newest: Newest, facts: ServerFacts, since: datetime, *, caught_up: bool) -> float | None:
    """Seconds that the source has gone on since, in commits: none where no transaction ended since then.

    A quiet source still writes records of its own (``LogStandbySnapshot``, checkpoints), which are no loss. Where
    there is no commit behind the backup, all that could be lost is younger than its end, ``since``.
    """
    quiet = newest.quiet_xid is not None and facts.next_xid is not None
    if caught_up or (quiet and newest.quiet_xid == (facts.next_xid or 0) & _XID):
        return 0.0
    if newest.fault:
        return None
    age = round((facts.clock - (newest.commit or since)).total_seconds(), 3)
    return age if age >= 0 else None
