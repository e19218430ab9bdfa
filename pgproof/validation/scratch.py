"""A scratch cluster: a restored copy that is read at the cut and can never reach out.

It does not archive, replicate, subscribe or run scheduled jobs, listens on no network, and has no
credentials of the repository: the WAL it may replay lies beside it. All of that is given on the server's
command line, where nothing in the restored data directory can override it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgproof.errors import NoRoom, NotProven, ObjectDamaged, RecoveryFailed
from pgproof.postgres.control import read_control
from pgproof.postgres.programs import run
from pgproof.postgres.server import LocalServer
from pgproof.postgres.versions import LOGIN_EVENT_TRIGGERS
from pgproof.repository.repository import Archive
from pgproof.restore.execute import make_startable, place_files
from pgproof.restore.plan import RestorePlan
from pgproof.restore.settings import LEAKING, recovery_settings
from pgproof.restore.target import RecoveryTarget
from pgproof.validation.claim import make_claimed, make_socket, remove_claimed
from pgproof.wal.fetch import fetch_all, fetch_histories
from pgproof.wal.lsn import LSN

_SAFE = {
    "listen_addresses": "",
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "max_logical_replication_workers": "0",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "ssl": "off",
    "hot_standby": "on",
    "autovacuum": "off",
    "max_standby_archive_delay": "-1",
    "fsync": "off",  # thrown away afterwards
    "jit": "off",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "lc_messages": "C",
}
# Given with each connection, as ALTER ROLE and ALTER DATABASE override the command line
_SAFE_SESSION = {
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "default_transaction_isolation": "read\\ committed",  # a hot standby refuses serializable
    "role": "none",
    "client_encoding": "UTF8",
    "datestyle": "ISO",  # psycopg reads times and intervals in no other
    "intervalstyle": "postgres",
}
_NOT_YET = ("the database system is", "conflict with recovery", "No such file", "refused", "timeout expired")
_AT_END = ("pausing at the end of recovery", "archive recovery complete")


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
    def log(self) -> Path:
        return self.root / "server.log"

    def remove(self) -> None:
        remove_claimed(self.root)


def prepare(
    scratch: Scratch,
    plan: RestorePlan,
    archive: Archive,
    bin_directory: Path,
    owner: pwd.struct_passwd | None,
    workers: int,
) -> dict[str, float]:
    """Put the backup's files and all WAL up to the cut in place.

    Args:
        scratch: a new directory is made there.
        plan: of the restore into scratch.data.
        archive: to read from.
        bin_directory: of the backup's major version.
        owner: account of the server when we are root.
        workers: objects at a time.

    Returns:
        seconds of the phases ``extract``, ``verify`` and ``fetch``.

    Raises:
        ObjectDamaged: the files are not those of the backup manifest, or WAL is damaged.
        NoRoom: WAL and data would not fit.
        DestinationRefused: the directory cannot be made.
    """
    make_claimed(scratch.root)
    _own(scratch.root, owner)
    wal_size = sum(segment.size for segment in plan.segments)
    state = os.statvfs(scratch.root)
    if state.f_bavail * state.f_frsize < plan.room + wal_size:
        raise NoRoom(
            f'too little room in "{scratch.root.parent}"',
            f"The drill needs {plan.room + wal_size:,} bytes; {state.f_bavail * state.f_frsize:,} are free.",
            "set scratch_directory in the cluster's drill section",
        )
    phases: dict[str, float] = {}
    clock = time.monotonic()
    place_files(plan, archive, bin_directory, owner=owner, workers=workers)
    make_startable(scratch.data, sync=False)
    clock = _phase(phases, "extract", clock)
    verify_files(bin_directory, scratch.data, owner)
    clock = _phase(phases, "verify", clock)
    fetch_all(archive, plan.segments, scratch.wal, max(4, workers))
    fetch_histories(archive, plan.history.path, scratch.wal)
    for path in (scratch.wal, *scratch.wal.iterdir()):
        _own(path, owner)
    _phase(phases, "fetch", clock)
    _isolate(scratch, owner)
    return phases


def verify_files(bin_directory: Path, data: Path, owner: pwd.struct_passwd | None) -> None:
    """Check every file against PostgreSQL's own backup manifest.

    Raises:
        ObjectDamaged: with what pg_verifybackup found.
    """
    command: list[str | Path] = [
        bin_directory / "pg_verifybackup",
        "-n",
        "-q",
        "--ignore=tablespace_map",
        data,
    ]
    done = run(command, timeout=24 * 3600, owner=owner)
    if done.returncode != 0:
        raise ObjectDamaged(
            f'the restored files in "{data}" are not those of the backup manifest',
            (done.stderr or done.stdout).strip()[:800],
        )


def _isolate(scratch: Scratch, owner: pwd.struct_passwd | None) -> None:
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
        _own(path, owner)


@contextlib.contextmanager
def recovered(
    scratch: Scratch,
    bin_directory: Path,
    cut: LSN,
    timeline: int,
    role: str,
    owner: pwd.struct_passwd | None,
    timeout: float,
    *,
    last: bool = True,
) -> Iterator[str]:
    """The scratch server, recovered to just before the cut and held there, for the time of a block.

    Args:
        scratch: prepared.
        bin_directory: of the cluster's major version.
        cut: the first record that is not replayed.
        timeline: to follow.
        role: that can read everything.
        owner: account of the server when we are root.
        timeout: seconds for the replay.
        last: no later cut is wanted, so that the server may end its recovery at this one.

    Yields:
        the connection string, without a database.

    Raises:
        RecoveryFailed: the server ended, or stopped elsewhere than at the cut.
        NotProven: it cannot be held at a cut that is not the last.
    """
    socket = make_socket(scratch.root)
    server = LocalServer(
        bin_directory,
        scratch.data,
        socket,
        scratch.log,
        _settings(scratch, bin_directory, cut, timeline),
        owner,
    )
    try:
        dsn = make_conninfo(server.dsn, user=role, options=_options(scratch))
        said = scratch.log.stat().st_size if scratch.log.exists() else 0
        server.start()
        server.wait(lambda: _arrived(dsn, scratch.log, said), timeout, "to reach the cut")
        _check_position(dsn, cut, last)
        yield dsn
    finally:
        # a paused startup process sleeps up to a second before it ends; what is thrown away need not wait
        server.stop("immediate" if last else "fast")
        shutil.rmtree(socket, ignore_errors=True)


def _options(scratch: Scratch) -> str:
    """The settings of every connection to the copy, as libpq's ``options``."""
    settings = dict(_SAFE_SESSION)
    if int((scratch.data / "PG_VERSION").read_text()) >= LOGIN_EVENT_TRIGGERS:
        settings["event_triggers"] = "off"
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _settings(scratch: Scratch, bin_directory: Path, cut: LSN, timeline: int) -> dict[str, str]:
    wal = str(scratch.wal).replace("%", "%%")
    target = RecoveryTarget("lsn", str(cut), exclusive=True)
    recovery = recovery_settings(target, timeline, f'cp "{wal}/%f" "%p"', "pause")
    control = read_control(bin_directory, scratch.data)
    files = {
        "config_file": str(scratch.root / "postgresql.conf"),
        "hba_file": str(scratch.root / "pg_hba.conf"),
        "ident_file": str(scratch.root / "pg_ident.conf"),
    }
    minima = {name: str(value) for name, value in control.minima.items()}
    unset = {name: "" for name in LEAKING if name not in ("promote_trigger_file",)}
    for name in ("recovery_target_inclusive", "recovery_target_timeline", "recovery_target_action"):
        unset.pop(name)
    return {**files, **_SAFE, **minima, **unset, **recovery}


def _arrived(dsn: str, log: Path, said: int) -> bool:
    """Whether recovery came to its end, and the copy answers.

    A server pauses there only when it could be a hot standby; else it opens, which is as good for reading.

    Raises:
        RecoveryFailed: it came to its end, and refuses the connection.
    """
    query = "SELECT NOT pg_is_in_recovery() OR pg_get_wal_replay_pause_state() = 'paused'"
    try:
        with psycopg.connect(f"{dsn} dbname=template1 connect_timeout=2", autocommit=True) as connection:
            row: Any = connection.execute(query.encode()).fetchone()
            return bool(row[0])
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        if not any(sign in reason for sign in _NOT_YET) and any(sign in _tail(log, said) for sign in _AT_END):
            raise RecoveryFailed("the restored copy refuses connections", reason) from error
        return False


def _tail(log: Path, since: int) -> str:
    with open(log, "rb") as file:
        file.seek(since)
        return file.read().decode(errors="replace")


def _check_position(dsn: str, cut: LSN, last: bool) -> None:
    """Stopped must mean stopped at the cut: recovery also pauses for settings that are too small."""
    with psycopg.connect(f"{dsn} dbname=template1", autocommit=True) as connection:
        row: Any = connection.execute("SELECT pg_last_wal_replay_lsn()::text, pg_is_in_recovery()").fetchone()
    replayed = LSN.parse(row[0] or "0/0")
    if not 0 <= cut - replayed <= 64:  # page headers and alignment may lie between two records
        raise RecoveryFailed(
            "recovery stopped elsewhere than at the cut", f"It replayed up to {replayed}; the cut is {cut}."
        )
    if not row[1] and not last:
        raise NotProven(
            f"the restored copy could not be held at cut {cut}",
            "It opened instead of pausing, as a transaction with over 64 subtransactions ran from before the backup "
            "until the cut, and other databases have later cuts.",
            "run the drill again when that transaction has ended",
        )


def _phase(phases: dict[str, float], name: str, since: float) -> float:
    now = time.monotonic()
    phases[name] = round(now - since, 3)
    return now


def _own(path: Path, owner: pwd.struct_passwd | None) -> None:
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)
