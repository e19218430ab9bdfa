"""pgBackRest, with its archiving in the foreground or in the background."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.processes import run
from benchmarks.tools.tool import Site, Tool

PROGRAM = "pgbackrest"


@dataclass(frozen=True)
class PgBackRest(Tool):
    """With zstd at level 3 and two processes; all else is its default.

    Args:
        asynchronous: ``archive-async=y``, which its guide recommends for a busy cluster: one call archives every
            segment that is ready, and one call fetches segments ahead, up to ``archive-get-queue-max``.
    """

    asynchronous: bool
    key: str
    name: str
    batches: bool = False

    def missing(self) -> str:
        return "" if shutil.which(PROGRAM) else "pgbackrest is not installed: apt-get install pgbackrest"

    def version(self) -> str:
        return first_line(PROGRAM, "version")

    def prepare(self, site: Site) -> None:
        self._config(site).write_text(
            "[global]\n"
            f"repo1-path={site.repository}\n"
            f"log-path={site.home}/log\n"
            "compress-type=zst\n"
            "compress-level=3\n"
            "process-max=2\n"
            f"archive-async={'y' if self.asynchronous else 'n'}\n\n"
            "[bench]\n"
            f"pg1-path={site.data}\n"
            f"pg1-socket-path={site.workload.directory / 's'}\n"
            "pg1-user=postgres\n"
        )
        for directory in (site.repository, site.home / "log"):
            directory.mkdir()
        run([*self._words(site), "stanza-create"])

    def push(self, site: Site) -> str:
        return self._command(site, "archive-push %p")

    def fetch(self, site: Site) -> str:
        return self._command(site, "archive-get %f %p")

    def _command(self, site: Site, words: str) -> str:
        # the variable is nothing to pgBackRest: its background process is known by it
        spool = f" --spool-path={site.spool}" if self.asynchronous else ""
        return f"BENCH_SPOOL={site.spool} {' '.join(self._words(site))}{spool} {words}"

    def _words(self, site: Site) -> list[str]:
        return [
            PROGRAM,
            f"--config={self._config(site)}",
            "--stanza=bench",
            f"--pg1-path={site.data}",
            f"--lock-path={site.spool}",
        ]

    def _config(self, site: Site) -> Path:
        return site.home / "pgbackrest.conf"
