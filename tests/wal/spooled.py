"""A data directory without a server: the test marks files as ready and pushes them, as PostgreSQL would."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgproof.repository.repository import Archive
from pgproof.timelines.segment import WalSegment
from pgproof.wal.background.spool import Spool
from tests.servers.background import processes
from tests.servers.postgres import PGPROOF, PROJECT
from tests.wal.files import MB, SYSTEM, DataDirectory, make_archive, segment_bytes


@dataclass
class Spooled:
    """A data directory with its configuration, its repository and its spool."""

    root: Path
    data: DataDirectory
    archive: Archive

    @property
    def config(self) -> Path:
        return self.root / "pgproof.toml"

    @property
    def spool(self) -> Spool:
        return Spool(str(self.data.root), str(self.config), root=str(self.root / "spool"))

    def configure(self, cluster: str = "", extra: str = "", url: str | None = None) -> None:
        """Write pgproof.toml."""
        self.config.write_text(
            f'[repositories.main]\nurl = "{url or self.archive.store.url}"\n{extra}\n'
            f'[clusters.shop]\ndsn = ""\n{cluster}\n'
        )

    def ready(self, number: int, size: int = MB, timeline: int = 1, **options: object) -> str:
        """A finished segment that the archiver is told of."""
        return self.mark(self.data.segment(number, size, timeline, **options).name)

    def mark(self, name: str) -> str:
        (self.data.wal / "archive_status" / f"{name}.ready").touch()
        return name

    def done(self, name: str) -> None:
        """What the archiver does after a success."""
        status = self.data.wal / "archive_status"
        (status / f"{name}.ready").rename(status / f"{name}.done")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``wal`` and these words in the data directory, as PostgreSQL does."""
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PGPROOF_SPOOL": str(self.root / "spool")}
        return subprocess.run(
            [*PGPROOF, "--config", str(self.config), "wal", *words],
            cwd=self.data.root,
            capture_output=True,
            text=True,
            env=environment | variables,
            timeout=120,
        )

    def push(self, name: str) -> tuple[int, str]:
        done = self.run("push", f"pg_wal/{name}")
        return done.returncode, done.stderr

    def fetch(self, name: str) -> tuple[int, str]:
        done = self.run("fetch", name, "pg_wal/RECOVERYXLOG")
        return done.returncode, done.stderr

    def recovered(self) -> bytes:
        """What the last fetch brought, as recovery would read it; taken away."""
        path = self.data.wal / "RECOVERYXLOG"
        content = path.read_bytes()
        path.unlink()
        return content

    def stored(self, archive: Archive | None = None) -> set[str]:
        """Names of what is archived."""
        chosen = archive or self.archive
        return {
            info.key.rsplit("/", 1)[-1].removesuffix(".zst") for info in chosen.store.list(chosen.layout.wal)
        }

    @contextmanager
    def recovering(self) -> Iterator[None]:
        """As if a server ran recovery in the data directory: this process."""
        (self.data.root / "postmaster.pid").write_text(f"{os.getpid()}\n")
        (self.data.root / "recovery.signal").touch()
        try:
            yield
        finally:
            (self.data.root / "recovery.signal").unlink(missing_ok=True)
            (self.data.root / "postmaster.pid").unlink()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """As if a server ran in the data directory: this process."""
        (self.data.root / "postmaster.pid").write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            (self.data.root / "postmaster.pid").unlink()


def make_spooled(root: Path) -> Spooled:
    data = DataDirectory(root / "data")
    (data.wal / "archive_status").mkdir()
    spooled = Spooled(root, data, make_archive(root))
    spooled.configure()
    return spooled


def content(number: int, size: int = MB, timeline: int = 1) -> bytes:
    """What ``Spooled.ready`` wrote."""
    return segment_bytes(WalSegment(timeline, number, size))


def until(true: Callable[[], object], seconds: float = 20.0, what: str = "") -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not come about: {what}"
        time.sleep(0.01)


__all__ = ["MB", "SYSTEM", "Spooled", "content", "make_spooled", "processes", "until"]
