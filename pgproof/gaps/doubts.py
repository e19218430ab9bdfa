"""A doubt is what a gap check had to find out and could not: unknown is never fine, and so a doubt is a finding."""

from __future__ import annotations

from collections.abc import Iterator

from pgproof.backups.catalog import Catalog
from pgproof.errors import NoBackup, ProgramMissing
from pgproof.gaps.lag import CommitTimes, Lag
from pgproof.postgres.facts import ServerFacts
from pgproof.restore.futures import Choice, choose_future
from pgproof.restore.locate import WalReader
from pgproof.timelines.history import history_of
from pgproof.wal.archive import WalListing


def doubts_of(
    catalog: Catalog,
    listing: WalListing,
    facts: ServerFacts | None,
    source_error: str,
    lag: Lag,
    ahead: str = "",
) -> Iterator[str]:
    """What is not known of a source and of what it would lose.

    Args:
        catalog: the backups.
        listing: the archive.
        facts: of the source; None when it did not answer.
        source_error: why it did not.
        lag: that was measured.
        ahead: why the archive does not belong to what the source is now; empty when it does.
    """
    if facts is None:
        yield f"the source did not answer, and nobody knows what it has that is not archived: {source_error}"
    elif catalog.entries and facts.timeline not in listing.timelines | _backed_up(catalog):
        yield (
            f"the source is on timeline {facts.timeline}, of which nothing is archived: nothing that it writes is "
            "protected here; look at archive_mode and archive_command of the new primary"
        )
    elif ahead:
        yield ahead
    elif catalog.entries and lag.rpo_seconds is None:
        yield f"nobody knows what would be lost now: {lag.unknown}"


def followed_now(catalog: Catalog, times: CommitTimes, facts: ServerFacts | None) -> Choice | None:
    """The future that a restore without options would follow; None when none begins.

    Args:
        catalog: the backups.
        times: reads commits of the archive.
        facts: of the source; None when it did not answer.
    """

    def reader(major: int) -> WalReader:
        if times.reader is None:
            raise ProgramMissing(f"there is no pg_waldump of PostgreSQL {major} here")
        return times.reader

    try:
        timeline = facts.timeline if facts else None
        return choose_future(catalog.entries, times.listing, reader, lambda: timeline)
    except NoBackup:
        return None


def strays_of(
    catalog: Catalog, listing: WalListing, facts: ServerFacts | None, followed: Choice | None
) -> Iterator[str]:
    """Timelines that were archived here and that nobody goes on with: a clone was promoted, say.

    One on which a backup was taken is somebody's past, and is told of no more than its windows.

    Args:
        catalog: the backups.
        listing: the archive.
        facts: of the source; None when it did not answer.
        followed: the future that a restore follows; None without backups.
    """
    if followed is None:
        return
    if followed.conflict is not None:
        yield f"{followed.conflict.fact}: {followed.conflict.detail}"
    known = {timeline: history_of(timeline, listing.histories) for timeline in listing.timelines}
    wanted = {
        *followed.history.path,
        *(known[facts.timeline].path if facts and facts.timeline in known else ()),
    }
    used = {timeline for own in _backed_up(catalog) for timeline in history_of(own, listing.histories).path}
    for timeline in sorted(set(listing.numbers) & set(listing.histories) - wanted - used):
        fork = known[timeline].forks[-1]
        yield (
            f"timeline {timeline}, which left timeline {fork.timeline} at LSN {fork.lsn}, has WAL here and no backup, "
            f"and a restore follows timeline {followed.history.timeline}: was a clone promoted that has its source's "
            "archive_command? Set its archive_mode to off; expire removes it when all of it is older than the window"
        )


def reserved_of(catalog: Catalog, listing: WalListing, facts: ServerFacts | None) -> Iterator[str]:
    """Timelines of which the history file is archived and nothing else: no restore loses or wins anything by them.

    An acceptance reserves the number before its server may archive; where it ended there, nobody goes on.

    Args:
        catalog: the backups.
        listing: the archive.
        facts: of the source; None when it did not answer.
    """
    used = {fork.timeline for history in listing.histories.values() for fork in history.forks}
    used |= listing.written | _backed_up(catalog) | ({facts.timeline} if facts else set())
    for timeline in sorted(set(listing.histories) - used):
        fork = listing.histories[timeline].forks[-1]
        yield (
            f"timeline {timeline}, which left timeline {fork.timeline} at LSN {fork.lsn}, has its history file here "
            "and nothing else: an acceptance that was not finished reserved it, its server has archived nothing yet, "
            "or expire removed what was older than the window"
        )


def _backed_up(catalog: Catalog) -> set[int]:
    return {entry.record.timeline for entry in catalog.entries}
