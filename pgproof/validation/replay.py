"""A replay is the scratch server recovered to a cut: it can be read there, and can never reach out.

It does not archive, replicate, subscribe or run scheduled jobs, and listens on no network. All of that is given on
the server's command line and with each connection, where nothing in the restored data directory can override it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgproof.errors import NotProven, ObjectDamaged, PgproofError, RecoveryFailed, ScratchKilled
from pgproof.held import temporary_directory
from pgproof.postgres.control import read_control, wal_sizes
from pgproof.postgres.faults import shortage_in
from pgproof.postgres.lock_file import takes_sessions
from pgproof.postgres.server import LocalServer
from pgproof.restore.isolation import SEARCH_PATH, isolation, recovery_defaults, session_options
from pgproof.restore.settings import recovery_settings
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import SEGMENT_NAME, WalSegment
from pgproof.validation.checks.server_log import LOG_PREFIX, REFUSAL, last_of_recovery
from pgproof.validation.pace import Pace, tail_of
from pgproof.validation.scratch import Scratch
from pgproof.wal.parameters import largest, widest
from pgproof.wal.records import Record, read_records

_SCRATCH = {
    "autovacuum": "off",
    "max_standby_archive_delay": "-1",
    "fsync": "off",  # thrown away afterwards
    "jit": "off",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "log_line_prefix": LOG_PREFIX,
    "lc_messages": "C",
}
# That a copy can hold: about 50 MB of shared memory, which each start of a server fills, or a fifth for few files
_LOCKS, _FEW_LOCKS, _FEW_FILES = 100_000, 20_000, 10_000
_NOT_YET = ("the database system is", "conflict with recovery", "No such file", "refused", "timeout expired")
_AT_END = ("pausing at the end of recovery", "archive recovery complete")
_UNKNOWN_MANAGER = re.compile(r"resource manager with ID (\d+) not registered")
_NO_LIBRARY = re.compile(r'FATAL:  could not (?:access file|load library) "([^"]+)": ([^\n]+)')
_PANIC = re.compile(r" PANIC:  ([^\n]*)")
_ELSEWHERE = "give this machine what it lacks, or drill on another one"
_LSN = re.compile(r"(?:at|LSN) ([0-9A-F]+/[0-9A-F]+)")


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
    shutdown: bool = False,
    preload: Sequence[str] = (),
    phases: dict[str, float] | None = None,
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
        shutdown: leave it properly shut down, also after the last cut.
        preload: libraries that recovery itself needs, such as those with a WAL resource manager of their own.
        phases: ``start`` and ``replay`` gain the seconds until the first record and from it to the cut.

    Yields:
        the connection string, without a database.

    Raises:
        RecoveryFailed: the server ended, or stopped elsewhere than at the cut.
        NotProven: it cannot be held at a cut that is not the last, or this machine lacks what it needs.
        ScratchKilled: somebody else ended it, at whatever moment of the block.
    """
    target = RecoveryTarget("lsn", str(cut), exclusive=True, timeline=timeline)
    # a paused startup process sleeps up to a second before it ends; what is thrown away need not wait
    stop = "immediate" if last and not shutdown else "fast"
    with held(
        scratch, bin_directory, target, role, owner, timeout, stop=stop, preload=preload, phases=phases
    ) as dsn:
        _check_position(dsn, cut, last)
        yield dsn


@contextlib.contextmanager
def held(
    scratch: Scratch,
    bin_directory: Path,
    target: RecoveryTarget,
    role: str,
    owner: pwd.struct_passwd | None,
    timeout: float,
    *,
    stop: str = "fast",
    preload: Sequence[str] = (),
    closed: bool = False,
    phases: dict[str, float] | None = None,
) -> Iterator[str]:
    """The scratch server, recovered to a target and held there, for the time of a block.

    Args:
        scratch: prepared.
        bin_directory: of the cluster's major version.
        target: where to stop, with the timeline to follow.
        role: that can read everything.
        owner: account of the server when we are root.
        timeout: seconds for the replay.
        stop: how the server ends, as in pg_ctl.
        preload: libraries that recovery itself needs.
        closed: the copy cannot be opened for writing, whatever happens; the server ends instead.
        phases: gains the seconds of ``start`` and ``replay``.

    Yields:
        the connection string, without a database.

    Raises:
        RecoveryFailed: the server ended.
        NotProven: this machine lacks what it needs, or is too slow.
        ScratchKilled: somebody else ended it, at whatever moment of the block.
    """
    assert target.timeline is not None
    settings = _settings(scratch, bin_directory, target, preload, closed=closed)
    with temporary_directory("socket", owner=owner, place=Path("/tmp")) as socket:  # its path must be short
        server = LocalServer(bin_directory, scratch.data, socket, scratch.log, settings, owner)
        yield from _recovered(server, scratch, target, role, timeout, stop, closed=closed, phases=phases)


def _recovered(
    server: LocalServer,
    scratch: Scratch,
    target: RecoveryTarget,
    role: str,
    timeout: float,
    stop: str,
    *,
    closed: bool,
    phases: dict[str, float] | None,
) -> Iterator[str]:
    assert target.timeline is not None
    try:
        dsn = make_conninfo(server.dsn, user=role, options=session_options(_major(scratch)))
        pace = Pace(scratch.log)
        server.start()
        what = "to reach the target" if closed else "to reach the cut"
        with _not_killed(server, scratch, pace.said):
            try:
                server.wait(lambda: pace.look() or _arrived(dsn, scratch, pace.said), timeout, what)
                pace.add_to(phases)
            except RecoveryFailed as error:
                raise _explained(error, server, scratch, target.timeline, pace.said) from error
            yield dsn
    finally:
        server.stop(stop)


@contextlib.contextmanager
def _not_killed(server: LocalServer, scratch: Scratch, said: int) -> Iterator[None]:
    """What is found in a copy while its server is killed, or gives up for want of room, is no finding.

    Raises:
        NotProven: it gave up (PANIC).
        ScratchKilled: it was. Its log is put aside, so that the next try's has only its own lines.
    """
    cause: Exception | None = None
    try:
        yield
    except (PgproofError, psycopg.Error) as error:
        cause = error
    time.sleep(0.1 if cause else 0.0)  # the process ends a moment after its connections
    if how := server.ended_from_outside(tail_of(scratch.log, said)):
        server.end_children()
        os.replace(scratch.log, scratch.killed_log)
        raise ScratchKilled(
            f"the scratch server was ended {how}",
            "That says nothing of the backup; what was compared since its start is not used.",
            "dmesg shows whether memory was short; trying again begins with the restored copy",
        ) from cause
    if isinstance(cause, (RecoveryFailed, psycopg.Error)) and (
        reason := shortage_in("\n".join(_PANIC.findall(tail_of(scratch.log, said))))
    ):
        raise NotProven(
            "the restored copy's server gave up on this machine", f"{reason}.", _ELSEWHERE
        ) from cause
    if cause is not None:
        raise cause


def as_users_connect(dsn: str) -> str:
    """The connection string for SQL that a user wrote: it finds names where his database searches for them.

    Args:
        dsn: of a database in the copy.
    """
    return dsn.replace(f"-c search_path={SEARCH_PATH}", "")


def _major(scratch: Scratch) -> int:
    return int((scratch.data / "PG_VERSION").read_text())


def _settings(
    scratch: Scratch, bin_directory: Path, target: RecoveryTarget, preload: Sequence[str], *, closed: bool
) -> dict[str, str]:
    wal = str(scratch.wal).replace("%", "%%")
    # the last question before a new timeline begins is for its history file (findNewestTimeLine); over 128 ends it
    absent = f"case %f in *.history) exit {REFUSAL};; *) exit 1;; esac" if closed else "exit 1"
    absent = f"{{ echo 'no WAL file %f' >&2; {absent}; }}"  # the log then says which one ended recovery
    # only a file that is not there may look like the end of WAL, and not a cp that fails
    command = f'[ -e "{wal}/%f" ] || {absent}; cp "{wal}/%f" "%p" || exit 254'
    assert target.timeline is not None
    recovery = recovery_settings(target, target.timeline, command, "pause")
    control = read_control(bin_directory, scratch.data)
    files = {
        "config_file": str(scratch.root / "postgresql.conf"),
        "hba_file": str(scratch.root / "pg_hba.conf"),
        "ident_file": str(scratch.root / "pg_ident.conf"),
    }
    minima = widest(control.minima, _raised(bin_directory, scratch.wal))
    # pg_dump locks every table of a database at once; a setting of the source says little of what that takes
    sessions = minima["max_connections"] + minima["max_prepared_transactions"]
    locks = _FEW_LOCKS if _files_of_databases(scratch.data) < _FEW_FILES else _LOCKS
    each = max(minima["max_locks_per_transaction"], locks // sessions)
    minima["max_locks_per_transaction"] = each
    major = _major(scratch)
    # this recovery's own target must come last, as in recovery_settings
    safe = {**isolation(major, preload), **recovery_defaults(major), **_SCRATCH}
    sizes = {name: str(value) for name, value in minima.items()}
    return {**files, **safe, **wal_sizes(control.segment_size), **sizes, **recovery}


def _files_of_databases(data: Path) -> int:
    """How many files all databases have: each relation that keeps anything has one at least."""
    places = [*data.glob("base/*/"), *data.glob("pg_tblspc/*/PG_*/*/")]
    return sum(len(os.listdir(place)) for place in places)


@functools.cache  # the WAL is there before the first server starts, and one drill starts several
def _raised(bin_directory: Path, wal: Path) -> dict[str, int]:
    """What the five settings must be at least, by the WAL that may be replayed."""
    names = sorted(path.name for path in wal.iterdir() if SEGMENT_NAME.fullmatch(path.name))
    size = max(((wal / name).stat().st_size for name in names), default=1)

    def content(segment: WalSegment) -> Iterator[bytes]:
        with open(wal / segment.name, "rb") as file:
            yield from iter(lambda: file.read(1 << 20), b"")

    def records(row: Sequence[WalSegment]) -> Iterator[Record]:
        return read_records(bin_directory, wal, row[0].start, row[-1].end, row[-1].timeline, ("XLOG",))

    try:
        return largest((WalSegment.parse(name, size) for name in names), content, records)
    except ObjectDamaged:  # recovery itself comes to it, and says more
        return {}


def _arrived(dsn: str, scratch: Scratch, said: int) -> bool:
    """Whether recovery came to its end, and the copy answers.

    A server pauses there only when it could be a hot standby; else it opens, which is as good for reading.

    Raises:
        RecoveryFailed: it came to its end, and refuses the connection.
    """
    query = "SELECT NOT pg_is_in_recovery() OR pg_get_wal_replay_pause_state() = 'paused'"
    if not takes_sessions(scratch.data):
        return False
    try:
        with psycopg.connect(f"{dsn} dbname=template1 connect_timeout=2", autocommit=True) as connection:
            row: Any = connection.execute(query.encode()).fetchone()
            return bool(row[0])
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        if not any(sign in reason for sign in _NOT_YET) and any(
            sign in tail_of(scratch.log, said) for sign in _AT_END
        ):
            raise RecoveryFailed("the restored copy refuses connections", reason) from error
        return False


def _explained(
    error: RecoveryFailed, server: LocalServer, scratch: Scratch, timeline: int, said: int
) -> PgproofError:
    """Why recovery failed, as far as the server's log tells; what this machine lacks says nothing of the backup."""
    log = tail_of(scratch.log, said)
    if missing := _missing_library(log):
        return missing
    if reason := shortage_in(error.detail) or shortage_in(log):
        return NotProven("the restored copy could not be recovered on this machine", f"{reason}.", _ELSEWHERE)
    if server.running and "took over" in error.fact:
        return NotProven(
            error.fact, error.detail, "raise drill.replay_timeout of the cluster, or drill a newer backup"
        )
    where = _where_wal_ended(scratch, timeline, said)
    return RecoveryFailed(error.fact, f"{where}{error.detail}", error.hint)


def _where_wal_ended(scratch: Scratch, timeline: int, said: int) -> str:
    """The WAL segment that replay could not go on with, and why, from the server's log; empty when it went on."""
    reason = last_of_recovery(tail_of(scratch.log, said))
    if reason is None:
        return ""
    lsn = _LSN.search(reason)
    size = max((path.stat().st_size for path in scratch.wal.iterdir()), default=0)
    name = f' "{WalSegment.containing(timeline, LSN.parse(lsn[1]), size)}"' if lsn and size else ""
    return f"Replay found no more valid WAL{' in segment' + name if name else ''}: {reason}. "


def _missing_library(log: str) -> NotProven | None:
    """The error for WAL of an extension that is not loaded (``RmgrNotFound``), or that cannot be loaded."""
    hint = "install the extension here, and name its library in drill.preload_libraries of the cluster"
    if match := _UNKNOWN_MANAGER.search(log):
        return NotProven(
            "recovery needs the library of an extension, and scratch servers load none",
            f"The WAL has records of the custom resource manager {match[1]}, which only that library can replay.",
            hint,
        )
    if match := _NO_LIBRARY.search(log):
        return NotProven(
            f'library "{match[1]}" of drill.preload_libraries cannot be loaded on this machine',
            f"The server says: {match[2]}.",
            hint,
        )
    return None


def is_just_before(replayed: LSN, cut: LSN) -> bool:
    """Whether a server that replayed up to an LSN stands at a cut; headers and alignment may lie between records."""
    return 0 <= cut - replayed <= 64


def _check_position(dsn: str, cut: LSN, last: bool) -> None:
    """Stopped must mean stopped at the cut: recovery also pauses for settings that are too small."""
    with psycopg.connect(f"{dsn} dbname=template1", autocommit=True) as connection:
        row: Any = connection.execute("SELECT pg_last_wal_replay_lsn()::text, pg_is_in_recovery()").fetchone()
    replayed = LSN.parse(row[0] or "0/0")
    if not is_just_before(replayed, cut):
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
