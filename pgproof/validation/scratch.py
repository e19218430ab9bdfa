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
from pgproof.postgres.rights import acting_as
from pgproof.repository.repository import Archive
from pgproof.restore.execute import make_startable, place_files
from pgproof.restore.plan import RestorePlan
from pgproof.restore.visibility import leave_out_maps
from pgproof.restore.whole_file import replace_file
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
    make_claimed(scratch.root, owner)
    require_room(scratch, plan.room + sum(segment.size for segment in plan.segments))
    for record in plan.chain:
        check_present(archive, record)
    phases: dict[str, float] = {}
    clock = time.monotonic()
    combined = place_files(plan, archive, bin_directory, owner=owner, workers=workers, progress=progress)
    with acting_as(owner):
        make_startable(scratch.data, sync=False)
    clock = _phase(phases, "extract", clock)
    if combined.seconds:
        phases["extract"] = round(phases["extract"] - combined.seconds, 3)
        phases["combine"] = round(combined.seconds, 3)
    warnings = verify_files(bin_directory, scratch.data, owner)
    with acting_as(owner):
        leave_out_maps(len(plan.chain), scratch.data, plan.tablespaces.values())
    clock = _phase(phases, "verify", clock)
    try:
        fetch_all(archive, plan.segments, scratch.wal, max(4, workers))
        fetch_histories(archive, plan.history.path, scratch.wal)
    except WrongSystem as error:  # of the archive's content, as no server was asked
        raise ObjectDamaged(error.fact, error.detail, error.hint) from error
    later = contain_wal(scratch, owner)
    lend(scratch.wal, owner)
    _phase(phases, "fetch", clock)
    isolate(scratch, owner)
    return Prepared(phases, (*combined.warnings, *warnings, *later))


def contain_wal(scratch: Scratch, owner: pwd.struct_passwd | None) -> tuple[str, ...]:
    """Have the copy keep what its WAL creates to itself: replayed, it would use the source's own directories.

    Returns:
        what whoever restores the backup should know of tablespaces that it does not have.
    """
    records = contain_directory(scratch.wal)
    with acting_as(owner):  # recovery reads this one where restore_command has nothing
        records += contain_directory(scratch.data / "pg_wal")
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
    with acting_as(owner):
        replace_file(
            scratch.data / "postgresql.auto.conf", b"# emptied: a scratch cluster keeps no settings\n", owner
        )
        (scratch.data / "standby.signal").unlink(missing_ok=True)
        replace_file(scratch.data / "recovery.signal", b"", owner)
    files = {"postgresql.conf": "", "pg_hba.conf": "local all all trust\n", "pg_ident.conf": ""}
    for name, content in files.items():  # in a directory that is ours alone
        path = scratch.root / name
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w") as file:
            file.write(content)
        own(path, owner)


def _phase(phases: dict[str, float], name: str, since: float) -> float:
    now = time.monotonic()
    phases[name] = round(now - since, 3)
    return now


def own(path: Path, owner: pwd.struct_passwd | None) -> None:
    """Give a file in a directory of ours to the server's account."""
    if owner is not None:
        os.lchown(path, owner.pw_uid, owner.pw_gid)


def lend(directory: Path, owner: pwd.struct_passwd | None) -> None:
    """Let the server's account read the files in a directory that stays ours, so that it exchanges nothing there."""
    if owner is None:
        return
    directory.chmod(0o755)
    for path in directory.iterdir():
        own(path, owner)
