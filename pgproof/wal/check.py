"""The gap check as a whole: archive, catalog and source looked at together."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import Catalog, read_catalog
from pgproof.config import ClusterConfig, RetentionConfig
from pgproof.errors import PgproofError, ProgramMissing
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive, check_system
from pgproof.restore.locate import WalReader
from pgproof.retention.plan import decide
from pgproof.wal.archive import WalListing, list_wal
from pgproof.wal.fetch import check_content
from pgproof.wal.gaps import GapReport, check_gaps
from pgproof.wal.runs import Numbered, subtract


@dataclass(frozen=True, slots=True)
class WalCheck:
    """What a gap check found.

    Args:
        report: gaps, windows, segments in flight.
        source_error: why the source could not be asked; empty when it was.
        archiver_failing: the source's archiver reports a failure newer than its last success.
        newest_commit: time of the newest commit that is in the repository.
        rpo_seconds: how much would be lost now; None when it cannot be known.
    """

    report: GapReport
    source_error: str = ""
    archiver_failing: str = ""
    newest_commit: datetime | None = None
    rpo_seconds: float | None = None

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
        }


def check_wal(
    cluster: ClusterConfig, archive: Archive, *, content: bool = False, now: datetime | None = None
) -> WalCheck:
    """Check a cluster's archive; a source that is gone is reported, and the archive checked all the same.

    Args:
        cluster: its source is asked for its position.
        archive: to check.
        content: read every segment that a recovery needs, too.
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

    def expired(missing: Numbered) -> Numbered:
        return expired_of(cluster.retention, catalog, listing, missing, clock)

    report = check_gaps(catalog, listing, facts, expired)
    if content:
        report = replace(report, damaged=_damaged(archive, report))
    failing = ""
    if facts is not None and facts.archiver.failing:
        failing = f"{facts.archiver.last_failed} failed at {facts.archiver.last_failed_at:%F %T%z}"
    newest = _newest_commit(
        cluster, archive, report, facts, catalog.entries[-1].record.major if catalog.entries else 0
    )
    rpo = None
    if facts is not None and newest is not None:
        rpo = 0.0 if report.lag == 0 else max(0.0, round((facts.clock - newest).total_seconds(), 3))
    return WalCheck(report, source_error, failing, newest, rpo)


def _source(cluster: ClusterConfig, archive: Archive) -> tuple[ServerFacts | None, str]:
    try:
        with connect(cluster) as connection:
            facts = read_facts(connection)
    except PgproofError as error:
        return None, f"{error.fact}: {error.detail}"
    check_system(archive.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    return facts, ""


def expired_of(
    policy: RetentionConfig,
    catalog: Catalog,
    listing: WalListing,
    missing: Numbered,
    now: datetime | None,
) -> Numbered:
    """Of missing segments those that retention would remove if they were there: asked of expire's own decision.

    Args:
        policy: of the cluster.
        catalog: every backup, one at least.
        listing: the archive.
        missing: from it.
        now: aware; None is the newest backup's time.
    """
    timelines = listing.timelines | set(missing)
    timelines |= {entry.record.timeline for entry in catalog.entries}
    at = now or catalog.newest.record.stopped_at
    wal = decide(catalog, timelines, listing.histories, policy, at).wal
    stays = {timeline: wal.on(timeline, listing.segment_size) for timeline in missing}
    return subtract(missing, stays)


def _segment_size(known: int) -> int:
    return known or 16 << 20  # nothing is archived and no server answers: there is nothing to count either


def _damaged(archive: Archive, report: GapReport) -> tuple[tuple[str, str], ...]:
    with ThreadPoolExecutor(4, "check") as pool:
        segments = [segment for run in report.needed for segment in run]
        faults = pool.map(lambda segment: check_content(archive, segment.name), segments)
        return tuple((segment.name, fault) for segment, fault in zip(segments, faults, strict=True) if fault)


def _newest_commit(
    cluster: ClusterConfig, archive: Archive, report: GapReport, facts: ServerFacts | None, major: int
) -> datetime | None:
    if report.newest is None or not (facts or major):
        return None
    with contextlib.suppress(ProgramMissing, PgproofError):
        reader = WalReader(
            archive, find_bin_directory(facts.major if facts else major, cluster.bin_directory)
        )
        commit = reader.newest_commit(list_wal(archive, report.newest.size), report.newest)
        return commit.time if commit else None
    return None
