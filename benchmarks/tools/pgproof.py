"""pgproof, as it is installed on a database host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.processes import run
from benchmarks.tools.tool import Site, Tool
from pgproof.postgres.wal_commands import translated


@dataclass(frozen=True)
class Pgproof(Tool):
    """With the settings that ``pgproof init`` leaves: zstd level 3, two workers.

    Args:
        program: of the installation that is measured.
        revision: of the tree that it was made from.
    """

    program: Path
    revision: str
    key: str = "pgproof"
    name: str = "pgproof"
    batches: bool = True
    resident: bool = True

    def version(self) -> str:
        python = self.program.parent / "python"
        text = first_line(python, "-c", "from importlib.metadata import version; print(version('pgproof'))")
        return f"{text}, commit {self.revision}, {first_line(python, '--version')}"

    def prepare(self, site: Site) -> None:
        dsn = f"host={site.workload.directory / 's'} user=postgres dbname=postgres"
        words = [
            "--dsn",
            dsn,
            "--repository",
            f"file://{site.repository}",
            "--config",
            str(self._config(site)),
        ]
        run([self.program, "init", "bench", *words], cwd=site.home)

    def push(self, site: Site) -> str:
        return f"PGPROOF_SPOOL={site.spool} {self.program} --config {self._config(site)} wal push %p"

    def fetch(self, site: Site) -> str:
        command = f"PGPROOF_SPOOL={site.spool} {self.program} --config {self._config(site)} wal fetch %f %p"
        return translated(command)

    def _config(self, site: Site) -> Path:
        return site.home / "pgproof.toml"
