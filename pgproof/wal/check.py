"""The gap check as a whole: archive, catalog and source looked at together."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import Catalog, read_catalog
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError, ProgramMissing
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive, check_system
from pgproof.repository.store import ObjectInfo
from pgproof.restore.locate import WalReader
from pgproof.retention.plan import ExpireFacts, plan_expire
from pgproof.wal.archive import WalListing, list_wal
from pgproof.wal.content import ContentReport, check_content_for
from pgproof.wal.gaps import GapReport, check_gaps
from pgproof.wal.segment import WalSegment
from pgproof.wal.survey import rows_of


@dataclass(frozen=True, slots=True)
class WalCheck:
    """What a gap check found.

    Args:
        report: gaps, windows, segments in flight.
        source_error: why the source could not be asked; empty when it was.
        archiver_failing: the source's archiver reports a failure newer than its last success.
        newest_commit: time of the newest commit that is in the repository.
        rpo_seconds: how much would be lost now; None when it cannot be known.
        content: what reading the segments gave; None when they were not read.
    """

    report: GapReport
    source_error: str = ""
    archiver_failing: str = ""
    newest_commit: datetime | None = None
    rpo_seconds: float | None = None
    content: ContentReport | None = None

    @property
    def ok(self) -> bool:
        return self.report.ok and not self.archiver_failing

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.report.as_dict(),
            "ok": self.ok,
            "source_error": self.source_error,
            "archiver_failing": self.archiver_failing,
            "newest_commit": self.newest_commit.isoformat() if self.newest_commit else None,
            "rpo_seconds": self.rpo_seconds,
            "content": self.content.as_dict() if self.content else None,
        }


def check_wal(
    cluster: ClusterConfig,
    archive: Archive,
    *,
    content: bool = False,
    everything: bool = False,
    now: datetime | None = None,
) -> WalCheck:
    """Check a cluster's archive; a source that is gone is reported, and the archive checked all the same.

    Args:
        cluster: its source is asked for its position.
        archive: to check.
        content: read the segments that a recovery needs, too, those that are not known to be good.
        everything: with ``content``: read all of them.
        now: aware, for what retention lets expire; by default the source's clock, else the newest backup's time.

    Raises:
        StoreUnavailable: the archive could not be looked at.
        WrongSystem: the server at the DSN is not this archive's.
    """
    catalog = read_catalog(archive)
    facts, source_error = _source(cluster, archive)
    size = (
        facts.segment_size
        if facts
        else _segment_size(catalog.entries[-1].record.segment_size if catalog.entries else 0)
    )
    listing = list_wal(archive, size)
    clock = now or (facts.clock if facts else None)

    def expired(missing: Collection[WalSegment]) -> Collection[WalSegment]:
        return _expired(cluster, archive, catalog, listing, missing, clock)

    report = check_gaps(catalog, listing, facts, expired)
    read = None
    if content:
        runs, major = rows_of(report.checked), _major(facts, catalog)
        read = check_content_for(cluster, archive, runs, major, clock, everything=everything)
        report = replace(report, damaged=read.damaged)
    failing = ""
    if facts is not None and facts.archiver.failing:
        failing = f"{facts.archiver.last_failed} failed at {facts.archiver.last_failed_at:%F %T%z}"
    newest = _newest_commit(cluster, archive, report, facts, _major(facts, catalog))
    rpo = None
    if facts is not None and newest is not None:
        rpo = 0.0 if report.lag == 0 else max(0.0, round((facts.clock - newest).total_seconds(), 3))
    return WalCheck(report, source_error, failing, newest, rpo, read)


def _source(cluster: ClusterConfig, archive: Archive) -> tuple[ServerFacts | None, str]:
    try:
        with connect(cluster) as connection:
            facts = read_facts(connection)
    except PgproofError as error:
        return None, f"{error.fact}: {error.detail}"
    check_system(archive.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    return facts, ""


def _expired(
    cluster: ClusterConfig,
    archive: Archive,
    catalog: Catalog,
    listing: WalListing,
    missing: Collection[WalSegment],
    now: datetime | None,
) -> set[WalSegment]:
    """Of missing segments those that retention would remove if they were there: asked of expire's own plan."""
    layout = archive.layout
    keys = {layout.wal_file(segment.name): segment for segment in missing}
    newest = (listing.newest(timeline) for timeline in listing.numbers)
    present = {layout.wal_file(segment.name) for segment in newest if segment is not None}
    facts = ExpireFacts(
        catalog,
        tuple(ObjectInfo(key, 0) for key in sorted({*keys, *present})),
        listing.histories,
        cluster.retention,
        now or catalog.newest.record.stopped_at,
        layout,
    )
    return {keys[info.key] for info in plan_expire(facts).remove_wal if info.key in keys}


def _segment_size(known: int) -> int:
    return known or 16 << 20  # nothing is archived and no server answers: there is nothing to count either


def _major(facts: ServerFacts | None, catalog: Catalog) -> int:
    """The cluster's major version; 0 when neither the server nor a backup tells it."""
    if facts is not None:
        return facts.major
    return catalog.entries[-1].record.major if catalog.entries else 0


def _newest_commit(
    cluster: ClusterConfig, archive: Archive, report: GapReport, facts: ServerFacts | None, major: int
) -> datetime | None:
    if report.newest is None or not major:
        return None
    with contextlib.suppress(ProgramMissing, PgproofError):
        reader = WalReader(archive, find_bin_directory(major, cluster.bin_directory))
        commit = reader.newest_commit(list_wal(archive, report.newest.size), report.newest)
        return commit.time if commit else None
    return None
