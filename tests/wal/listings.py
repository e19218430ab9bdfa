"""Archives as values: listings, catalogs and the facts of a source, with positions counted in segments."""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.postgres.facts import ArchiverFacts, RoleFacts, ServerFacts
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing
from pgproof.wal.runs import Numbers
from tests.retention.archives import NOON

SIZE = 1 << 20


def at(segment: float) -> LSN:
    """The position at so many segments."""
    return LSN(int(segment * SIZE))


def listing(*timelines: Iterable[int], **histories: str) -> WalListing:
    """What is archived: the numbers of timeline 1, 2, ..., and histories such as ``t2="1 5.5"``."""
    parsed = {}
    for name, text in histories.items():
        timeline = int(name[1:])
        forks = [part.split() for part in text.split(",")]
        parsed[timeline] = TimelineHistory(
            timeline, tuple(Fork(int(parent), at(float(where))) for parent, where in forks)
        )
    numbers = {number: Numbers(found) for number, found in enumerate(timelines, 1) if found}
    return WalListing(SIZE, numbers, parsed, 0)


def source(
    insert: float, *, timeline: int = 1, archived: str | None = None, in_recovery: bool = False
) -> ServerFacts:
    return ServerFacts(
        version=170010,
        version_text="PostgreSQL 17.10",
        system_identifier=7446001122334455667,
        timeline=timeline,
        in_recovery=in_recovery,
        segment_size=SIZE,
        insert_lsn=at(insert),
        database_size=0,
        databases=("postgres",),
        archiver=ArchiverFacts(archived, NOON if archived else None, None, None),
        role=RoleFacts("pgproof", False, True, (), (), True),
        clock=NOON,
    )


def catalog(*entries: BackupEntry) -> Catalog:
    return Catalog(tuple(sorted(entries, key=lambda e: e.record.stopped_at)))


def name(number: int, timeline: int = 1) -> str:
    return WalSegment(timeline, number, SIZE).name
