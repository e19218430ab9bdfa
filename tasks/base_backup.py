"""The task of a base backup."""

from __future__ import annotations

import time
from dataclasses import dataclass

from prefect import task

from pgproof.backups.base_backup import take_backup
from pgproof.backups.estimate import estimated_size
from pgproof.backups.record import BackupRecord
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
    total = estimated_size(work.cluster, incremental=incremental)
    with progress(cluster, "backup", f"base backup of {cluster}", total or 0) as done:
        record = take_backup(work.cluster, work.repository, now, incremental=incremental, progress=done)
    return TakenBackup(record, round(time.monotonic() - started, 3), work.repository.store.url)
