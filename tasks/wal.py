"""The tasks of the WAL gap check."""

from __future__ import annotations

from prefect import task

from pgproof.config import load
from pgproof.wal.check import WalCheck, check_wal
from tasks.retries import HOUR, RETRY, settings
from tasks.work import open_work


@task(**settings("check WAL archive", 6 * HOUR), **RETRY)
def check_wal_archive(cluster: str, config: str | None = None, content: bool = False) -> WalCheck:
    """Look for gaps along every timeline, and measure how far the archive is behind the source."""
    work = open_work(cluster, config)
    return check_wal(work.cluster, work.archive, content=content)


def rpo_target(cluster: str, config: str | None = None) -> int:
    """How much may be lost, in seconds."""
    return load(config).cluster(cluster).targets.rpo
