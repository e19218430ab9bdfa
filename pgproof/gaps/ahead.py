"""An archive is ahead of its source when it holds WAL that the source, as it is now, has not written.

A primary writes before it archives, so its insert position is never before the end of what it archived. Where it is,
the source was set back to an older state without recovery: a snapshot of its machine or disk, a copy of its data
directory. It writes the same segments once more, with other content and under the same names: the first that it
finishes cannot be archived, and up to then nothing else tells.
"""

from __future__ import annotations

from collections.abc import Callable

from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.timelines.history import history_of
from pgproof.timelines.lsn import LSN
from pgproof.wal.archive import WalListing, end_of_path


def ahead_of_source(
    listing: WalListing, facts: ServerFacts | None, again: Callable[[], ServerFacts | None]
) -> str:
    """Why the archive does not belong to what the source is now; empty where it does, or where nobody can say.

    Args:
        listing: the archive.
        facts: of the source, read before the listing; None when it did not answer.
        again: reads them once more: segments that were pushed between the two are no sign.
    """
    if _end_before(listing, facts) is None:
        return ""
    later = again()
    end = _end_before(listing, later)
    if end is None or later is None:
        return ""
    return (
        f"the archive is ahead of its source: on timeline {later.timeline} it ends at LSN {end}, and the source "
        f"writes at LSN {later.insert_lsn}. The source was set back to an older state (a snapshot, a copy of its "
        "files), or another server archives here; what it writes from now on cannot be archived: "
        'docs/runbooks/wal-gap.md, "The archive is ahead of its source"'
    )


def _end_before(listing: WalListing, facts: ServerFacts | None) -> LSN | None:
    """The end of the archive along the source's timeline, when the source has not come to it; a standby may lag."""
    if facts is None or facts.in_recovery:
        return None
    end = end_of_path(listing, history_of(facts.timeline, listing.histories))
    return end if end > facts.insert_lsn else None


def ask_again(cluster: ClusterConfig) -> ServerFacts | None:
    """What the source is now; None when it does not answer any more."""
    try:
        with connect(cluster) as connection:
            return read_facts(connection)
    except PgproofError:
        return None
