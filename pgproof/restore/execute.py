"""Execute a restore plan: a numbered procedure whose last step makes the directory startable.

1. Make the directories, and look again that they are empty.
2. Extract every backup of the chain (pg_control aside); combine them when there are several, and leave their
   visibility maps out. Link the tablespaces that recovery will create to the places that were chosen for them.
3. Write the source's configuration that the backup has from outside its data directory, the settings of recovery and
   isolation, the restore record, and the signal file.
4. Sync the file systems.
5. Move pg_control into place, and sync its directory.

A restore that dies before step 5 leaves a directory that PostgreSQL refuses to start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import DestinationRefused, NoRoom, ObjectDamaged, ObjectMissing, RecoveryFailed
from pgproof.postgres.programs import run, warnings_of
from pgproof.postgres.rights import acting_as, make_directory
from pgproof.repository.posix import sync_directory
from pgproof.repository.repository import Archive
from pgproof.restore.configuration import place_configuration
from pgproof.restore.destination import entries_besides
from pgproof.restore.extract import (
    CONTROL,
    CONTROL_ASIDE,
    extract_backup,
    linked_tablespaces,
    tablespace_map,
)
from pgproof.restore.isolation import isolation, recovery_defaults
from pgproof.restore.locate import WalReader
from pgproof.restore.minima import backed_up
from pgproof.restore.plan import RestorePlan
from pgproof.restore.reading import Reading, read_wal
from pgproof.restore.record import NOWHERE, Site, record_of
from pgproof.restore.settings import recovery_settings, write_settings
from pgproof.restore.tablespaces import place_tablespaces
from pgproof.restore.visibility import leave_out_maps
from pgproof.wal.breaks import first_crossed
from pgproof.wal.parameters import widest

Progress = Callable[[int], None]
_STAGING = ".pgproof-chain"
_FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Combined:
    """How a chain became one cluster: the seconds that took, and what pg_combinebackup warned of."""

    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def execute(
    plan: RestorePlan,
    archive: Archive,
    bin_directory: Path | None,
    restore_command: str,
    *,
    owner: pwd.struct_passwd | None = None,
    workers: int = 2,
    preload: Sequence[str] = (),
    site: Site = NOWHERE,
    progress: Progress = lambda size: None,
    phases: dict[str, float] | None = None,
) -> tuple[str, ...]:
    """Restore as planned; the server is then started by whoever asked.

    Args:
        plan: from plan_restore.
        archive: to read from.
        bin_directory: with pg_combinebackup; needed for an incremental backup only.
        restore_command: for postgresql.auto.conf.
        owner: account that will own the files when we are root.
        workers: volumes at a time.
        preload: libraries that recovery itself needs.
        site: where this happens, for the restore record.
        progress: told the raw bytes that are done.
        phases: gains the seconds of ``extract``, and of ``combine`` where backups were combined.

    Returns:
        what PostgreSQL's programs warned of, what WAL said that the plan had not read, and what of the source's
        configuration is missing.
    """
    data, began = plan.request.destination, time.monotonic()
    with _read_meanwhile(plan, archive, bin_directory) as reading:
        combined = place_files(plan, archive, bin_directory, owner=owner, workers=workers, progress=progress)
        had = backed_up(bin_directory, data) if bin_directory else {}
        read = reading()
    minima = widest(had, read.raised) if bin_directory else {}
    _link_later(plan, owner)
    settings = {name: str(value) for name, value in minima.items()}
    settings |= _never_the_sources(plan, preload) | _recovery(plan, restore_command)
    placed = place_configuration(plan, archive, owner)
    with acting_as(owner):
        leave_out_maps(len(plan.chain), data, plan.tablespaces.values())
        replaced = write_settings(data, settings)
        record_of(plan, settings, replaced, site, bin_directory, placed.taken).write(data, owner)
        # a backup that was taken from a standby has it, and it would win
        (data / "standby.signal").unlink(missing_ok=True)
        (data / ("standby.signal" if plan.request.standby else "recovery.signal")).touch(mode=0o600)
    for directory in (data, *plan.tablespaces.values(), *plan.places.chosen):
        _sync_file_system(directory)
    with acting_as(owner):
        make_startable(data)
    if phases is not None:
        phases["extract"] = time.monotonic() - began - combined.seconds
        phases |= {"combine": combined.seconds} if combined.seconds else {}
    return (*combined.warnings, *placed.warnings, *_found_late(plan, read))


@contextlib.contextmanager
def _read_meanwhile(
    plan: RestorePlan, archive: Archive, bin_directory: Path | None
) -> Iterator[Callable[[], Reading]]:
    """Have the WAL of a recovery read for the time of a block, where the plan has not read it.

    Yields:
        what waits for the end, and says what was found; what cannot be read raises nothing, as recovery says more.
    """
    if plan.reading is not None:
        known = plan.reading
        yield lambda: known
        return
    ended = threading.Event()
    reader = WalReader(archive, bin_directory) if bin_directory else None

    def read() -> Reading:
        try:
            return read_wal(archive, plan.segments, reader, 1, ended=ended.is_set)
        except (ObjectDamaged, ObjectMissing):
            return Reading()

    with ThreadPoolExecutor(1, "wal") as pool:
        try:
            yield pool.submit(read).result
        finally:
            ended.set()


def _found_late(plan: RestorePlan, read: Reading) -> list[str]:
    """What the plan did not know of WAL that was read only now."""
    if plan.reading is not None:
        return []
    request, record = plan.request, plan.record
    met = first_crossed(read.breaks, plan.history, record.start_lsn, plan.reach)
    later = place_tablespaces(record, read.tablespaces, plan.places.until, request.destination, {}).later
    return [*map(str, later), *([str(met)] if met else [])]


def _recovery(plan: RestorePlan, restore_command: str) -> dict[str, str]:
    """The settings of this one recovery, whose target comes last."""
    request = plan.request
    settings = recovery_settings(
        request.target,
        plan.history.timeline,
        restore_command,
        request.target_action,
        standby=request.standby,
    )
    settings["recovery_target_timeline"] = plan.target_timeline
    return settings


def _never_the_sources(plan: RestorePlan, preload: Sequence[str]) -> dict[str, str]:
    """What the restored cluster does not take over from its source."""
    settings = recovery_defaults(plan.record.major)
    if plan.request.isolated:
        settings |= isolation(plan.record.major, preload)
    return settings


def place_files(
    plan: RestorePlan,
    archive: Archive,
    bin_directory: Path | None,
    *,
    owner: pwd.struct_passwd | None = None,
    workers: int = 2,
    progress: Progress = lambda size: None,
) -> Combined:
    """Steps 1 and 2: the files of the backup as its manifest has them, with pg_control still aside."""
    data = plan.request.destination
    _make_directories((data, *plan.tablespaces.values()), owner)
    if len(plan.chain) == 1:
        extract_backup(
            archive, plan.record, data, plan.tablespaces, owner=owner, workers=workers, progress=progress
        )
        return Combined()
    return _combine(plan, archive, bin_directory, owner, workers, progress)


def _link_later(plan: RestorePlan, owner: pwd.struct_passwd | None) -> None:
    """Make the places that were chosen for tablespaces which recovery creates; it uses the link that it finds."""
    _make_directories(plan.places.chosen, owner)
    for later in plan.places.later:
        if later.chosen:
            link = plan.request.destination / "pg_tblspc" / str(later.oid)
            with acting_as(owner):
                link.symlink_to(later.place)


def make_startable(data: Path, *, sync: bool = True) -> None:
    """Step 5: pg_control goes into place last."""
    os.rename(data / CONTROL_ASIDE, data / CONTROL)
    if sync:
        for directory in (data / "global", data, data.parent):
            with contextlib.suppress(PermissionError):  # the parent may be somebody else's
                sync_directory(directory)


def _combine(
    plan: RestorePlan,
    archive: Archive,
    bin_directory: Path | None,
    owner: pwd.struct_passwd | None,
    workers: int,
    progress: Progress,
) -> Combined:
    """Extract each backup of a chain, and combine them.

    All of it happens in a directory inside the destination: on its file system, which has the room, and where
    the pg_control that pg_combinebackup writes makes nothing startable. A tablespace is combined in a directory inside
    its own: pg_combinebackup wants an empty one, and another directory of the restore may lie in it.
    """
    assert bin_directory is not None
    data = plan.request.destination
    staging = data / _STAGING
    combined = staging / "combined"
    _make_directories((staging,), owner)
    try:
        parts, mappings = [], []
        for record in plan.chain:
            part = staging / record.label / "data"
            spaces = {t.oid: staging / record.label / str(t.oid) for t in record.tablespaces}
            _make_directories((part, *spaces.values()), owner)
            extract_backup(archive, record, part, spaces, owner=owner, workers=workers, progress=progress)
            with acting_as(owner):
                os.rename(part / CONTROL_ASIDE, part / CONTROL)
            parts.append(part)
        # the last backup's links say where a tablespace lies now; the mapping says where it goes
        last = plan.chain[-1]
        for oid, path in plan.tablespaces.items():
            old, new = (
                str(part).replace("=", "\\=") for part in (staging / last.label / str(oid), path / _STAGING)
            )
            mappings.append(f"--tablespace-mapping={old}={new}")
        command: list[str | Path] = [
            bin_directory / "pg_combinebackup",
            *parts,
            "-o",
            combined,
            "--no-sync",
            *mappings,
        ]
        started = time.monotonic()
        done = run(command, timeout=24 * 3600, owner=owner)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-600:]
            if _FULL.search(said):
                raise NoRoom(f'no room left in "{data}"', said)
            raise RecoveryFailed("pg_combinebackup failed", said)
        with acting_as(owner):
            _put_in_place(combined, data, plan.tablespaces)
        return Combined(time.monotonic() - started, warnings_of(done))
    finally:
        with acting_as(owner):
            for directory in (data, *plan.tablespaces.values()):
                shutil.rmtree(directory / _STAGING, ignore_errors=True)


def _put_in_place(combined: Path, data: Path, tablespaces: Mapping[int, Path]) -> None:
    os.rename(combined / CONTROL, combined / CONTROL_ASIDE)
    for oid in tablespaces.keys() - linked_tablespaces(data, tablespaces).keys():
        (combined / "pg_tblspc" / str(oid)).unlink()  # it lies in place
    for made, place in ((combined, data), *((path / _STAGING, path) for path in tablespaces.values())):
        _move(made, place)
    _rewrite_links(data, tablespaces)


def _move(source: Path, destination: Path) -> None:
    """Move what a directory holds into another one; a tablespace in the data directory has its directory in both."""
    for path in source.iterdir():
        there = destination / path.name
        if path.is_dir() and not path.is_symlink() and there.is_dir():
            _move(path, there)
        else:
            os.rename(path, there)
    source.rmdir()


def _rewrite_links(data: Path, tablespaces: Mapping[int, Path]) -> None:
    """The combined backup keeps the last tablespace_map, which still names the staging directories."""
    if not tablespaces:
        return
    linked = linked_tablespaces(data, tablespaces)
    (data / "tablespace_map").write_bytes(os.fsencode(tablespace_map(linked)))
    for oid, path in linked.items():
        link = data / "pg_tblspc" / str(oid)
        if not link.is_symlink() or Path(os.readlink(link)) != path:
            link.unlink(missing_ok=True)
            link.symlink_to(path)


def _make_directories(directories: Sequence[Path], owner: pwd.struct_passwd | None) -> None:
    """Make directories, an outer one before one inside it."""
    for directory in sorted(directories, key=lambda path: len(path.parts)):
        _make_empty(directory, directories, owner)


def _make_empty(directory: Path, directories: Sequence[Path], owner: pwd.struct_passwd | None) -> None:
    try:
        if directory.is_dir() and entries_besides(directory, directories):
            raise DestinationRefused(
                f'cannot restore into "{directory}"', "It is not empty any more.", "name a new directory"
            )
        make_directory(directory, owner)
    except OSError as error:
        raise DestinationRefused(f'cannot make "{directory}"', f"{error.strerror}.") from error


def _sync_file_system(directory: Path) -> None:
    """Everything of the file system reaches the disk (syncfs(2), as ``initdb --sync-method=syncfs``)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) != 0:
            raise DestinationRefused(f'cannot sync "{directory}"', f"{os.strerror(ctypes.get_errno())}.")
    finally:
        os.close(descriptor)
