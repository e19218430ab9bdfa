"""The gap check as a whole: archive, catalog, source and copies looked at together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import Catalog, read_catalog
from pgproof.config import ClusterConfig, RetentionConfig
from pgproof.errors import PgproofError
from pgproof.gaps.ahead import ahead_of_source, ask_again
from pgproof.gaps.copies import CopyCheck, OpenCopy, check_copies
from pgproof.gaps.doubts import doubts_of, followed_now, reserved_of, strays_of
from pgproof.gaps.gap import Expired, GapReport, check_gaps, with_breaks
from pgproof.gaps.lag import CommitTimes, Lag, measure_lag, with_times
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.slots import Slot, read_slots
from pgproof.repository.repository import Archive, check_system
from pgproof.retention.decision import decide
from pgproof.retention.window import Holdings
from pgproof.wal.archive import WalListing, list_wal
from pgproof.wal.checked import read_memory
from pgproof.wal.content import ContentReport, check_content_for
from pgproof.wal.removed import read_removed
from pgproof.wal.runs import Numbered, Numbers, intersect, subtract


@dataclass(frozen=True, slots=True)
class WalCheck:
    """What a gap check found.

    Args:
        report: gaps, windows, segments in flight.
        source_error: why the source could not be asked; empty when it was.
        ahead: why the archive does not belong to what the source is now; empty when it does.
        archiver_failing: the source's archiver reports a failure newer than its last success.
        newest_commit: time of the newest commit that a recovery would bring back.
        rpo_seconds: how much would be lost now; None when it cannot be known.
        rpo_target: of the configuration, in seconds.
        lag_seconds: age of the newest archived commit while the source has newer WAL; 0 for an idle source.
        doubts: what could not be found out: a source that did not answer, an RPO that cannot be said.
        strays: timelines in the archive that nobody goes on with, and futures between which a restore cannot choose.
        reserved: timelines of which only the history file is archived.
        timeline: that a restore without options follows; None without a backup.
        stalled: why no WAL arrives although the source has finished segments; empty when it does.
        slots: the source's physical replication slots.
        slot: name of the one that wal receive reads from.
        copies: what each other repository lacks.
        other_systems: other system identifiers that have objects under the cluster's name.
        no_backup: nothing can be recovered, whatever WAL there is.
        unread: record and reason of each that cannot be read.
        content: what reading the segments gave; None when they were not read.
    """

    report: GapReport
    source_error: str = ""
    ahead: str = ""
    archiver_failing: str = ""
    newest_commit: datetime | None = None
    rpo_seconds: float | None = None
    rpo_target: float | None = None
    lag_seconds: float | None = None
    doubts: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    timeline: int | None = None
    stalled: str = ""
    slots: tuple[Slot, ...] = ()
    slot: str = ""
    copies: tuple[CopyCheck, ...] = ()
    other_systems: tuple[int, ...] = ()
    no_backup: bool = False
    unread: tuple[tuple[str, str], ...] = ()
    content: ContentReport | None = None

    @property
    def rpo_breached(self) -> bool:
        """More would be lost now than the target allows."""
        known = self.rpo_seconds is not None and self.rpo_target is not None
        return known and (self.rpo_seconds or 0) > (self.rpo_target or 0)

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def findings(self) -> tuple[str, ...]:
        """What stands in the way of recovery, or soon will."""
        return (*(f"{gap} missing" for gap in self.report.gaps), *self.other_findings)

    @property
    def other_findings(self) -> tuple[str, ...]:
        """What was found besides gaps, the worst first."""
        found = ["there is no backup: nothing can be recovered from WAL alone"] if self.no_backup else []
        if self.report.unusable:
            found.append(f"no recovery window can be relied on: {self.report.unusable}")
        found += self.doubts
        found += [f'record "{what}" cannot be used: {reason.rstrip(".")}' for what, reason in self.unread]
        found += [f"{name} damaged: {fault}" for name, fault in self.report.damaged]
        found += [str(one) for one in self.report.breaks]
        found += [
            f"the history file of timeline {timeline} is missing: no recovery begins on it or finds the way to it"
            for timeline in self.report.without_history
        ]
        found += [f"the archiver is failing: {self.archiver_failing}"] if self.archiver_failing else []
        found += [self.stalled] if self.stalled else []
        found += [slot.fault for slot in self.slots if slot.fault and slot.name == self.slot]
        found += [copy.fault for copy in self.copies if copy.fault]
        found += self.strays
        if self.rpo_breached:
            found.append(
                f"RPO breached: {self.rpo_seconds:.0f} s of commits would be lost now, "
                f"the target is {self.rpo_target:.0f} s"
            )
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever keeps the archive should know, and what is no finding."""
        found = [slot.fault for slot in self.slots if slot.fault and slot.name != self.slot]
        found += self.reserved
        if self.other_systems:
            others = ", ".join(str(system) for system in self.other_systems)
            found.append(
                f"another system identifier has objects under this name, which were not looked at: {others}; "
                "pgproof list NAME says how they go"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.report.as_dict(),
            "ok": self.ok,
            "findings": list(self.findings),
            "notes": list(self.notes),
            "source_error": self.source_error,
            "ahead": self.ahead,
            "doubts": list(self.doubts),
            "strays": list(self.strays),
            "timeline": self.timeline,
            "archiver_failing": self.archiver_failing,
            "newest_commit": self.newest_commit.isoformat() if self.newest_commit else None,
            "rpo_seconds": self.rpo_seconds,
            "rpo_target": self.rpo_target,
            "rpo_breached": self.rpo_breached,
            "lag_seconds": self.lag_seconds,
            "stalled": self.stalled,
            "slots": [slot.as_dict() for slot in self.slots],
            "copies": [copy.as_dict() for copy in self.copies],
            "other_systems": [str(system) for system in self.other_systems],
            "no_backup": self.no_backup,
            "unread": dict(self.unread),
            "content": self.content.as_dict() if self.content else None,
        }


def check_wal(
    cluster: ClusterConfig,
    archive: Archive,
    *,
    content: bool = False,
    everything: bool = False,
    now: datetime | None = None,
    copies: Mapping[str, OpenCopy] | None = None,
    catalog: Catalog | None = None,
) -> WalCheck:
    """Check a cluster's archive; a source that is gone is reported, and the archive checked all the same.

    Args:
        cluster: its source is asked for its position.
        archive: to check.
        content: read the segments that a recovery needs, too, those that are not known to be good.
        everything: with ``content``: read all of them.
        now: aware, for what retention lets expire; by default the source's clock, else the newest backup's time.
        copies: how to open the other repositories, by name.
        catalog: of the archive, read just now; by default it is read here.

    Raises:
        StoreUnavailable: the archive could not be looked at.
        WrongSystem: the server at the DSN is not this archive's.
    """
    catalog = read_catalog(archive) if catalog is None else catalog
    facts, slots, source_error = _source(cluster, archive)
    listing, major = list_wal(archive, _segment_size(facts, catalog)), _major(facts, catalog)
    ahead = ahead_of_source(listing, facts, lambda: ask_again(cluster))
    clock = now or (facts.clock if facts else None)
    report = check_gaps(catalog, listing, facts, _expired(cluster, archive, catalog, listing, clock))
    read = None
    if content:
        read = check_content_for(cluster, archive, report.needed, major, clock, everything=everything)
        report = replace(report, damaged=read.damaged)
    report = with_breaks(report, read.breaks if read else read_memory(archive, listing.segment_size).breaks)
    times = CommitTimes.open(cluster, archive, listing, major)
    lag = Lag(unknown=ahead) if ahead else measure_lag(report, catalog, facts, times)
    at = clock or (catalog.newest.record.stopped_at if catalog.entries else None)
    grace = max(cluster.wal.push_timeout, cluster.targets.rpo)
    lacking = check_copies(archive, report, listing.segment_size, copies, at, grace) if copies and at else ()
    found = WalCheck(
        report=with_times(report, catalog, times),
        source_error=source_error,
        ahead=ahead,
        archiver_failing=_failing(facts),
        newest_commit=lag.newest_commit,
        rpo_seconds=lag.rpo_seconds,
        rpo_target=cluster.targets.rpo,
        lag_seconds=lag.lag_seconds,
        stalled=_stalled(report, facts, grace),
        slots=slots,
        slot=cluster.wal.slot,
        copies=lacking,
        other_systems=_other_systems(cluster, archive),
        no_backup=not catalog.entries,
        content=read,
    )
    return _with_doubts(found, catalog, facts, lag, times)


def _with_doubts(
    found: WalCheck, catalog: Catalog, facts: ServerFacts | None, lag: Lag, times: CommitTimes
) -> WalCheck:
    listing, followed = times.listing, followed_now(catalog, times, facts)
    return replace(
        found,
        unread=(*catalog.damaged, *catalog.unread, *listing.unread.items()),
        doubts=tuple(doubts_of(catalog, listing, facts, found.source_error, lag, found.ahead)),
        strays=tuple(strays_of(catalog, listing, facts, followed)),
        reserved=tuple(reserved_of(catalog, listing, facts)),
        timeline=followed.history.timeline if followed else None,
    )


def _other_systems(cluster: ClusterConfig, archive: Archive) -> tuple[int, ...]:
    systems = archive.repository.system_identifiers(cluster.name)
    return tuple(system for system in systems if system != archive.system_identifier)


def _source(cluster: ClusterConfig, archive: Archive) -> tuple[ServerFacts | None, tuple[Slot, ...], str]:
    try:
        with connect(cluster) as connection:
            facts, slots = read_facts(connection), read_slots(connection)
    except PgproofError as error:
        return None, (), f"{error.fact}: {error.detail}"
    check_system(archive.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    return facts, slots, ""


def _segment_size(facts: ServerFacts | None, catalog: Catalog) -> int:
    if facts is not None:
        return facts.segment_size
    # without server and backup nothing is needed, so that there is nothing to count either
    return catalog.entries[-1].record.segment_size if catalog.entries else 16 << 20


def _major(facts: ServerFacts | None, catalog: Catalog) -> int:
    """The cluster's major version; 0 when neither the server nor a backup tells it."""
    if facts is not None:
        return facts.major
    return catalog.entries[-1].record.major if catalog.entries else 0


def _expired(
    cluster: ClusterConfig, archive: Archive, catalog: Catalog, listing: WalListing, now: datetime | None
) -> Expired:
    """What tells of missing segments those that are no gap; it reads the archive only when there are any."""

    def expired(missing: Numbered) -> Numbered:
        holdings = Holdings(listing, read_removed(archive, listing.segment_size))
        return expired_of(cluster.retention, catalog, holdings, missing, now)

    return expired


def expired_of(
    policy: RetentionConfig,
    catalog: Catalog,
    holdings: Holdings,
    missing: Numbered,
    now: datetime | None,
) -> Numbered:
    """Of missing segments those that expire removed, or would remove if they were there by its own decision.

    Args:
        policy: of the cluster.
        catalog: every backup, one at least.
        holdings: of the archive.
        missing: from it.
        now: aware; None is the newest backup's time.
    """
    listing = holdings.listing
    timelines = listing.timelines | set(missing)
    timelines |= {entry.record.timeline for entry in catalog.entries}
    at = now or catalog.newest.record.stopped_at
    wal = decide(catalog, timelines, listing.histories, policy, at, holdings).wal
    stays = {timeline: wal.on(timeline, listing.segment_size) for timeline in missing}
    unneeded = subtract(missing, stays)
    gone = intersect(missing, holdings.removed)
    return {
        timeline: unneeded.get(timeline, Numbers()) | gone.get(timeline, Numbers()) for timeline in missing
    }


def _failing(facts: ServerFacts | None) -> str:
    if facts is None or not facts.archiver.failing or facts.follows:
        return ""
    return f"{facts.archiver.last_failed} failed at {facts.archiver.last_failed_at:%F %T%z}"


def _stalled(report: GapReport, facts: ServerFacts | None, grace: float) -> str:
    """Why nothing arrives any more although the source has finished segments; empty when WAL arrives."""
    if facts is not None and facts.settings.get("wal_level") == "minimal":
        return "the source runs with wal_level = minimal: no recovery goes past that; set it back, and take a backup"
    if facts is None or report.in_flight < 2 or facts.follows:  # the current one is always in flight
        return ""
    waiting = f"{report.in_flight} segments are in flight"
    if not facts.archiving:
        return f"the source does not archive (archive_mode, archive_command): {waiting}"
    archiver = facts.archiver
    since = archiver.ready_since if archiver.ready is not None else archiver.last_archived_at
    if since is not None and (facts.clock - since).total_seconds() > grace:
        what = f"{archiver.ready} WAL files wait" if archiver.ready else "nothing was archived"
        return f"the archiver stands still: {what} since {since:%F %T%z}; {waiting}"
    return ""
