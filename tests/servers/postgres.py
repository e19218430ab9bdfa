"""A source for the tests: a real PostgreSQL on a Unix socket, protected by pgproof in a directory of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pgproof.backups.base_backup import take_backup
from pgproof.backups.record import BackupRecord
from pgproof.config import ClusterConfig, Config, load
from pgproof.errors import ProgramMissing
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.postgres.server import LocalServer
from pgproof.repository.repository import (
    Archive,
    Repository,
    create_repository,
    find_archive,
    open_repository,
)
from pgproof.wal.archive import find_key
from tests.servers.background import end_background
from tests.servers.data import make_data_directory
from tests.servers.place import give_to_server, make_directory

PROJECT = Path(__file__).resolve().parents[2]
PGPROOF = [sys.executable, "-m", "pgproof.cli"]
ROLE = """
CREATE ROLE pgproof LOGIN REPLICATION;
GRANT pg_read_all_data, pg_monitor TO pgproof;
GRANT EXECUTE ON FUNCTION pg_switch_wal(), pg_create_restore_point(text) TO pgproof;
GRANT SET ON PARAMETER lo_compat_privileges TO pgproof;
"""


def now() -> datetime:
    return datetime.now(UTC)


def installed(major: int) -> str:
    """Why a major version cannot be tested here; empty when it can."""
    try:
        find_bin_directory(major)
    except ProgramMissing as error:
        return f"PostgreSQL {major}: {error.fact}; {error.hint}"
    return ""


@dataclass
class Source:
    """One running cluster with its repository and configuration."""

    major: int
    root: Path
    settings: dict[str, str] = field(default_factory=dict)
    server: LocalServer = field(init=False)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def config_path(self) -> Path:
        return self.root / "pgproof.toml"

    @property
    def repository_path(self) -> Path:
        return self.root / "repository"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def bin(self) -> Path:
        return find_bin_directory(self.major)

    @property
    def scratch(self) -> Path:
        """Root's are not below a directory of the server's account, which could exchange them."""
        return self.root / "scratch" if os.geteuid() else self.root.with_name(f"{self.root.name}-scratch")

    @property
    def archive_command(self) -> str:
        # exec, so that a test that kills the archiver's child kills pgproof
        variables = [f"PYTHONPATH={PROJECT}", f"PGPROOF_SPOOL={self.spool}"]
        words = ["env", *variables, *PGPROOF, "--config", str(self.config_path), "wal", "push"]
        return "exec " + shlex.join(words) + ' "%p"'

    def create(self, segment_size: int = 1, options: tuple[str, ...] = ()) -> None:
        """Make the cluster, its role and its repository, and start it."""
        libc = ("--locale-provider=libc",) if self.major >= 15 else ()
        owner = account(None)
        make_data_directory(self.major, self.data, (*libc, f"--wal-segsize={segment_size}", *options))
        defaults = {
            "listen_addresses": "",
            "fsync": "off",
            "jit": "off",  # of version 15: 1.4 s of each session that asks catalogs, and ours never compile
            "archive_mode": "on",
            "archive_command": self.archive_command,
            "max_wal_size": "64MB",
            "shared_buffers": "16MB",
            "wal_level": "replica",
        }
        self.server = LocalServer(
            self.bin,
            self.data,
            self.root / "s",
            self.root / "log",
            defaults | self.settings,
            owner,
            secrets=True,  # as a service's environment has them, for archive_command
        )
        self.write_config()
        create_repository(self.config.repositories["main"])
        if self.repository_path.exists():
            give_to_server(self.repository_path)
        self.server.start()
        self.server.wait_ready()
        self.sql(ROLE)

    def write_config(
        self,
        cluster: str = "",
        repository: str | None = None,
        extra: str = "",
        dsn: str | None = None,
        store: str = "",
    ) -> None:
        """(Re)write pgproof.toml.

        Args:
            cluster: lines of the cluster's section; they replace those that are there anyway.
            repository: another URL.
            extra: whole sections.
            dsn: another one.
            store: lines of the repository's section.
        """
        url = repository or f"file://{self.repository_path}"
        dsn = dsn or f"host={self.root}/s user=pgproof dbname=postgres"
        lines = {
            "drill.scratch_directory": f'"{self.scratch}"',
            "drill.archive_timeout": '"20s"',
            "backup.archive_timeout": '"20s"',
            "backup.volume_size": '"4MB"',
            "drill.targets": "1",  # each is a start of a server; who asks for more says so
            "drill.as_restored": "0",  # a second restore; tests/validation/test_as_restored.py makes it
        }
        defaults = "\n".join(
            f"{name} = {value}" for name, value in lines.items() if f"{name} =" not in cluster
        )
        self.config_path.write_text(
            f'state_directory = "{self.root}/state"\n\n[repositories.main]\nurl = "{url}"\n{store}\n\n'
            f'[clusters.main]\ndsn = "{dsn}"\n{defaults}\n{cluster}\n{extra}\n'
        )

    @property
    def config(self) -> Config:
        return load(self.config_path)

    @property
    def cluster(self) -> ClusterConfig:
        return self.config.cluster("main")

    @property
    def repository(self) -> Repository:
        return open_repository(self.config.repositories["main"])

    @property
    def archive(self) -> Archive:
        return find_archive(self.repository, self.cluster)

    def backup(self, *, incremental: bool = False) -> BackupRecord:
        return take_backup(self.cluster, self.repository, now, incremental=incremental)

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"host={self.server.socket} port={self.server.port} user={user} dbname={database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database), autocommit=True)

    def sql(self, query: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as the superuser; the rows of the last statement, if it has any."""
        with self.connect(database) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def set(self, **settings: str) -> None:
        """Change settings of the command line, and restart."""
        self.server.settings = {**self.server.settings, **settings}
        with self.away():
            end_background(self.root)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stopped for the time of a block."""
        self.server.stop("fast")
        try:
            yield
        finally:
            self.server.start()
            self.server.wait_ready()

    def restart(self) -> None:
        with self.away():
            pass

    def archive_now(self, *, commit: bool = True) -> str:
        """Finish the current segment, best with a commit, and wait until its archive_command succeeded; its name."""
        with self.connect() as connection:
            if commit:
                connection.execute("SELECT pg_current_xact_id()")
            row: Any = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
            end = time.monotonic() + 60
            while time.monotonic() < end:
                done: Any = connection.execute(
                    "SELECT coalesce(last_archived_wal >= %s, false) FROM pg_stat_archiver", (row[0],)
                ).fetchone()
                if done[0]:
                    return str(row[0])
                time.sleep(0.05)
        raise AssertionError(f"{row[0]} was not archived: {self.server.log.read_text()[-2000:]}")

    def stored(self, name: str) -> Path:
        """The object of an archived WAL file."""
        return self.repository_path / find_key(self.archive, name)

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the pgproof command as a user would."""
        return run_pgproof("--config", str(self.config_path), *words, environment=environment)

    def start_copy(self, data: Path, name: str = "copy", **settings: str) -> LocalServer:
        """Start a restored data directory; the caller stops it."""
        copy = LocalServer(
            self.bin,
            data,
            self.root / f"s-{name}",
            self.root / f"log-{name}",
            {"listen_addresses": "", "fsync": "off", **settings},
            account(None),
            secrets=True,
        )
        copy.start()
        return copy

    @contextmanager
    def copy(self, data: Path, *, open_for_writing: bool = True) -> Iterator[psycopg.Connection[Any]]:
        """A connection to a restored data directory, once recovery has ended or is paused."""
        copy = self.start_copy(data)
        try:
            query = "SELECT NOT pg_is_in_recovery()"
            if not open_for_writing:
                query = "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'"
            copy.wait(lambda: _answers(copy, query), 60, "to recover")
            with psycopg.connect(f"{copy.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
                yield connection
        finally:
            copy.stop("fast")

    @contextmanager
    def writer(self, connections: int = 2) -> Iterator[None]:
        """Transactions that never stop, on table ``busy``, for the time of a block."""
        self.sql("CREATE TABLE IF NOT EXISTS busy (id bigint GENERATED ALWAYS AS IDENTITY, seed int, v text)")
        stop = threading.Event()

        def write(seed: int) -> None:
            with psycopg.connect(self.dsn(), autocommit=True) as connection:
                while not stop.is_set():
                    connection.execute("INSERT INTO busy (seed, v) VALUES (%s, repeat('w', 50))", (seed,))
                    connection.execute(
                        "UPDATE busy SET v = v || 'u' WHERE id = (SELECT max(id) - 5 FROM busy)"
                    )

        threads = [threading.Thread(target=write, args=(seed,)) for seed in range(connections)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def run_pgproof(
    *words: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the pgproof command."""
    settings = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "140", **(environment or {})}
    return subprocess.run(
        [*PGPROOF, *words],
        capture_output=True,
        text=True,
        env=settings,
        timeout=280,
        stdin=subprocess.DEVNULL,
    )


def _answers(server: LocalServer, query: str) -> bool:
    try:
        dsn = f"{server.dsn} user=postgres dbname=postgres connect_timeout=2"
        with psycopg.connect(dsn, autocommit=True) as connection:
            row: Any = connection.execute(query.encode()).fetchone()
            return bool(row[0])
    except psycopg.OperationalError:
        return False


@contextmanager
def running_source(
    major: int, *, segment_size: int = 1, options: tuple[str, ...] = (), **settings: str
) -> Iterator[Source]:
    """A source for the time of a block, made with these options of initdb; everything of it is removed afterwards."""
    root = make_directory()
    source = Source(major, root, settings)
    try:
        source.create(segment_size, options)
        yield source
    finally:
        if hasattr(source, "server"):
            source.server.stop("immediate")
        for directory in (root, source.scratch):
            shutil.rmtree(directory, ignore_errors=True)
