"""The tasks of the WAL gap check."""

from __future__ import annotations

from prefect import task

from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.places import open_copies
from pgproof.gaps.repair import RepairReport, repair_wal
from tasks.retries import HOUR, RETRY, settings
from tasks.work import now, open_work


@task(**settings("check WAL archive", 6 * HOUR), **RETRY)
def check_wal_archive(cluster: str, config: str | None = None, content: bool = False) -> WalCheck:
    """Look for gaps along every timeline, and measure how far the archive is behind the source."""
    work = open_work(cluster, config)
    return check_wal(work.cluster, work.archive, content=content, copies=work.copies)


@task(**settings("repair WAL archive", 6 * HOUR), **RETRY)
def repair_wal_archive(cluster: str, config: str | None = None, content: bool = False) -> RepairReport:
    """Bring back what is missing or damaged, from wherever it still is.

    It looks again for itself: a check of a large archive is no parameter, and a second try must not believe the first.
    """
    work = open_work(cluster, config)
    archive = work.archive
    found = check_wal(work.cluster, archive, content=content, copies=work.copies)
    return repair_wal(work.cluster, archive, open_copies(work.copies, archive), found, now())
