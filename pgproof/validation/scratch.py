"""Scratch is where a drill works: a restored copy of the data directory, with all the WAL that it may replay.

The copy has no credentials of the repository, and no setting of the source that could make it reach out.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pgproof.backups.verify import check_present
from pgproof.errors import NoRoom, NotProven, ObjectDamaged, WrongSystem
from pgproof.postgres.faults import shortage_in
from pgproof.postgres.names import shown
from pgproof.postgres.programs import run, warnings_of
from pgproof.repository.repository import Archive
from pgproof.restore.execute import make_startable, place_files
from pgproof.restore.plan import RestorePlan
from pgproof.restore.visibility import leave_out_maps
from pgproof.validation.claim import make_claimed, remove_claimed
from pgproof.validation.progress import forget
from pgproof.wal.fetch import fetch_all, fetch_histories
from pgproof.wal.own_tablespaces import DIRECTORY, OwnTablespaces
from pgproof.wal.tablespaces import contain_directory


@dataclass(frozen=True)
class Scratch:
    """Where one drill works: data directory, WAL, tablespaces, log."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def wal(self) -> Path:
        return self.root / "wal"

    @property
    def tablespaces(self) -> Path:
        return self.root / "tablespaces"

    @property
    def objects(self) -> Path:
        """What the fence says of objects, brought here for the comparison."""
        return self.root / "objects.json"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    @property
    def killed_log(self) -> Path:
        """The log of a server that was ended from outside."""
        return self.root / "killed.log"

    def remove(self) -> None:
        forget(self.root)
        remove_claimed(self.root)


@dataclass(frozen=True, slots=True)
class Prepared:
    """How the files came into place.

    Args:
        phases: seconds of ``extract``, ``combine`` (of an incremental backup), ``verify`` and ``fetch``.
        warnings: what PostgreSQL's programs warned of, though they ended well; and tablespaces that recovery creates.
    """

    phases: dict[str, float]
    warnings: tuple[str, ...]


def prepare(
    scratch: Scratch,
    plan: RestorePlan,
    archive: Archive,
    bin_directory: Path,
    owner: pwd.struct_passwd | None,
    workers: int,
    progress: Callable[[int], None] = lambda size: None,
) -> Prepared:
    """Put the backup's files and all WAL up to the cut in place.

    Args:
        scratch: a new directory is made there.
        plan: of the restore into scratch.data.
        archive: to read from.
        bin_directory: of the backup's major version.
        owner: account of the server when we are root.
        workers: objects at a time.
        progress: told the raw bytes as they are restored.

    Raises:
        ObjectDamaged: the files are not those of the backup manifest, or WAL is damaged.
        NoRoom: WAL and data would not fit.
        DestinationRefused: the directory cannot be made.
    """
    make_claimed(scratch.root)
    own(scratch.root, owner)
    require_room(scratch, plan.room + sum(segment.size for segment in plan.segments))
    for record in plan.chain:
        check_present(archive, record)
    phases: dict[str, float] = {}
    clock = time.monotonic()
    combined = place_files(plan, archive, bin_directory, owner=owner, workers=workers, progress=progress)
    make_startable(scratch.data, sync=False)
    clock = _phase(phases, "extract", clock)
    if combined.seconds:
        phases["extract"] = round(phases["extract"] - combined.seconds, 3)
        phases["combine"] = round(combined.seconds, 3)
    warnings = verify_files(bin_directory, scratch.data, owner)
    leave_out_maps(len(plan.chain), scratch.data, plan.tablespaces.values())
    clock = _phase(phases, "verify", clock)
    try:
        fetch_all(archive, plan.segments, scratch.wal, max(4, workers))
        fetch_histories(archive, plan.history.path, scratch.wal)
    except WrongSystem as error:  # of the archive's content, as no server was asked
        raise ObjectDamaged(error.fact, error.detail, error.hint) from error
    later = contain_wal(scratch, owner)
    for path in (scratch.wal, *scratch.wal.iterdir()):
        own(path, owner)
    _phase(phases, "fetch", clock)
    isolate(scratch, owner)
    return Prepared(phases, (*combined.warnings, *warnings, *later))


def contain_wal(scratch: Scratch, owner: pwd.struct_passwd | None) -> tuple[str, ...]:
    """Have the copy keep what its WAL creates to itself: replayed, it would use the source's own directories.

    Returns:
        what whoever restores the backup should know of tablespaces that it does not have.
    """
    places = (
        scratch.wal,
        scratch.data / "pg_wal",
    )  # recovery reads the latter where restore_command has nothing
    records = [record for place in places for record in contain_directory(place)]
    known = {path.name for path in (scratch.data / "pg_tblspc").iterdir()}
    OwnTablespaces(scratch.data).place(records, owner)
    later = {record.oid: record.path for record in sorted(records, key=lambda record: record.lsn)}
    return tuple(
        f'tablespace {oid} was created after the backup, in "{shown(path)}": a restored cluster has it in '
        f"{DIRECTORY}/{oid} of its own directory, unless --tablespace names another place"
        for oid, path in later.items()
        if path and str(oid) not in known
    )


def require_room(scratch: Scratch, size: int) -> None:
    """Refuse to begin what would not fit.

    Raises:
        NoRoom: fewer bytes are free.
    """
    state = os.statvfs(scratch.root)
    free = state.f_bavail * state.f_frsize
    if free < size:
        raise NoRoom(
            f'too little room in "{scratch.root.parent}"',
            f"The drill needs {size:,} bytes; {free:,} are free.",
            "set scratch_directory in the cluster's drill section",
        )


def verify_files(
    bin_directory: Path,
    data: Path,
    owner: pwd.struct_passwd | None,
    ignored: Iterable[str] = ("tablespace_map",),
) -> tuple[str, ...]:
    """Check every file against PostgreSQL's own backup manifest; what pg_verifybackup warned of.

    Args:
        bin_directory: with a pg_verifybackup of the backup's major version.
        data: the restored data directory.
        owner: account of the server when we are root.
        ignored: files that the restore wrote anew.

    Raises:
        ObjectDamaged: with what pg_verifybackup found.
        NotProven: it could not look.
    """
    command: list[str | Path] = [
        bin_directory / "pg_verifybackup",
        "-n",
        "-q",
        *(f"--ignore={name}" for name in ignored),
        data,
    ]
    done = run(command, timeout=24 * 3600, owner=owner)
    if done.returncode != 0:
        if reason := shortage_in(done.stderr):
            raise NotProven("the restored files could not be checked on this machine", f"{reason}.")
        raise ObjectDamaged(
            f'the restored files in "{data}" are not those of the backup manifest',
            (done.stderr or done.stdout).strip()[:800],
        )
    return warnings_of(done)


def isolate(scratch: Scratch, owner: pwd.struct_passwd | None) -> None:
    """Take away every setting of the source that could make the copy reach out."""
    (scratch.data / "postgresql.auto.conf").write_text("# emptied: a scratch cluster keeps no settings\n")
    (scratch.data / "standby.signal").unlink(missing_ok=True)
    (scratch.data / "recovery.signal").touch(mode=0o600)
    files = {"postgresql.conf": "", "pg_hba.conf": "local all all trust\n", "pg_ident.conf": ""}
    for name, content in files.items():
        (scratch.root / name).write_text(content)
    for path in (
        scratch.data / "postgresql.auto.conf",
        scratch.data / "recovery.signal",
        *(scratch.root / name for name in files),
    ):
        path.chmod(0o600)
        own(path, owner)


def _phase(phases: dict[str, float], name: str, since: float) -> float:
    now = time.monotonic()
    phases[name] = round(now - since, 3)
    return now


def own(path: Path, owner: pwd.struct_passwd | None) -> None:
    """Give a path to the server's account."""
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)
