"""A site is a real server with a configuration and a repository beside it, below a short directory of its own."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgproof.commands.doctor import doctor
from pgproof.commands.init import InitResult, initialise
from pgproof.config import ClusterConfig, Config, load
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.postgres.server import LocalServer
from pgproof.readiness.checks import Check
from tests.servers.data import make_data_directory
from tests.servers.place import give_to_server, make_directory

MAJORS = (15, 17, 18)
_CONF = "listen_addresses = ''\nfsync = off\nshared_buffers = 16MB\nlog_min_messages = warning\n"


@dataclass
class Site:
    """One server and what surrounds it."""

    root: Path
    server: LocalServer
    major: int

    @classmethod
    def make(cls, major: int, settings: str = "", hba: str = "") -> Site:
        """A site that is not started.

        Args:
            major: version of its server.
            settings: lines for postgresql.conf.
            hba: lines above those of pg_hba.conf.
        """
        root = make_directory()
        data = root / "data"
        make_data_directory(major, data, ("--wal-segsize=1",))
        with (data / "postgresql.conf").open("a") as file:
            file.write(_CONF + settings)
        access = data / "pg_hba.conf"
        access.write_text(hba + access.read_text())
        server = LocalServer(find_bin_directory(major), data, root / "s", root / "log", owner=account(None))
        return cls(root, server, major)

    def __enter__(self) -> Site:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)

    def start(self) -> None:
        self.server.start()
        self.server.wait_ready()

    def restart(self) -> None:
        self.server.stop()
        self.start()

    @property
    def admin(self) -> str:
        return f"host={self.server.socket} port={self.server.port} user=postgres"

    @property
    def dsn(self) -> str:
        return f"host={self.server.socket} port={self.server.port} user=pgproof dbname=postgres"

    @property
    def path(self) -> Path:
        return self.root / "pgproof.toml"

    @property
    def url(self) -> str:
        return f"file://{self.root}/repository"

    @property
    def config(self) -> Config:
        return load(self.path)

    @property
    def cluster(self) -> ClusterConfig:
        return self.config.cluster("shop")

    def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Run statements as the superuser; the rows of the last."""
        rows: list[Any] = []
        with psycopg.connect(f"{self.admin} dbname={database}", autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def init(self, **options: Any) -> InitResult:
        """``pgproof init shop``, after which the archiver can use what root made."""
        given = {"dsn": self.dsn, "repository_url": self.url, "config_path": self.path, **options}
        try:
            return initialise("shop", **given)
        finally:
            give_to_server(*(path for path in (self.path, self.root / "repository") if path.exists()))

    def doctor(self) -> dict[str, Check]:
        """Every check by its name."""
        return {check.name: check for check in doctor("shop", self.config)}

    def paste(self, mend: str) -> None:
        """Run a mend as a person would, in psql as the superuser."""
        database = "postgres"
        for line in mend.splitlines():
            if line.startswith("\\connect "):
                database = line.split(" ", 1)[1].strip('"')
            else:
                statements = line.split("  -- ")[0].split(";")
                self.execute(*(s for s in statements if s.strip()), database=database)

    def switch(self, *, failing: bool = False) -> None:
        """Finish a segment, and wait until the archiver has tried it."""
        column = "failed_count" if failing else "archived_count"
        query = f"SELECT {column} FROM pg_stat_archiver"
        before = self.execute(query)[0][0]
        self.execute("SELECT pg_current_xact_id()", "SELECT pg_switch_wal()")
        end = time.monotonic() + 20
        while self.execute(query)[0][0] == before:
            assert time.monotonic() < end, "the archiver does nothing"
            time.sleep(0.05)
