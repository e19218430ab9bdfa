"""Recovery of a base backup from nothing but what a repository has received."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgproof.repository.layout import without_suffix
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import HISTORY_NAME, SEGMENT_NAME
from pgproof.wal.parts import list_parts
from tests.servers.postgres import Source


def base_backup(source: Source) -> Path:
    """A base backup without any WAL, by PostgreSQL's own program."""
    data = source.root / "base"
    words = ("-D", str(data), "-d", source.dsn(), "-X", "none", "-c", "fast")
    subprocess.run([source.bin / "pg_basebackup", *words], check=True, capture_output=True)
    return data


def decoded(archive: Archive, directory: Path) -> Path:
    """Every WAL file of a repository, and the longest received part of each segment that is not whole."""
    directory.mkdir()
    for part in list_parts(archive):  # the longest of a segment comes last
        (directory / part.name).write_bytes(b"".join(archive.open(part.key)))
    for info in archive.store.list(archive.layout.wal):
        name = without_suffix(info.key).rsplit("/", 1)[-1]
        if SEGMENT_NAME.fullmatch(name) or HISTORY_NAME.fullmatch(name):
            (directory / name).write_bytes(b"".join(archive.open(info.key)))
    return directory


@contextmanager
def recovered(source: Source, data: Path, archive: Archive) -> Iterator[psycopg.Connection[Any]]:
    """A server that recovered a base backup from a repository alone, to the end of what is there."""
    wal = decoded(archive, source.root / f"wal-{data.name}")
    with open(data / "postgresql.auto.conf", "a") as settings:
        settings.write(f"restore_command = 'cp {wal}/%f %p'\nrecovery_target_timeline = latest\n")
        settings.write("primary_conninfo = ''\nprimary_slot_name = ''\nsynchronous_standby_names = ''\n")
    (data / "standby.signal").unlink(missing_ok=True)
    (data / "recovery.signal").touch()
    with source.copy(data) as connection:
        yield connection
