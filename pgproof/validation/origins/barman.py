"""A Barman server: ``list-backups``, ``recover`` and ``get-wal`` with the tool's own configuration."""

from __future__ import annotations

import contextlib
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pgproof.config import BarmanConfig
from pgproof.errors import ObjectMissing, ToolFailed
from pgproof.validation.origins.origin import ForeignBackup
from pgproof.validation.origins.program import RESTORE, Program, warnings_in

_RESTORABLE = ("DONE", "WAITING_FOR_WALS")


class Barman:
    """Backups and WAL of one server that Barman knows."""

    kind = "barman"

    def __init__(self, config: BarmanConfig, owner: pwd.struct_passwd | None = None) -> None:
        self._config = config
        self._program = Program("barman", "barman", owner)

    @property
    def title(self) -> str:
        return f'Barman "{self._config.server}"'

    def version(self) -> str:
        return self._program.ask(["--version"], "say its version").splitlines()[0].strip()

    def backups(self) -> Sequence[ForeignBackup]:
        words = [*self._common(), "-f", "json", "list-backups", self._config.server]
        tree = self._program.ask_json(words, "list its backups")
        try:
            found = [
                ForeignBackup(
                    label=str(item["backup_id"]),
                    stopped_at=datetime.fromtimestamp(int(item["end_time_timestamp"]), UTC),
                    size=int(item["size_bytes"]),
                    tablespaces=tuple(str(space["name"]) for space in item["tablespaces"]),
                )
                for item in tree.get(self._config.server, ())
                if item["status"] in _RESTORABLE
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ToolFailed("barman could not list its backups", f"Its answer lacks {error!r}.") from error
        return sorted(found, key=lambda backup: backup.label)

    def restore(self, backup: ForeignBackup, data: Path, tablespaces: Path) -> tuple[str, ...]:
        """``recover`` on this machine, without WAL, which is fetched up to the cut and no further."""
        words: list[str | Path] = [*self._common(), "recover", "--get-wal"]
        for name in backup.tablespaces:
            words += ["--tablespace", f"{name}:{tablespaces / name}"]
        done = self._program.run([*words, self._config.server, backup.label, data], RESTORE)
        if done.returncode != 0:
            raise self._program.failed(done, f'restore backup "{backup.label}"')
        return warnings_in(done)

    def fetch(self, name: str, destination: Path, data: Path) -> None:
        directory = destination.parent
        done = self._program.run([*self._common(), "get-wal", "-o", directory, self._config.server, name])
        if done.returncode == 0:
            if destination.name != name:
                (directory / name).rename(destination)
            return
        with contextlib.suppress(OSError):  # it is made before it is looked for
            (directory / name).unlink()
        if f"'{name}' not found" in done.stdout + done.stderr:
            raise ObjectMissing(f'WAL file "{name}" is not in the archive of {self.title}')
        raise self._program.failed(done, f'fetch WAL file "{name}"')

    def _common(self) -> list[str]:
        return ["-c", str(self._config.config)] if self._config.config is not None else []
