"""WAL fetch: one WAL file out of the archive, in place only when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgproof.errors import (
    NoBackup,
    NoRoom,
    ObjectMissing,
    PermanentError,
    PgproofError,
    StoreUnavailable,
    WrongSystem,
)
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import SEGMENT_NAME, SegmentHeader, WalSegment, check_segment, is_archivable
from pgproof.wal.archive import find_key, part_end, part_name
from pgproof.wal.beside import ArchivedBeside
from pgproof.wal.own_tablespaces import OwnTablespaces
from pgproof.wal.planned import PlannedWal


def fetch_from(
    openers: Iterable[Callable[[], Archive]],
    name: str,
    destination: Path,
    own_tablespaces: OwnTablespaces | None = None,
    planned: PlannedWal | None = None,
    patient: Iterable[Callable[[], Archive]] = (),
) -> int:
    """Write one archived WAL file to a path, from the first repository that has it whole.

    "Not archived" may end recovery, so it is said only when every repository says so.

    Args:
        openers: open the archives, the preferred one first.
        name: of the file.
        destination: the path.
        own_tablespaces: of the cluster that replays it; None delivers what is archived, byte by byte.
        planned: what its recovery counts on.
        patient: open the same archives so that they are tried for longer, when one could not be asked: an error here
            stops recovery, and another repository may have the file at once.

    Returns:
        the size of the file in bytes.

    Raises:
        ObjectMissing: it is in none of them.
        WalGap: nor can it be the end of WAL.
        PgproofError: the first other failure.
    """
    failures: list[PgproofError] = []
    openers = list(openers)

    def contain(path: Path) -> None:
        if own_tablespaces is not None:
            segment = WalSegment.parse(name[:24], path.stat().st_size)
            own_tablespaces.contain(path, ArchivedBeside(openers, segment))

    for opened in (openers, list(patient)):
        if opened is not openers and not any(isinstance(failure, StoreUnavailable) for failure in failures):
            break
        failures = []
        for open_archive in opened:
            try:
                return fetch(open_archive(), name, destination, contain)
            except PgproofError as error:
                failures.append(error)
    fault = next((failure for failure in failures if not isinstance(failure, ObjectMissing)), None)
    if fault is None and planned is not None:
        planned.refuse_hole(name, openers)
    raise fault or failures[0]


def fetch(
    archive: Archive, name: str, destination: Path, alter: Callable[[Path], None] = lambda path: None
) -> int:
    """Write one archived WAL file to a path; a segment that is not archived whole, as far as it was received.

    A segment is checked before it appears: its codec's checksum, its header, its system identifier and its
    length. It is written to a temporary name first, because recovery takes whatever it finds.

    Args:
        archive: of the recovering cluster's system identifier.
        name: of the file, as PostgreSQL's ``%f``.
        destination: as PostgreSQL's ``%p``.
        alter: changes a segment that was checked, before it appears.

    Returns:
        the size of the file in bytes.

    Raises:
        PermanentError: no WAL file has such a name, or the destination cannot be written.
        ObjectMissing: it is not archived; the only error that PostgreSQL may take for the end of WAL.
        NoBackup: nothing at all is archived of this system identifier, so this is the wrong place to ask.
        ObjectDamaged: the archived copy is truncated or altered.
        WrongSystem: the archived copy belongs to another cluster.
    """
    if not is_archivable(name):
        raise PermanentError(
            f'"{name}" is not the name of a WAL file', hint="restore_command is 'pgproof wal fetch %f %p'"
        )
    try:
        key = find_key(archive, name)
    except ObjectMissing:
        key = _find_received(archive, name)
    temporary = destination.with_name(destination.name + ".pgproof-tmp")
    try:
        with open(temporary, "wb") as file:
            for chunk in archive.open(key):
                file.write(chunk)
            size = file.tell()
        if SEGMENT_NAME.fullmatch(name[:24]) and not name.endswith(".backup"):
            _check(archive, name, temporary, size)
            alter(temporary)
        os.replace(temporary, destination)
        return size
    except OSError as error:
        kind = NoRoom if error.errno in (28, 122) else PermanentError
        raise kind(f'cannot write WAL file "{destination}"', f"{error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _find_received(archive: Archive, name: str) -> str:
    """The key of the longest received beginning of a segment; the rest of it is zeros, where WAL ends.

    Raises:
        ObjectMissing: there is none.
        NoBackup: nothing at all is archived of this system identifier.
    """
    if SEGMENT_NAME.fullmatch(name):
        prefix = archive.layout.received_part(name, 0).rpartition("/")[0] + "/"
        keys = (info.key for info in archive.store.list(prefix))
        parts = [key for key in keys if part_name(archive.layout, key) == name]
        if parts:
            return max(parts, key=part_end)
    _check_not_empty(archive)
    raise ObjectMissing(f'WAL file "{name}" is not in the archive "{archive.store.url}"')


def _check_not_empty(archive: Archive) -> None:
    """Refuse to say "not archived", which may end recovery, for another cluster's repository or an empty one."""
    if next(iter(archive.store.list(f"{archive.layout.root}/")), None) is None:
        raise NoBackup(
            f'repository "{archive.store.url}" has nothing of cluster "{archive.layout.cluster}" '
            f"with system identifier {archive.system_identifier}",
            hint="name the right cluster with --cluster, and look at the repository's url",
        )


def fetch_all(archive: Archive, segments: Sequence[WalSegment], directory: Path, workers: int = 4) -> int:
    """Fetch many segments in parallel; files that are there already are left.

    Returns:
        bytes written.

    Raises:
        The first error of any segment, in their order.
    """
    directory.mkdir(parents=True, exist_ok=True)

    def one(segment: WalSegment) -> int:
        path = directory / segment.name
        return 0 if path.exists() else fetch(archive, segment.name, path)

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="fetch") as pool:
        return sum(pool.map(one, segments))


def fetch_histories(archive: Archive, path: Sequence[int], directory: Path) -> None:
    """Fetch the history files that a recovery along a path of timelines may ask for.

    Args:
        archive: to read from.
        path: the timelines, the one to follow last. Its own file has all of them; an ancestor's is a comfort.
        directory: to write to.

    Raises:
        ObjectMissing: that of the timeline to follow is not archived.
    """
    for timeline in path:
        name = f"{timeline:08X}.history"
        if timeline == 1:
            continue
        try:
            fetch(archive, name, directory / name)
        except ObjectMissing as error:
            if timeline == path[-1]:
                raise ObjectMissing(
                    error.fact,
                    f"Recovery along timeline {timeline} begins with it.",
                    f"pgproof wal check {archive.layout.cluster} --repair brings it from the server",
                ) from error


def _check(archive: Archive, name: str, path: Path, size: int) -> None:
    with open(path, "rb") as file:
        header = SegmentHeader.parse(file.read(64), name)
    if header.system_identifier != archive.system_identifier:
        raise WrongSystem(
            f'archived WAL file "{name}" belongs to another cluster',
            f"Its system identifier is {header.system_identifier}; "
            f"the archive's is {archive.system_identifier}.",
        )
    check_segment(name[:24], header, size)
