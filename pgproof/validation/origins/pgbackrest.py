"""A pgBackRest repository: ``info``, ``restore`` and ``archive-get`` with the tool's own configuration."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgproof.config import PgBackRestConfig
from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing, PgproofError, ToolFailed
from pgproof.timelines.lsn import LSN
from pgproof.validation.origins.origin import ForeignBackup
from pgproof.validation.origins.program import RESTORE, Program, said, warnings_in

# Exit codes of pgBackRest (build/error/error.yaml): checksum, format, missing file; and what archive-get says
# when it wraps them in a code that stands for any failure of every repository
_DAMAGED = (26, 29, 55)
_WRAPPED = ("[ChecksumError]", "[FormatError]")
_NOT_FOUND = 1  # of archive-get
_NAME_OPTION = "--stanza"  # the tool's own word for the name of a cluster, here and nowhere else


class PgBackRest:
    """Backups and WAL of one cluster in the repositories of a pgbackrest.conf."""

    kind = "pgbackrest"

    def __init__(self, config: PgBackRestConfig, owner: pwd.struct_passwd | None = None) -> None:
        self._config = config
        self._program = Program("pgbackrest", "pgbackrest", owner)

    @property
    def title(self) -> str:
        return f'pgBackRest "{self._config.name}"'

    def version(self) -> str:
        return self._program.ask(["version"], "say its version").strip()

    def backups(self) -> Sequence[ForeignBackup]:
        words = [*self._common(), "--output=json", "info"]
        answer = self._program.ask_json(words, "list its backups")
        tree: Any = next((tree for tree in answer if tree.get("name") == self._config.name), {})
        if not tree.get("backup"):  # it ends with 0 for a cluster that it does not know, too
            said_of_it = tree.get("status", {}).get("message", "it knows no cluster of this name")
            raise NoBackup(
                f"{self.title} has no backup that can be restored", f"pgBackRest says: {said_of_it}."
            )
        try:
            systems = {(db["repo-key"], db["id"]): int(db["system-id"]) for db in tree.get("db", ())}
            found = [_backup(item, systems) for item in tree.get("backup", ())]
        except (KeyError, TypeError, ValueError) as error:
            raise ToolFailed(
                "pgbackrest could not list its backups", f"Its answer lacks {error!r}."
            ) from error
        # the same label may be in several repositories; restore takes the first that has it
        return sorted({backup.label: backup for backup in found}.values(), key=lambda one: one.label[-16:])

    def restore(self, backup: ForeignBackup, data: Path, tablespaces: Path) -> tuple[str, ...]:
        """``restore`` of exactly this set; its checksums of every file are checked by pgBackRest itself."""
        words = [
            *self._common(),
            f"--pg1-path={data}",
            f"--set={backup.label}",
            f"--tablespace-map-all={tablespaces}",
            "--type=none",
            "restore",
        ]
        done = self._program.run(words, RESTORE)
        if _is_damaged(done):
            raise ObjectDamaged(
                f'backup "{backup.label}" of {self.title} is damaged',
                f"pgbackrest restore ended with exit code {done.returncode}: {said(done)}",
            )
        if done.returncode != 0:
            raise self._program.failed(done, f'restore backup "{backup.label}"')
        return warnings_in(done)

    def fetch(self, name: str, destination: Path, data: Path) -> None:
        # asynchronous fetching would fill the spool directory of the live cluster
        words: list[str | Path] = [
            *self._common(),
            f"--pg1-path={data}",
            "--no-archive-async",
            "archive-get",
            name,
            destination,
        ]
        done = self._program.run(words)
        if done.returncode == _NOT_FOUND:
            raise ObjectMissing(f'WAL file "{name}" is not in the archive of {self.title}')
        if _is_damaged(done):
            raise ObjectDamaged(
                f'WAL file "{name}" in the archive of {self.title} is damaged',
                f"pgbackrest archive-get ended with exit code {done.returncode}: {said(done)}",
            )
        if done.returncode != 0:
            raise self._program.failed(done, f'fetch WAL file "{name}"')

    def _common(self) -> list[str]:
        words = [f"{_NAME_OPTION}={self._config.name}", "--log-level-console=warn", "--log-level-file=off"]
        if self._config.config is not None:
            words.append(f"--config={self._config.config}")
        if self._config.repository is not None:
            words.append(f"--repo={self._config.repository}")
        return words


def _is_damaged(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a failure says something of the stored bytes."""
    wrapped = any(word in done.stderr + done.stdout for word in _WRAPPED)
    return done.returncode != 0 and (done.returncode in _DAMAGED or wrapped)


def _backup(tree: Any, systems: dict[tuple[int, int], int]) -> ForeignBackup:
    stop = None
    with contextlib.suppress(KeyError, TypeError, PgproofError):  # older versions do not tell it
        stop = LSN.parse(tree["lsn"]["stop"])
    return ForeignBackup(
        label=str(tree["label"]),
        stopped_at=datetime.fromtimestamp(tree["timestamp"]["stop"], UTC),
        stop_lsn=stop,
        system_identifier=systems.get((tree["database"]["repo-key"], tree["database"]["id"])),
        size=int(tree["info"]["size"]),
    )
