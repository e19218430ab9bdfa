"""A clone that was promoted for a moment: its timeline is in the archive, and production goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.backups.record import BackupRecord
from pgproof.postgres.server import LocalServer
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source


@contextmanager
def promoted_clone(source: Source, name: str = "clone", **settings: str) -> Iterator[LocalServer]:
    """A clone by ``pg_basebackup``, which archives where its source does, promoted."""
    data = source.root / name
    command = [str(source.bin / "pg_basebackup"), "-D", str(data), "-d", source.dsn(), "-R", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True)
    archiving = {"archive_mode": "on", "archive_command": source.archive_command}
    clone = source.start_copy(data, name, **{**archiving, **settings})
    try:
        clone.wait_ready()
        with psycopg.connect(f"{clone.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")
        yield clone
    finally:
        clone.stop("fast")
        shutil.rmtree(data)


def on(server: LocalServer, *queries: str) -> None:
    with psycopg.connect(f"{server.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
        for query in queries:
            connection.execute(query.encode())


@dataclass
class Stray:
    """Rows 1 before the clone, 100 in the clone, 2 and 3 afterwards; a backup before, one between 2 and 3."""

    source: Source
    first: BackupRecord
    second: BackupRecord

    def restore(self, to: Path, *options: str) -> tuple[int, dict[str, Any], str]:
        code, out, err = answer(
            self.source, "restore", "main", "--to", str(to), "--json", "--target-action", "promote", *options
        )
        return code, json.loads(out) if out else {}, err

    def rows(self, to: Path) -> list[int]:
        with self.source.copy(to) as connection:
            row: Any = connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone()
        return list(row[0])


@pytest.fixture(scope="module")
def stray() -> Iterator[Stray]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        first = source.backup()
        source.sql("INSERT INTO t VALUES (1)")
        source.archive_now()
        with promoted_clone(source) as clone:
            on(clone, "INSERT INTO t VALUES (100)", "SELECT pg_switch_wal()")
            clone.wait(lambda: _there(source, "00000002.history"), 60, "to archive its history")
        source.sql("INSERT INTO t VALUES (2)")
        second = source.backup()
        source.sql("INSERT INTO t VALUES (3)")
        source.archive_now()
        yield Stray(source, first, second)


def _there(source: Source, name: str) -> bool:
    return any(name in info.key for info in source.archive.store.list(source.archive.layout.wal))


def test_a_restore_without_options_goes_on_with_production(stray: Stray, tmp_path: Path) -> None:
    code, plan, err = stray.restore(tmp_path / "r")
    assert code == 0, err
    assert (plan["timeline"], plan["backup"]) == (1, stray.second.label)
    assert stray.rows(tmp_path / "r") == [1, 2, 3]
    assert [w for w in plan["warnings"] if w.startswith("timeline 2 is not followed from LSN ")]


def test_the_other_one_when_it_is_asked_for(stray: Stray, tmp_path: Path) -> None:
    code, plan, err = stray.restore(tmp_path / "r", "--target-timeline", "2")
    assert (code, plan["timeline"], plan["backup"]) == (0, 2, stray.first.label), err
    assert stray.rows(tmp_path / "r") == [1, 100]


def test_a_time_after_the_clone_is_of_production(stray: Stray, tmp_path: Path) -> None:
    target = stray.second.stopped_at.isoformat()
    code, plan, err = stray.restore(tmp_path / "r", "--target-time", target, "--dry-run")
    assert (code, plan["timeline"]) == (0, 1), err
