"""WAL records: what pg_waldump says of commits and restore points, as values."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgproof.errors import ObjectDamaged
from pgproof.postgres.names import name_of
from pgproof.postgres.programs import ending_with_us, environment
from pgproof.timelines.lsn import LSN

_LINE = re.compile(
    r"rmgr: (?P<rmgr>\w+)\s+len [^,]*, tx:\s+(?P<xid>\d+), lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+), "
    r"prev [0-9A-F]+/[0-9A-F]+, desc: (?P<kind>\w+) ?(?P<rest>.*)",
    re.DOTALL,
)
_RUNNING = re.compile(r"nextXid (\d+) latestCompletedXid \d+ oldestRunningXid (\d+)$")
_VALUE = re.compile(r"(\w+)=(\d+)")
# as xlog_desc shows them, and the settings that they are
_PARAMETERS = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}
_PREPARED = re.compile(r"(\d+): ")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC")
# zeros after the last record (a switched or unfinished segment), or no record starting in the range
_END_OF_WAL = re.compile(r"got 0\b|invalid magic number 0000|could not find a valid record")


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """A transaction's end in WAL order; ``xid`` is the 32-bit number of the top transaction."""

    lsn: LSN
    xid: int
    time: datetime | None
    committed: bool


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A named point that pg_create_restore_point wrote; pg_waldump does not show its time."""

    lsn: LSN
    name: str
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class QuietPoint:
    """A point at which no transaction ran: every xid before ``next_xid`` (32 bits) had ended."""

    lsn: LSN
    next_xid: int


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A restart of the source with other settings: those that a hot standby must have at least as large.

    Args:
        minimal: whether it ran with ``wal_level = minimal`` from there on.
    """

    lsn: LSN
    values: dict[str, int]
    minimal: bool = False


@dataclass(frozen=True, slots=True)
class DatabaseDrop:
    """A DROP DATABASE, which removes the files when this is replayed, whether or not its transaction commits."""

    lsn: LSN
    xid: int


Record = CommitRecord | RestorePoint | QuietPoint | ParameterChange | DatabaseDrop


def parse_line(line: str) -> Record | None:
    """One record as pg_waldump prints it; None for records of no interest here.

    The forms are those of ``xact_desc``, ``xlog_desc`` and ``standby_desc`` in PostgreSQL's rmgrdesc.

    Args:
        line: without the line break at its end; a restore point's name may have others in it.

    Raises:
        ObjectDamaged: a commit that cannot be read; to leave it out could move a cut.
    """
    match = _LINE.match(line)
    if match is None:
        return None
    kind, rest, lsn = match["kind"], match["rest"], LSN.parse(match["lsn"])
    if kind == "RESTORE_POINT":
        return RestorePoint(lsn, rest)
    if kind == "PARAMETER_CHANGE":
        shown = dict(_VALUE.findall(rest))
        values = {name: int(shown[short]) for short, name in _PARAMETERS.items()}
        return ParameterChange(lsn, values, "wal_level=minimal" in rest)
    if kind == "DROP" and match["rmgr"] == "Database":
        return DatabaseDrop(lsn, int(match["xid"]))
    if kind == "RUNNING_XACTS":
        running = _RUNNING.match(rest)
        return QuietPoint(lsn, int(running[1])) if running and running[1] == running[2] else None
    if kind in ("COMMIT", "ABORT"):
        return CommitRecord(lsn, int(match["xid"]), _time(rest), kind == "COMMIT")
    if kind in ("COMMIT_PREPARED", "ABORT_PREPARED"):
        # the record carries the xid of the prepared transaction in its description
        prepared = _PREPARED.match(rest)
        if prepared is None:
            raise ObjectDamaged(f"the record at LSN {lsn} cannot be read", f'pg_waldump says "{line}".')
        return CommitRecord(lsn, int(prepared[1]), _time(rest), kind == "COMMIT_PREPARED")
    return None


def _time(text: str) -> datetime | None:
    match = _TIME.search(text)
    return datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else None


def read_records(
    bin_directory: Path,
    directory: Path,
    start: LSN,
    end: LSN,
    timeline: int,
    rmgrs: Iterable[str] = ("Transaction",),
) -> Iterator[Record]:
    """The records of resource managers in a range, in WAL order.

    Args:
        bin_directory: with a pg_waldump of the cluster's major version.
        directory: holding the segments of the range under their names.
        start: first LSN; need not be the start of a record.
        end: where to stop, exclusive; the end of valid WAL before it is no error.
        timeline: in whose name the segments are.
        rmgrs: resource managers, such as ``Transaction`` and ``XLOG``.

    Raises:
        ObjectDamaged: pg_waldump met a record that is not valid before the end of the range.
    """
    command: list[str] = [str(bin_directory / "pg_waldump"), "-p", str(directory), "-t", str(timeline)]
    command += ["-s", str(start), "-e", str(end), *(f"--rmgr={name}" for name in rmgrs)]
    with subprocess.Popen(
        ending_with_us(command, signal.SIGTERM),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for line in _whole(process.stdout):
                if record := parse_line(line):
                    yield record
            message = process.stderr.read().decode(errors="replace").strip()
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
    if code != 0 and not _END_OF_WAL.search(message):
        raise ObjectDamaged(f"WAL from {start} to {end} cannot be read", message[-600:])


def _whole(lines: Iterable[bytes]) -> Iterator[str]:
    """Lines put together again where a name within a record has line breaks."""
    record = b""
    for line in lines:
        if record and line.startswith(b"rmgr: "):
            yield name_of(record).removesuffix("\n")
            record = b""
        record += line
    if record:
        yield name_of(record).removesuffix("\n")
