"""A restore plan is made before anything is written, from facts alone; dry run and restore share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.record import BackupRecord
from pgproof.errors import (
    InvalidTarget,
    NoBackup,
    WalGap,
)
from pgproof.restore.border import Border
from pgproof.restore.cautions import cautions
from pgproof.restore.destination import Destination, check_destination, look_at_destination, room_for
from pgproof.restore.futures import Choice, choose_future
from pgproof.restore.isolation import in_words
from pgproof.restore.locate import Located, WalReader
from pgproof.restore.reach import locate_target, outside
from pgproof.restore.reading import Reading
from pgproof.restore.tablespaces import TablespacePlaces, place_tablespaces
from pgproof.restore.target import RecoveryTarget
from pgproof.restore.visibility import STEP as LEAVE_OUT_MAPS
from pgproof.timelines.history import TimelineHistory, history_of
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import (
    WalListing,
    received_on,
    require,
    runs_between,
)
from pgproof.wal.breaks import first_crossed, require_unbroken
from pgproof.wording import counted

Read = Callable[[BackupRecord, Sequence[WalSegment]], Reading | None]
_Choice = tuple[BackupEntry, list[WalSegment], str, tuple[str, ...]]


@dataclass(frozen=True)
class RestoreRequest:
    """What is asked for.

    Args:
        destination: data directory to make.
        target: where recovery stops.
        label: of the backup; None lets the plan choose.
        tablespaces: old path to new path.
        standby: start as a standby and keep following.
        target_action: what the server does at the target: pause, promote or shutdown.
        take_over: the restored cluster becomes the one that archives.
    """

    destination: Path
    target: RecoveryTarget = RecoveryTarget()
    label: str | None = None
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    standby: bool = False
    target_action: str = "pause"
    take_over: bool = False

    @property
    def isolated(self) -> bool:
        """Whether nobody else may notice the restored cluster."""
        return not (self.standby or self.take_over)


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do.

    Args:
        request: what was asked.
        chain: the backup and those it builds on, the full one first.
        reason: why this backup.
        history: the timeline that recovery follows.
        segments: WAL that recovery reads at least.
        reach: where it stops at the latest known LSN.
        places: of tablespaces.
        room: bytes needed at the destination.
        warnings: to be read before it is run.
        has_history: whether the archive has the history file of the timeline, which names it to PostgreSQL.
        border: the commits on both sides of the target, when they are known.
        reading: what the WAL says that recovery reads; None where there is so much that it is read later.
        highest: the highest timeline in the archive, which PostgreSQL calls the latest one.
    """

    request: RestoreRequest
    chain: tuple[BackupRecord, ...]
    reason: str
    history: TimelineHistory
    segments: tuple[WalSegment, ...]
    reach: LSN
    places: TablespacePlaces
    room: int
    warnings: tuple[str, ...] = ()
    border: Border | None = None
    has_history: bool = True
    reading: Reading | None = None
    highest: int = 0

    @property
    def record(self) -> BackupRecord:
        return self.chain[-1]

    @property
    def target_timeline(self) -> str:
        """As the server is told. A standby follows later failovers, unless it would take another future."""
        if self.request.standby and self.highest <= self.history.timeline:
            return "latest"
        # by its number PostgreSQL refuses a timeline without a history file (validateRecoveryParameters)
        return str(self.history.timeline) if self.has_history else "current"

    @property
    def tablespaces(self) -> Mapping[int, Path]:
        """Those of the backup: OID to directory."""
        return self.places.backed_up

    def steps(self) -> list[str]:
        """The steps, as they are shown by a dry run and then done."""
        target = self.request.target
        steps = [f"backup {self.record.label} ({self.record.kind}, {self.reason})"]
        steps.append(f"make {self.request.destination} with mode 0700")
        steps += [f"put tablespace {oid} into {path}" for oid, path in self.tablespaces.items()]
        steps += [str(later) for later in self.places.later]
        for record in self.chain:
            volumes = f"{len(record.volumes)} volume{'s' if len(record.volumes) != 1 else ''}"
            steps.append(f"extract {volumes} of {record.label}, checked by SHA-256")
        if len(self.chain) > 1:
            steps.append(f"combine {len(self.chain)} backups with pg_combinebackup")
            steps.append(LEAVE_OUT_MAPS)
        if (found := self.record.configuration) and found.files:
            steps.append(
                f"put {counted(len(found.files), 'configuration file')} of the source beside it, such as "
                f"{found.main or found.files[0]}"
            )
        if self.request.standby:
            steps.append("write standby.signal and restore_command")
        else:
            # at the end of WAL there is no target to pause at: the server opens by itself
            then = "open for writing" if target.kind == "end" else self.request.target_action
            steps.append(f"recover along timeline {self.history.timeline} to {target}, then {then}")
            steps += self.border.steps() if self.border else []
        steps.append(in_words(isolated=self.request.isolated, standby=self.request.standby))
        steps.append("move pg_control into place, which makes the directory startable")
        return steps


def plan_restore(
    request: RestoreRequest,
    catalog: Catalog,
    listing_of: Callable[[int], WalListing],
    reader_of: Callable[[int], WalReader],
    look: Callable[[Path, Sequence[Path]], Destination] = look_at_destination,
    read: Read = lambda record, segments: None,
    source: Callable[[], int | None] = lambda: None,
) -> RestorePlan:
    """Decide everything about a restore, and refuse what cannot end well.

    Args:
        request: what is asked for.
        catalog: the backups.
        listing_of: the archive's listing for a segment size.
        reader_of: a WAL reader for a major version; used for time, xid and name targets.
        look: at the destination.
        read: reads the WAL after a backup; None where that is left for later.
        source: tells the timeline of the running source; asked where the archive holds several futures.

    Raises:
        NoBackup: there is none, or none of this label.
        SeveralFutures: it is not clear along which timeline it is to recover.
        TargetOutsideWindow: the target is before the first backup or after the newest WAL.
        InvalidTarget: its timeline is not in the archive.
        WalGap: WAL on the way is missing.
        DestinationRefused: a directory is not empty or cannot be used.
        NoRoom: too little room at the destination.
    """
    listing = listing_of(catalog.newest.record.segment_size)
    choice = _choose_future(request, catalog, listing, reader_of, source)
    history = choice.history
    on_path = _on_path(history, catalog)
    located = locate_target(choice, request.target, on_path, listing, reader_of)
    chosen, reading = _choose_and_read(request, catalog, history, on_path, listing, located, read)
    entry, segments, reason, passed = chosen
    chain = catalog.chain(entry.label)
    reach = max(located.lsn, entry.record.stop_lsn)
    places = _places(request, entry.record, reach, reading)
    room = room_for(request.destination, chain, places.backed_up)
    check_destination(look(request.destination, [*places.backed_up.values(), *places.chosen]), room)
    return RestorePlan(
        request,
        chain,
        reason,
        history,
        tuple(segments),
        reach,
        places,
        sum(room.values()),
        (
            *choice.warnings,
            *passed,
            *cautions(entry, catalog, archives=not request.isolated),
            *_of_timeline(request, history, listing),
        ),
        has_history=_has_history(history, listing),
        highest=_highest(history, listing),
        reading=reading,
    )


def _places(
    request: RestoreRequest, record: BackupRecord, reach: LSN, reading: Reading | None
) -> TablespacePlaces:
    """Where tablespaces go, those that were created on the way as well."""
    until = None if request.standby or request.target.kind == "end" else reach
    created = reading.tablespaces if reading else ()
    return place_tablespaces(record, created, until, request.destination, request.tablespaces)


def _on_path(history: TimelineHistory, catalog: Catalog) -> list[BackupEntry]:
    """The backups from which a timeline can be reached.

    Raises:
        NoBackup: there is none.
    """
    found = [e for e in catalog.entries if history.contains(e.record.timeline, e.record.stop_lsn)]
    if not found:
        raise NoBackup(
            f"no backup lies on timeline {history.timeline}",
            f"The backups are on timelines {sorted({e.record.timeline for e in catalog.entries})}.",
            "choose another --target-timeline; pgproof list NAME",
        )
    return found


def _has_history(history: TimelineHistory, listing: WalListing) -> bool:
    return history.timeline == 1 or history.timeline in listing.histories


def _highest(history: TimelineHistory, listing: WalListing) -> int:
    return max([history.timeline, *listing.histories])


def _of_timeline(request: RestoreRequest, history: TimelineHistory, listing: WalListing) -> Iterator[str]:
    """What is to be known of the timeline that recovery follows."""
    timeline, highest = history.timeline, _highest(history, listing)
    if request.target.timeline is None:
        for lost in sorted(listing.timelines - listing.histories.keys()):
            if lost > timeline:
                yield (
                    f"WAL of timeline {lost} is archived and its history file is not: nothing of it will be there; "
                    "pgproof wal check NAME --repair brings the file while a server still has it"
                )
    if not _has_history(history, listing):
        yield (
            f"the history file of timeline {timeline} is not in the archive, so that recovery follows the backup's own "
            "timeline; pgproof wal check NAME --repair brings it back while a server still has it"
        )
    if request.standby and highest > timeline:
        yield (
            f"the standby follows timeline {timeline} and no failover, because for PostgreSQL timeline {highest} in "
            "the archive is the latest one; restore it again after the next failover"
        )


def _choose_future(
    request: RestoreRequest,
    catalog: Catalog,
    listing: WalListing,
    reader_of: Callable[[int], WalReader],
    source: Callable[[], int | None],
) -> Choice:
    """The timeline that was asked for, else the one on which life went on.

    Raises:
        InvalidTarget: it is not in the archive, or its history alone.
        NoBackup: there is none on any.
    """
    wanted = request.target.timeline
    if wanted is None:
        entries = [catalog.entry(request.label)] if request.label else list(catalog.entries)
        return choose_future(entries, listing, reader_of, source)
    backed_up = {entry.record.timeline for entry in catalog.entries}
    known = listing.timelines | backed_up
    if wanted not in known:
        raise InvalidTarget(
            f"timeline {wanted} is not in the archive", f"Archived are timelines {sorted(known)}."
        )
    history = history_of(wanted, listing.histories)
    if history.forks and wanted not in listing.written | backed_up:
        fork = history.forks[-1]
        raise InvalidTarget(
            f"timeline {wanted} has nothing in the archive but its history file",
            f"It left timeline {fork.timeline} at LSN {fork.lsn}; with no WAL of its own, PostgreSQL would replay what "
            f"timeline {fork.timeline} went on with.",
            f"--target-timeline {fork.timeline} --target-lsn {fork.lsn} --exclusive is all that it began with",
        )
    return Choice(history)


def _choose_and_read(
    request: RestoreRequest,
    catalog: Catalog,
    history: TimelineHistory,
    on_path: Sequence[BackupEntry],
    listing: WalListing,
    located: Located,
    read: Read,
) -> tuple[_Choice, Reading | None]:
    """The backup, and what its WAL says; one whose recovery would end at a break is passed over, or refused."""
    while True:
        choice = _choose(request, catalog, history, on_path, listing, located)
        record, reading = choice[0].record, read(choice[0].record, choice[1])
        reach = record.stop_lsn if request.target.kind == "immediate" else located.lsn
        met = first_crossed(reading.breaks, history, record.start_lsn, reach) if reading else None
        if met is None:
            return choice, reading
        listing = replace(listing, breaks=(*listing.breaks, met))


def _choose(
    request: RestoreRequest,
    catalog: Catalog,
    history: TimelineHistory,
    on_path: Sequence[BackupEntry],
    listing: WalListing,
    located: Located,
) -> _Choice:
    """The backup: one that was named, else the newest proven one before the target, else the newest.

    Returns:
        it, the WAL that recovery reads, why it was chosen, and what was passed over for which fault.
    """
    target = request.target
    if request.label is not None:
        candidates = [(catalog.entry(request.label), "named by --backup")]
    else:
        before = [e for e in reversed(on_path) if target.kind == "immediate" or _precedes(e, target, located)]
        candidates = [(e, "the newest proven one before the target") for e in before if e.state == "proven"]
        unproven = [e for e in before if e.state in ("verified", "complete")]
        candidates += [(e, "the newest one before the target") for e in unproven]
        candidates += [
            (e, f"the only kind left: its {e.failed_what} failed") for e in before if e.state == "failed"
        ]
    received = received_on(listing, history)
    faults: list[str] = []
    first: WalGap | NoBackup | None = None
    for entry, reason in candidates:
        record = entry.record
        if not history.contains(record.timeline, record.stop_lsn) or not (
            target.kind == "immediate" or _precedes(entry, target, located)
        ):
            raise outside(target, record, f"Backup {record.label} ended at LSN {record.stop_lsn}.")
        reach = record.stop_lsn if target.kind == "immediate" else max(located.lsn, record.stop_lsn)
        try:
            catalog.chain(record.label)  # what it builds on must be there, too
            wanted = runs_between(history, record.first_segment, reach)
            part = received if received and reach <= received.end else None
            purpose = f"from backup {record.label} to {target}"
            segments = require(listing, wanted, purpose, part)
            require_unbroken(listing.breaks, history, record.start_lsn, reach, purpose)
        except (WalGap, NoBackup) as error:
            faults.append(f"backup {record.label} was passed over: {error.fact}")
            first = first or error.with_traceback(None)  # its frames hold all that was looked at
            continue
        return entry, segments, reason, tuple(faults)
    if first is not None:  # of the one that would have been taken
        raise first
    raise outside(target, on_path[0].record, "")


def _precedes(entry: BackupEntry, target: RecoveryTarget, located: Located) -> bool:
    if target.kind == "time" and entry.record.reachable_from > target.time:
        return False
    return entry.record.stop_lsn <= located.lsn
