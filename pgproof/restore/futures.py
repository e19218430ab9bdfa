"""A future is a path of timelines that recovery can follow; where one was left and lived on, an archive holds several.

PostgreSQL's ``latest`` is the highest number. That is the wanted future after a failover or a restore, and the wrong
one when a clone was promoted for a moment and production went on. The wanted one is where life went on: where the
newest commit and the newest backup are, and the server itself where it answers. Where they are not of one mind nobody
guesses (docs/architecture.md, "Which future a restore follows").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from pgproof.backups.catalog import BackupEntry
from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing, ProgramMissing, SeveralFutures
from pgproof.restore.locate import LOOK_BACK, WalReader
from pgproof.timelines.history import TimelineHistory, divergence, history_of, leaves
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, end_of_path, present_between
from pgproof.wal.records import CommitRecord

_NAMED = 5  # futures that a warning names


@dataclass(frozen=True)
class Future:
    """One of them: its path, the backups that lie on it, oldest first, and the end of its archived WAL."""

    history: TimelineHistory
    entries: tuple[BackupEntry, ...]
    end: LSN

    @property
    def timeline(self) -> int:
        return self.history.timeline

    def holds(self, other: Future) -> bool:
        """Whether every backup of another one lies on this one, too."""
        return {entry.label for entry in other.entries} <= {entry.label for entry in self.entries}


@dataclass(frozen=True)
class Choice:
    """The future that is followed.

    Args:
        history: its path.
        warnings: what lies on no part of it.
        conflict: why another one may be the wanted one; None when this one is.
        agreed: up to here the futures that compete are the same, so that a target before it needs no choice.
    """

    history: TimelineHistory
    warnings: tuple[str, ...] = ()
    conflict: SeveralFutures | None = None
    agreed: LSN = LSN(0)

    def refuse(self, reach: LSN) -> None:
        """Refuse a recovery up to an LSN whose future nobody knows.

        Raises:
            SeveralFutures: it goes past the place where they part.
        """
        if self.conflict is not None and reach > self.agreed:
            raise self.conflict


def futures_of(entries: Sequence[BackupEntry], listing: WalListing) -> list[Future]:
    """The futures that some backups lead to, by names alone; the highest timeline last.

    Those that no other continues, and those that went on behind every fork from them: by their WAL, or by a backup.

    Args:
        entries: the backups, oldest first.
        listing: the archive.
    """
    backed_up = {entry.record.timeline for entry in entries}
    paths = leaves(listing.timelines | backed_up, listing.histories)
    left: dict[int, LSN] = {}  # where the last timeline that continues it forked from it
    for path in listing.histories.values():
        for fork in path.forks:
            left[fork.timeline] = max(left.get(fork.timeline, LSN(0)), fork.lsn)
    alive = {timeline for timeline, lsn in left.items() if listing.end_of(timeline) > lsn}
    alive |= {
        entry.record.timeline
        for entry in entries
        if not any(path.contains(entry.record.timeline, entry.record.stop_lsn) for path in paths)
    }
    known = {path.timeline for path in paths}
    paths += [history_of(timeline, listing.histories) for timeline in alive - known]
    found = [_future(path, entries, listing) for path in sorted(paths, key=lambda path: path.timeline)]
    return [future for future in found if future.entries]


def _future(path: TimelineHistory, entries: Sequence[BackupEntry], listing: WalListing) -> Future:
    on_it = tuple(e for e in entries if path.contains(e.record.timeline, e.record.stop_lsn))
    end = end_of_path(listing, path)
    return Future(path, on_it, max(end, on_it[-1].record.stop_lsn) if on_it else end)


def choose_future(
    entries: Sequence[BackupEntry],
    listing: WalListing,
    reader_of: Callable[[int], WalReader],
    source: Callable[[], int | None] = lambda: None,
) -> Choice:
    """Choose the future that a restore follows. WAL is read only where there are several.

    The source is asked only where the archive has left a timeline.

    Args:
        entries: the backups that the restore may begin with, oldest first.
        listing: the archive.
        reader_of: a WAL reader for a major version.
        source: the timeline of the running source; None when it does not answer.

    Raises:
        NoBackup: no backup lies on any.
    """
    found = futures_of(entries, listing)
    if not found:
        raise NoBackup("no backup lies on an archived timeline", hint="pgproof wal check NAME")
    path = found[-1].history.path
    if len(found) == 1 and len(path) == 1:
        return Choice(found[0].history)
    running = source()
    if running in path[:-1] and running not in {future.timeline for future in found}:
        # it lives on where the archive goes on with another one, and may have archived nothing since
        beside = _future(history_of(running, listing.histories), entries, listing)
        found = [beside, *found] if beside.entries else found
    if len(found) == 1:
        return Choice(found[0].history)
    return _Look(found, listing, reader_of).choose(running)


@dataclass
class _Look:
    """A look at several futures: what each has for itself."""

    found: list[Future]
    listing: WalListing
    reader_of: Callable[[int], WalReader]
    _newest: dict[int, CommitRecord | None] = field(default_factory=dict)
    _unread: dict[int, str] = field(default_factory=dict)

    def choose(self, source: int | None) -> Choice:
        rivals = self._rivals()
        chosen = max(rivals, key=lambda future: (self._alive(future), future.timeline))
        running = next((future for future in self.found if future.timeline == source), chosen)
        chosen = running if self._within(chosen, running) else chosen
        doubts = [*self._doubts(chosen, rivals), *self._doubts_of_source(chosen, source)]
        others = [future for future in self.found if future is not chosen and self._matters(future, chosen)]
        others += [f for f in self.found if f.timeline == source and f not in [chosen, *others]]
        if not doubts:
            return Choice(chosen.history, tuple(self._passed_over(chosen, others)))
        return Choice(
            chosen.history,
            conflict=self._conflict(doubts, self._shown([chosen, *others])),
            agreed=min((divergence(chosen.history, other.history) for other in others), default=LSN(0)),
        )

    def _conflict(self, doubts: Sequence[str], futures: Sequence[Future]) -> SeveralFutures:
        detail = [*doubts, *(f"On timeline {future.timeline}: {self._told(future)}" for future in futures)]
        ways = " or ".join(f"--target-timeline {future.timeline}" for future in futures)
        return SeveralFutures(
            "it is not clear which timeline the restore is to follow",
            " ".join(f"{text}." for text in detail),
            f'choose: {ways}; docs/architecture.md, "Which future a restore follows"',
        )

    def _rivals(self) -> list[Future]:
        """Without those that have nothing which another one lacks.

        Of two that are alike the one stays whose WAL is archived further, else the higher one: the segment of a fork
        may be archived of the older timeline alone.
        """

        def gives_way(one: Future, other: Future) -> bool:
            alike = self._within(one, other) and self._within(other, one)
            weaker = (one.end, one.timeline) < (other.end, other.timeline)
            return weaker if alike else self._within(one, other)

        return [one for one in self.found if not any(gives_way(one, o) for o in self.found if o is not one)]

    def _within(self, one: Future, other: Future) -> bool:
        """Whether all that one has, its backups and its commits, is in the other's past."""
        parting = divergence(one.history, other.history)
        if not other.holds(one):
            return False
        if one.end <= parting:
            return True
        commit = self._commit(one)
        return one.timeline not in self._unread and (commit is None or commit.lsn < parting)

    def _matters(self, other: Future, chosen: Future) -> bool:
        """Whether one that is not followed must be told of: it has something, or is a branch that just began."""
        if not self._within(other, chosen):
            return True
        return other.timeline not in chosen.history.path and other.holds(chosen)

    def _doubts(self, chosen: Future, rivals: Sequence[Future]) -> Iterator[str]:
        """Why a rival may be the wanted one: it lived on after the chosen one had begun, and has what is newest."""
        for future in rivals:
            if reason := self._unread.get(future.timeline):
                yield f"The commits of timeline {future.timeline} cannot be read: {reason}"
        newest = max((e for future in rivals for e in future.entries), key=_time_of)
        holder = next(future for future in reversed(rivals) if newest in future.entries)
        if newest not in chosen.entries and self._overlaps(holder, chosen):
            yield f"The newest backup, {newest.label}, is not on timeline {chosen.timeline}, which has newer commits"
        ended = [(time, future) for future in rivals if (time := _time_of_commit(self._commit(future)))]
        last = max(ended, key=lambda pair: pair[0], default=(None, chosen))[1]
        if last is not chosen and self._overlaps(last, chosen):
            yield (
                f"The newest commit is on timeline {last.timeline}, the newest backup on timeline {chosen.timeline}"
            )

    def _doubts_of_source(self, chosen: Future, source: int | None) -> Iterator[str]:
        if source is not None and source != chosen.timeline:
            what = (
                "is on"
                if source in self.listing.timelines
                else "is on a timeline of which nothing is archived,"
            )
            yield f"The source {what} timeline {source}"

    def _overlaps(self, other: Future, chosen: Future) -> bool:
        """Whether another future lived on after the chosen one had begun to differ from it."""
        parting = divergence(other.history, chosen.history)
        began = [_time_of(entry) for entry in chosen.entries if entry not in other.entries]
        began += [time for c in self._commits_from(chosen, parting)[:1] if (time := _time_of_commit(c))]
        return not began or self._alive(other) >= min(began)

    def _alive(self, future: Future) -> datetime:
        """When a future was last seen alive: its newest commit, or its newest backup."""
        newest = _time_of(future.entries[-1])
        return max(newest, _time_of_commit(self._commit(future)) or newest)

    def _commit(self, future: Future) -> CommitRecord | None:
        """The newest commit behind the place where a future parts from the first other one; None when there is none."""
        if future.timeline not in self._newest:
            self._newest[future.timeline] = None
            begin = min(divergence(future.history, o.history) for o in self.found if o is not future)
            try:
                commit = self._reader().newest_commit(reversed(self._segments(future, begin)))
                self._newest[future.timeline] = commit if commit and commit.lsn >= begin else None
            except (ObjectDamaged, ObjectMissing, ProgramMissing) as error:
                self._unread[future.timeline] = error.fact
        return self._newest[future.timeline]

    def _commits_from(self, future: Future, begin: LSN) -> list[CommitRecord]:
        """The first commits of a future behind an LSN, those of one segment."""
        try:
            for segment in islice(self._segments(future, begin), LOOK_BACK):
                if found := [c for c in self._reader().commits(segment) if c.lsn >= begin]:
                    return found
        except (ObjectDamaged, ObjectMissing, ProgramMissing):
            return []
        return []

    def _segments(self, future: Future, begin: LSN) -> list[WalSegment]:
        if future.end <= begin:
            return []
        size = self.listing.segment_size
        first = WalSegment.containing(future.history.timeline_at(begin), begin, size)
        return present_between(self.listing, future.history, first, future.end)

    def _reader(self) -> WalReader:
        return self.reader_of(self.found[-1].entries[-1].record.major)

    def _passed_over(self, chosen: Future, others: Sequence[Future]) -> Iterator[str]:
        for other in self._shown(others):
            parting = divergence(chosen.history, other.history)
            way = f"; --target-timeline {other.timeline} follows it"
            if other.timeline not in self.listing.written and not self._own(other):
                way = ", and no WAL: an acceptance may have reserved it"
            yield f"timeline {other.timeline} is not followed from LSN {parting} on: {self._told(other)}{way}"

    def _shown(self, futures: Sequence[Future]) -> list[Future]:
        return list(futures[:1]) + sorted(futures[1:], key=self._alive, reverse=True)[: _NAMED - 1]

    def _told(self, future: Future) -> str:
        """What a future has, in words."""
        commit, own = self._commit(future), self._own(future)
        words = [f"its newest commit is of {commit.time:%F %T%z}"] if commit and commit.time else []
        words += [f"its newest backup is {own[-1].label}"] if own else []
        if future.timeline in self._unread:
            words.insert(0, "its commits cannot be read")
        return ", ".join(words) or "it has no commit and no backup of its own"

    def _own(self, future: Future) -> list[BackupEntry]:
        """The backups that lie on it alone."""
        shared = {e.label for other in self.found if other is not future for e in other.entries}
        return [entry for entry in future.entries if entry.label not in shared]


def _time_of_commit(commit: CommitRecord | None) -> datetime | None:
    return commit.time if commit else None


def _time_of(entry: BackupEntry) -> datetime:
    return entry.record.reachable_from
