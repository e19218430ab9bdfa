"""Other backup tools beside a source: a real pgBackRest, a real Barman, and a directory with ``cp``."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers.postgres import Source


@dataclass
class Tool:
    """A tool that keeps backups and WAL of a source; its archive_command replaces ours."""

    source: Source

    @property
    def home(self) -> Path:
        return self.source.root / "tool"

    def run(self, *words: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, timeout=120, cwd="/"
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def sections(self) -> str:
        """What pgproof.toml needs."""
        raise NotImplementedError

    def wal_file(self, name: str) -> Path:
        """The file of an archived segment."""
        (found,) = (path for path in self.home.rglob(f"{name}*") if path.is_file())
        return found

    def use(self, archive_command: str) -> None:
        self.source.set(archive_command=archive_command)
        self.source.write_config(extra=self.sections())


class PgBackRestTool(Tool):
    """pgBackRest with a repository on this machine; WAL and files compressed with zstd."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.home.mkdir()
        for name in ("repository", "log", "lock"):
            (self.home / name).mkdir()
        self.config.write_text(
            f"[global]\nrepo1-path={self.home}/repository\nlog-path={self.home}/log\nlock-path={self.home}/lock\n"
            "compress-type=zst\nstart-fast=y\narchive-timeout=20\n\n"
            f"[shop]\npg1-path={source.data}\npg1-socket-path={source.root}/s\npg1-user=postgres\n"
        )
        self.pgbackrest("stanza-create")
        words = f"pgbackrest --config={self.config} --stanza=shop"
        self.use(f"{words} archive-push %p")

    @property
    def config(self) -> Path:
        return self.home / "pgbackrest.conf"

    def sections(self) -> str:
        return f'[clusters.main.pgbackrest]\nname = "shop"\nconfig = "{self.config}"\n'

    def pgbackrest(self, *words: str) -> str:
        return self.run("pgbackrest", f"--config={self.config}", "--stanza=shop", *words)

    def backup(self, kind: str = "full") -> str:
        """Take a backup; its label."""
        self.pgbackrest(f"--type={kind}", "backup")
        link = self.home / "repository" / "backup" / "shop" / "latest"
        return link.resolve().name


class BarmanTool(Tool):
    """Barman that takes backups with pg_basebackup, and gets WAL in its incoming directory."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.home.mkdir()
        dsn = f"host={source.root}/s user=postgres dbname=postgres"
        self.config.write_text(
            f"[barman]\nbarman_home = {self.home}/barman\nbarman_user = {getpass.getuser()}\n"
            f"log_file = {self.home}/barman.log\n"
            f"[shop]\ndescription = test\nconninfo = {dsn}\nstreaming_conninfo = {dsn}\n"
            f"backup_method = postgres\narchiver = on\npath_prefix = {source.bin}\n"
        )
        for part in ("base", "errors", "incoming", "streaming", "wals"):
            (self.home / "barman" / "shop" / part).mkdir(parents=True)
        incoming = self.home / "barman" / "shop" / "incoming"
        self.use(f"cp %p {self.home}/%f && mv {self.home}/%f {incoming}/%f")

    @property
    def config(self) -> Path:
        return self.home / "barman.conf"

    def sections(self) -> str:
        return f'[clusters.main.barman]\nserver = "shop"\nconfig = "{self.config}"\n'

    def barman(self, *words: str) -> str:
        return self.run("barman", "-c", str(self.config), *words)

    def backup(self) -> str:
        """Take a backup with the WAL that it needs; its label."""
        self.source.archive_now()
        self.barman("archive-wal", "shop")
        self.barman("backup", "shop")
        self.source.archive_now()
        self.barman("archive-wal", "shop")
        return sorted(path.name for path in (self.home / "barman" / "shop" / "base").iterdir())[-1]


class DirectoryTool(Tool):
    """pg_basebackup, and an archive_command that copies."""

    def __init__(self, source: Source, compress: str = "") -> None:
        super().__init__(source)
        for path in (self.backups, self.wal):
            path.mkdir(parents=True)
        programs = {".gz": "gzip -c %p", ".zst": "zstd -q -c %p", ".lz4": "lz4 -q -c %p", "": "cat %p"}
        target = f"{self.wal}/%f{compress}"
        self.use(f"{programs[compress]} > {target}.new && mv {target}.new {target}")

    @property
    def backups(self) -> Path:
        return self.home / "backups"

    @property
    def wal(self) -> Path:
        return self.home / "wal"

    def sections(self) -> str:
        return f'[clusters.main.directory]\nbackups = "{self.backups}"\nwal = "{self.wal}"\n'

    def backup(self, label: str = "monday", *options: str) -> str:
        words = [
            "-h",
            f"{self.source.root}/s",
            "-U",
            "postgres",
            "-D",
            str(self.backups / label),
            "-c",
            "fast",
        ]
        self.run(self.source.bin / "pg_basebackup", *words, *options)
        return label


def missing(*programs: str) -> str:
    """Why a tool cannot be tested here; empty when it can."""
    lacking = [program for program in programs if not shutil.which(program)]
    return f"{', '.join(lacking)} is not installed" if lacking else ""
