"""The workload: a cluster with finished segments of pgbench's WAL, and a copy of it from before they were written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from benchmarks.errors import BenchmarkError
from benchmarks.processes import run
from pgproof.postgres.programs import environment
from pgproof.postgres.server import LocalServer, initialise

SEGMENT = re.compile(r"[0-9A-F]{24}")
# 750 MB: more than what is written between two checkpoints, so that most pages are imaged, as in a large cluster.
SCALE = 50
CLIENTS = 8
_GENERATED_IN = 1800.0
# wal_keep_size: no checkpoint may recycle a segment that is to be archived again.
# archive_command is not among them: what the command line sets, ALTER SYSTEM cannot change.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "512MB",
    "archive_mode": "on",
    "wal_keep_size": "1TB",
}
# While something is measured the server itself shall write nothing.
MEASURING = {"autovacuum": "off", "checkpoint_timeout": "1d", "bgwriter_lru_maxpages": "0"}


@dataclass(frozen=True)
class Workload:
    """What every tool is given.

    Args:
        directory: of the cluster, its socket and its log.
        bin: directory of PostgreSQL's programs.
        segments: names of the finished segments, in order, from the one that the copy's recovery starts in.
        images: share of the WAL that is full page images, in per cent.
    """

    directory: Path
    bin: Path
    segments: tuple[str, ...]
    images: float = 0.0

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def base(self) -> Path:
        """The data directory as it was, shut down, before the first of the segments; without WAL."""
        return self.directory / "base"

    @property
    def wal(self) -> Path:
        return self.data / "pg_wal"

    def server(self) -> LocalServer:
        return LocalServer(
            self.bin, self.data, self.directory / "s", self.directory / "log", SETTINGS | MEASURING
        )

    def rest(self) -> None:
        """Make the stopped cluster archive nothing, whatever a run that was killed left in it."""
        (self.data / "postgresql.auto.conf").write_text("")
        self.mark(())

    def mark(self, ready: Collection[str]) -> None:
        """Make these segments the ones that wait for the archiver, and no other file (XLogArchiveNotify)."""
        status = self.wal / "archive_status"
        for entry in list(status.iterdir()):
            entry.rename(entry.with_suffix(".done"))
        for name in ready:
            (status / f"{name}.ready").touch()
            (status / f"{name}.done").unlink(missing_ok=True)

    def done(self, name: str) -> None:
        """Mark a segment as archived, as the archiver does when its command ends with 0 (XLogArchiveForceDone)."""
        status = self.wal / "archive_status"
        (status / f"{name}.ready").rename(status / f"{name}.done")


@contextmanager
def connected(server: LocalServer) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection."""
    with psycopg.connect(f"{server.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
        yield connection


def prepare(directory: Path, bin_directory: Path, count: int) -> Workload:
    """The workload of a scratch directory, made when it is not there or too small.

    Args:
        directory: where it lies.
        bin_directory: of PostgreSQL's programs.
        count: segments wanted.
    """
    written = directory / "workload.json"
    if written.exists():
        known = json.loads(written.read_text())
        if len(known["segments"]) >= count:
            return Workload(directory, bin_directory, tuple(known["segments"][:count]), known["images"])
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    workload = _generate(directory, bin_directory, count)
    written.write_text(json.dumps({"segments": workload.segments, "images": workload.images}))
    return workload


def _generate(directory: Path, bin_directory: Path, count: int) -> Workload:
    """Initialise, keep a cold copy, and write until enough segments are finished."""
    empty = Workload(directory, bin_directory, ())
    initialise(bin_directory, empty.data)
    server = LocalServer(bin_directory, empty.data, directory / "s", directory / "log", SETTINGS)
    pgbench = [str(bin_directory / "pgbench"), "-h", str(server.socket), "-U", "postgres", "postgres"]
    with server.run(mode="fast"):
        run([*pgbench, "-i", "-q", "-s", str(SCALE)])
    first = _start_of_recovery(empty)
    _copy_without_wal(empty.data, empty.base)
    with server.run(mode="fast"):
        writer = subprocess.Popen(
            [*pgbench, "-c", str(CLIENTS), "-j", "2", "-T", "7200"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            segments = _wait_for_segments(empty, first, count, writer)
        finally:
            writer.terminate()
            writer.wait()
    return Workload(directory, bin_directory, segments, _images(empty, segments))


def _start_of_recovery(workload: Workload) -> str:
    text = run([workload.bin / "pg_controldata", workload.data])
    found = re.search(r"REDO WAL file:\s+([0-9A-F]{24})", text)
    if found is None:
        raise BenchmarkError("pg_controldata names no REDO WAL file")
    return found[1]


def _copy_without_wal(data: Path, copy: Path) -> None:
    shutil.copytree(data, copy, ignore=lambda place, names: names if Path(place).name == "pg_wal" else [])
    (copy / "pg_wal" / "archive_status").mkdir()
    copy.chmod(0o700)


def _wait_for_segments(
    workload: Workload, first: str, count: int, writer: subprocess.Popen[bytes]
) -> tuple[str, ...]:
    end = time.monotonic() + _GENERATED_IN
    while time.monotonic() < end:
        ready = (entry.name[:24] for entry in (workload.wal / "archive_status").iterdir())
        segments = sorted(name for name in set(ready) if SEGMENT.fullmatch(name) and name >= first)
        if len(segments) >= count:
            return tuple(segments[:count])
        if writer.poll() is not None:
            raise BenchmarkError(f"pgbench ended with {writer.returncode}")
        time.sleep(0.2)
    raise BenchmarkError(f"pgbench wrote no {count} segments in {_GENERATED_IN:.0f} s")


def _images(workload: Workload, segments: tuple[str, ...]) -> float:
    """The share of full page images, which decides how well the WAL compresses (pg_waldump --stats)."""
    words: list[str | Path] = [
        workload.bin / "pg_waldump",
        "--stats",
        "-p",
        workload.wal,
        segments[0],
        segments[-1],
    ]
    found = re.search(r"^Total\b.*?(\d+) \[([\d.]+)%\]\s+\d+ \[100%\]$", run(words), re.M)
    if found is None:
        raise BenchmarkError("pg_waldump --stats has no total")
    return float(found[2])


def setting(connection: psycopg.Connection[Any], command: str) -> None:
    """Give the running server an archive_command; an empty one makes the archiver wait."""
    statement: LiteralString = "ALTER SYSTEM SET archive_command = "
    connection.execute(psycopg.sql.SQL(statement) + psycopg.sql.Literal(command))
    connection.execute("SELECT pg_reload_conf()")
