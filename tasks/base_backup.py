"""The task of a base backup."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg
from prefect import task

from pgproof.backups.base_backup import take_backup
from pgproof.backups.record import BackupRecord
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import read_facts
from tasks.progress import progress
from tasks.retries import HOUR, RETRY, settings
from tasks.work import now, open_work


@dataclass(frozen=True)
class TakenBackup:
    """A backup that is complete in the repository, and how many seconds it took."""

    record: BackupRecord
    seconds: float
    repository: str


@task(**settings("take base backup", 24 * HOUR), **RETRY)
def take_base_backup(cluster: str, config: str | None = None, incremental: bool = False) -> TakenBackup:
    """Stream a base backup into the repository; done when its record and all of its WAL are there."""
    work = open_work(cluster, config)
    started = time.monotonic()
    total = 0 if incremental else _estimate(work.cluster)
    with progress(cluster, "backup", f"base backup of {cluster}", total) as done:
        record = take_backup(work.cluster, work.repository, now, incremental=incremental, progress=done)
    return TakenBackup(record, round(time.monotonic() - started, 3), work.repository.store.url)


def _estimate(cluster: ClusterConfig) -> int:
    """About how many bytes there are to read; 0 when nobody tells."""
    try:
        with connect(cluster) as connection:
            return read_facts(connection).database_size
    except (PgproofError, psycopg.Error):  # the backup says what is wrong
        return 0
