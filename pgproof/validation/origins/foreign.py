"""A foreign drill proves a backup that another tool took: restored by that tool, then compared as our own are.

1. The tool restores the backup into the scratch directory, with its own programs and configuration.
2. The copy is looked at: whose cluster it is, where it starts, that nothing in it leads out of the scratch directory,
   and its files against the backup manifest where there is one. The tool's recovery settings are taken away.
3. The source is fenced. The fence's WAL is read from the tool's archive; it comes after the restore, because
   pgBackRest gives out WAL only for a data directory.
4. All WAL up to the fence's end is fetched from the tool's archive.

From there on it is the drill of one of our own backups.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pgproof import __version__
from pgproof.config import ClusterConfig
from pgproof.errors import DestinationRefused, NotProven, ObjectDamaged, ObjectMissing, WalGap, WrongSystem
from pgproof.held import temporary_directory
from pgproof.postgres.control import read_system_identifier
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.programs import account, find_bin_directory, lines_of
from pgproof.postgres.rights import acting_as, make_directory
from pgproof.restore.extract import tablespace_map
from pgproof.restore.whole_file import replace_file
from pgproof.timelines.history import TimelineHistory, history_of
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import SEGMENT_NAME, SegmentHeader, WalSegment, check_segment
from pgproof.validation.claim import make_claimed, remove_leftovers
from pgproof.validation.drill import Restored
from pgproof.validation.fences.fence import Fence, NotChecked
from pgproof.validation.origins.origin import ForeignBackup, Origin
from pgproof.validation.origins.stored import size_of_files
from pgproof.validation.scratch import Scratch, contain_wal, isolate, lend, own, require_room, verify_files
from pgproof.validation.speeds import rounded
from pgproof.wal.archive import segments_between

# Written anew by a tool's restore; the copy uses none of them
_REWRITTEN = (
    "tablespace_map",
    "postgresql.conf",
    "postgresql.conf.origin",
    "postgresql.auto.conf",
    "postgresql.auto.conf.origin",
    "recovery.signal",
    "standby.signal",
    ".barman-recover.info",
)
_START = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]{24})\)$", re.MULTILINE)
_INCREMENTAL = re.compile(r"^INCREMENTAL FROM LSN: ", re.MULTILINE)


@dataclass(frozen=True)
class ForeignCopy:
    """A backup of another tool, restored into a scratch directory.

    Args:
        scratch: where.
        backup: as its tool lists it.
        first: the WAL segment that recovery starts in.
        size: bytes of its files.
        phases: seconds so far.
        not_checked: what could not be checked of the files.
        warnings: of the programs that restored and checked them.
    """

    scratch: Scratch
    backup: ForeignBackup
    first: WalSegment
    size: int
    phases: dict[str, float] = field(default_factory=dict)
    not_checked: tuple[NotChecked, ...] = ()
    warnings: tuple[str, ...] = ()


class ForeignWal:
    """The WAL of another tool's archive, each segment checked when it comes out."""

    interval = 0.5  # each question runs a program

    def __init__(
        self, origin: Origin, data: Path, system_identifier: int, owner: pwd.struct_passwd | None
    ) -> None:
        self._origin, self._data, self._system, self._owner = origin, data, system_identifier, owner

    def has(self, name: str) -> bool:
        with temporary_directory("wal") as directory:
            try:
                self.fetch(name, directory / name)
            except ObjectMissing:
                return False
            return True

    def fetch(self, name: str, destination: Path) -> object:
        """Write a WAL file to a path.

        Raises:
            ObjectMissing, ToolFailed: from the tool.
            ObjectDamaged: it is no such segment.
            WrongSystem: it is another cluster's.
        """
        with temporary_directory("wal", owner=self._owner) as directory:
            fetched = directory / name
            self._origin.fetch(name, fetched, self._data)
            if SEGMENT_NAME.fullmatch(name):
                check_file(fetched, name, self._system, self._origin.title)
            shutil.copyfile(fetched, destination)
        own(destination, self._owner)
        return destination


def check_file(path: Path, name: str, system_identifier: int, where: str) -> None:
    """Refuse a file that is not the WAL segment of this name and cluster.

    Raises:
        ObjectDamaged, WrongSystem: it is another.
    """
    with open(path, "rb") as file:
        header = SegmentHeader.parse(file.read(64), name)
    if header.system_identifier != system_identifier:
        raise WrongSystem(
            f'WAL file "{name}" of {where} belongs to another cluster',
            f"Its system identifier is {header.system_identifier}; the server's is {system_identifier}.",
        )
    check_segment(name, header, path.stat().st_size)


def restore_foreign(
    cluster: ClusterConfig,
    origin: Origin,
    backup: ForeignBackup,
    facts: ServerFacts,
    clock: Callable[[], datetime],
) -> ForeignCopy:
    """Steps 1 and 2.

    Args:
        cluster: its drill settings.
        origin: of the backup.
        backup: one that the origin lists.
        facts: of the source.
        clock: the time, aware, for the name of the scratch directory.

    Raises:
        WrongSystem: the backup is of another cluster.
        ObjectDamaged: it cannot be what was backed up.
        ToolFailed, ProgramMissing: the tool could not restore it.
        NoRoom: the files would not fit.
        DestinationRefused: a link in the copy leads out of the scratch directory.
    """
    if backup.system_identifier is not None:
        _check_system(origin, backup, backup.system_identifier, facts)
    owner = account(cluster.drill.run_as)
    directory = cluster.scratch
    remove_leftovers(directory)
    scratch = Scratch(directory / f"{cluster.name}-{clock().astimezone(UTC):%Y%m%dT%H%M%S%fZ}")
    make_claimed(scratch.root, owner)
    try:
        for made in (scratch.data, scratch.tablespaces):
            make_directory(made, owner)
        scratch.wal.mkdir()
        lend(scratch.wal, owner)
        require_room(scratch, backup.size or 0)
        started = time.monotonic()
        said = origin.restore(backup, scratch.data, scratch.tablespaces)
        placed = time.monotonic()
        first = _look(origin, backup, scratch, facts)
        contain(scratch, owner)
        not_checked, warnings = _verify(
            origin, backup, scratch, find_bin_directory(facts.major, cluster.bin_directory), owner
        )
        isolate(scratch, owner)
        phases = {"extract": placed - started, "verify": time.monotonic() - placed}
        size = size_of_files(scratch.data) + size_of_files(scratch.tablespaces)
        return ForeignCopy(scratch, backup, first, size, rounded(phases), not_checked, (*said, *warnings))
    except BaseException:
        scratch.remove()
        raise


def _check_system(origin: Origin, backup: ForeignBackup, found: int, facts: ServerFacts) -> None:
    if found != facts.system_identifier:
        raise WrongSystem(
            f'backup "{backup.label}" of {origin.title} belongs to another cluster',
            f"Its system identifier is {found}; the server's is {facts.system_identifier}.",
            f"name the right one in the section of {origin.kind} in pgproof.toml",
        )


def _look(origin: Origin, backup: ForeignBackup, scratch: Scratch, facts: ServerFacts) -> WalSegment:
    """Where recovery of the restored files starts: what backup_label says (``read_backup_label``)."""
    what = f'backup "{backup.label}" of {origin.title}'
    try:
        _check_system(origin, backup, read_system_identifier(scratch.data), facts)
        text = (scratch.data / "backup_label").read_bytes().decode(errors="replace")
    except (OSError, DestinationRefused) as error:
        reason = error.detail if isinstance(error, DestinationRefused) else f"backup_label: {error.strerror}."
        raise ObjectDamaged(f"{what} is no base backup", reason) from error
    if _INCREMENTAL.search(text):
        raise ObjectDamaged(
            f"{what} is incremental",
            "Its files alone are no data directory.",
            "combine it with those it builds on: pg_combinebackup FULL INCREMENTAL -o DIRECTORY",
        )
    match = _START.search(text)
    if match is None:
        raise ObjectDamaged(f"{what} has a backup_label that cannot be read", f"It says: {text[:200]!r}.")
    segment = WalSegment.parse(match[2], facts.segment_size)
    return WalSegment.containing(segment.timeline, LSN.parse(match[1]), facts.segment_size)


def contain(scratch: Scratch, owner: pwd.struct_passwd | None) -> None:
    """Make sure that nothing in a copy leads out of the scratch directory, now or when recovery starts.

    Recovery makes the links of tablespace_map anew, wherever it points (``read_tablespace_map``): it is written
    for the tablespaces as they lie here.

    Raises:
        DestinationRefused: a link leads elsewhere, or a tablespace was not restored here.
    """
    root = scratch.root.resolve()
    for directory, names, files in os.walk(scratch.root):
        for path in (Path(directory) / name for name in (*names, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DestinationRefused(
                    f'the restored copy reaches out of "{scratch.root}"',
                    f'"{path.relative_to(scratch.root)}" leads to "{os.readlink(path)}".',
                )
    links = scratch.data / "pg_tblspc"
    found = (
        {int(link.name): link.resolve() for link in links.iterdir() if link.is_symlink()}
        if links.is_dir()
        else {}
    )
    written = scratch.data / "tablespace_map"
    if written.exists():
        named = {
            int(line.split(" ", 1)[0])
            for line in lines_of(written.read_bytes().decode(errors="replace"))
            if line[:1].isdigit()
        }
        if lost := sorted(named - set(found)):
            raise DestinationRefused(
                f"tablespace {lost[0]} was not restored into the scratch directory",
                "Recovery would look for it where the source has it.",
            )
        replace_file(written, os.fsencode(tablespace_map(found)), owner)
    with acting_as(owner):
        for name in ("postmaster.pid", "postmaster.opts"):
            (scratch.data / name).unlink(missing_ok=True)


def _verify(
    origin: Origin,
    backup: ForeignBackup,
    scratch: Scratch,
    bin_directory: Path,
    owner: pwd.struct_passwd | None,
) -> tuple[tuple[NotChecked, ...], tuple[str, ...]]:
    """Check the files against the backup manifest, where the tool kept it; Barman gives it another name.

    Returns:
        what could not be checked, and what pg_verifybackup warned of.
    """
    manifest = scratch.data / "backup_manifest"
    with contextlib.suppress(FileNotFoundError), acting_as(owner):
        os.rename(scratch.data / f"backup_manifest.{backup.label}", manifest)
    if not manifest.exists():
        reason = f"{origin.kind} kept no backup manifest"
        return (NotChecked("every database", "files that no table reads", reason),), ()
    return (), verify_files(bin_directory, scratch.data, owner, _REWRITTEN)


def unfenced(cluster: ClusterConfig, facts: ServerFacts, clock: Callable[[], datetime]) -> Fence:
    """What stands for the fence in the proof of a backup that could not even be restored: nothing was counted."""
    return Fence(
        identifier="",
        cluster=cluster.name,
        system_identifier=facts.system_identifier,
        at=clock().astimezone(UTC),
        timeline=facts.timeline,
        server_version=facts.version,
        segment_size=facts.segment_size,
        end_lsn=LSN(0),
        bootstrap_role="",
        databases=(),
        software={"pgproof": __version__, "postgresql": facts.version_text},
    )


def fetch_foreign_wal(cluster: ClusterConfig, origin: Origin, copy: ForeignCopy, fence: Fence) -> Restored:
    """Step 4: all WAL from the backup's start to the fence's end, into the scratch directory.

    What the tool's archive lacks is taken from the backup itself where it is there: pg_basebackup puts the WAL that
    makes a backup consistent into its pg_wal.

    Raises:
        NotProven: the fence has no exact cut.
        WalGap: WAL is missing.
        ObjectDamaged, WrongSystem: a segment is not what its name says.
        NoRoom: it would not fit.
    """
    if not fence.exact:
        raise NotProven(f'fence "{fence.identifier}" has no exact cut', fence.why_not_exact)
    started = time.monotonic()
    owner = account(cluster.drill.run_as)
    wal = ForeignWal(origin, copy.scratch.data, fence.system_identifier, owner)
    history = _fetch_histories(wal, fence.timeline, copy.scratch.wal)
    segments = list(segments_between(history, copy.first, fence.end_lsn))
    require_room(copy.scratch, len(segments) * fence.segment_size)

    def one(segment: WalSegment) -> bool:
        destination = copy.scratch.wal / segment.name
        try:
            wal.fetch(segment.name, destination)
            return True
        except ObjectMissing:
            return _take_own(copy, segment, fence.system_identifier, destination, origin, owner)

    with ThreadPoolExecutor(max_workers=max(2, cluster.backup.workers), thread_name_prefix="fetch") as pool:
        there = list(pool.map(one, segments))
    missing = [segment for segment, found in zip(segments, there, strict=True) if not found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WalGap(
            f'WAL segment "{missing[0]}"{more} is missing from the archive of {origin.title}',
            f"It holds LSN {missing[0].start} to {missing[0].end}, needed from backup {copy.backup.label} to lsn "
            f"{fence.end_lsn}.",
            f"every recovery across it ends there: copy it from the source's pg_wal into {origin.kind}, "
            "or take a new backup",
        )
    later = contain_wal(copy.scratch, owner)
    phases = {**copy.phases, "fetch": round(time.monotonic() - started, 3)}
    names = (segments[0].name, segments[-1].name, len(segments))
    return Restored(
        copy.scratch,
        copy.backup.label,
        fence.timeline,
        names,
        copy.size,
        phases,
        copy.not_checked,
        (*copy.warnings, *later),
    )


def _take_own(
    copy: ForeignCopy,
    segment: WalSegment,
    system_identifier: int,
    destination: Path,
    origin: Origin,
    owner: pwd.struct_passwd | None,
) -> bool:
    path = copy.scratch.data / "pg_wal" / segment.name
    if not path.is_file():
        return False
    check_file(path, segment.name, system_identifier, origin.title)
    shutil.copyfile(path, destination)
    own(destination, owner)
    return True


def _fetch_histories(wal: ForeignWal, timeline: int, directory: Path) -> TimelineHistory:
    """The history of the source's timeline, with the history files of all its ancestors that have one.

    Raises:
        WalGap: one is missing.
    """
    histories: dict[int, TimelineHistory] = {}
    wanted = [timeline]
    while wanted:
        current = wanted.pop()
        if current == 1 or current in histories:
            continue
        name = f"{current:08X}.history"
        try:
            wal.fetch(name, directory / name)
        except ObjectMissing as error:
            raise WalGap(
                f'history file "{name}" is missing from the archive',
                f"{error.fact}.",
                "copy it from the source's pg_wal",
            ) from error
        histories[current] = TimelineHistory.parse(
            current, (directory / name).read_bytes().decode(errors="replace")
        )
        wanted += histories[current].path
    return history_of(timeline, histories)
