"""Barman's ``barman-wal-archive`` and ``barman-wal-restore``, which reach a Barman server through ssh."""

from __future__ import annotations

import getpass
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.processes import run
from benchmarks.tools.tool import Site, Tool

# barman-wal-archive runs `ssh -q -T USER@HOST COMMAND...`; the words after the host go to a shell there.
SSH = """#!/bin/sh
# Stands in for ssh: the Barman server is this machine. No connection, no encryption.
while [ $# -gt 0 ]; do
  case $1 in
    -p) shift 2 ;;
    -*) shift ;;
    *) shift; break ;;
  esac
done
exec /bin/sh -c "$*"
"""


@dataclass(frozen=True)
class Barman(Tool):
    """With its defaults, so WAL is not compressed; two segments are fetched at once."""

    key: str = "barman"
    name: str = "Barman, no ssh"
    share: float = 0.05

    def missing(self) -> str:
        programs = ("barman", "barman-wal-archive", "barman-wal-restore")
        lacking = [program for program in programs if not shutil.which(program)]
        return f"{', '.join(lacking)} is not installed: apt-get install barman barman-cli" if lacking else ""

    def version(self) -> str:
        return first_line("barman", "--version")

    def prepare(self, site: Site) -> None:
        dsn = f"host={site.workload.directory / 's'} user=postgres dbname=postgres"
        site.repository.mkdir()
        self._config(site).write_text(
            "[barman]\n"
            f"barman_home = {site.repository}\n"
            f"barman_user = {getpass.getuser()}\n"
            f"log_file = {site.home}/barman.log\n"
            "[bench]\n"
            "description = benchmark\n"
            f"conninfo = {dsn}\n"
            f"streaming_conninfo = {dsn}\n"
            "backup_method = postgres\n"
            "archiver = on\n"
            f"path_prefix = {site.workload.bin}\n"
        )
        ssh = site.home / "ssh"
        ssh.write_text(SSH)
        ssh.chmod(0o755)
        for part in ("base", "errors", "incoming", "streaming", "wals"):
            (site.repository / "bench" / part).mkdir(parents=True)

    def push(self, site: Site) -> str:
        return f"PATH={site.home}:$PATH barman-wal-archive -c {self._config(site)} localhost bench %p"

    def fetch(self, site: Site) -> str:
        options = f"-p 2 --spool-dir {site.spool} -c {self._config(site)}"
        return f"PATH={site.home}:$PATH barman-wal-restore {options} localhost bench %f %p"

    def settle(self, site: Site) -> None:
        """Move what came in to where it is fetched from; ``barman cron`` does it every minute."""
        run(["barman", "-q", "-c", self._config(site), "archive-wal", "bench"])

    def _config(self, site: Site) -> Path:
        return site.home / "barman.conf"
