"""The task of receiving WAL."""

from __future__ import annotations

import functools
import logging
import threading

from prefect import task
from prefect.logging import get_run_logger

from pgproof.config import RepositoryConfig
from pgproof.repository.opening import impatient
from pgproof.repository.repository import Archive
from pgproof.visible import continued
from pgproof.wal.receiving.events import ReceiveEvent, Report
from pgproof.wal.receiving.receive import Receiver, ReceiveRequest, ReceiveResult
from tasks.retries import HOUR, RETRY, settings
from tasks.work import open_with_blocks, open_work

_QUIET = ("segment", "part")  # too many for a log that a server keeps


@task(**settings("receive WAL", 25 * HOUR), **RETRY)
def receive_wal(cluster: str, config: str | None = None, seconds: int = 86340) -> ReceiveResult:
    """Stream WAL into every repository for so long; a hole ends the run at once, so that it is seen."""
    work = open_work(cluster, config)
    chosen, stop = work.cluster, threading.Event()
    repositories = {chosen.repository: work.config.repository_of(chosen), **work.config.copies_of(chosen)}
    request = ReceiveRequest(
        chosen,
        {name: functools.partial(_open, found, chosen.name) for name, found in repositories.items()},
        work.config.state / "receive" / chosen.name,
        chosen.wal.slot,
        chosen.wal.synchronous,
        seconds,
    )
    return Receiver(request, _logging(stop), stop).run()


def _open(repository: RepositoryConfig, cluster: str, system: int) -> Archive:
    return open_with_blocks(impatient(repository)).archive(cluster, system)


def _logging(stop: threading.Event) -> Report:
    """Tell the run's log; the logger is made here because the repositories' threads have no run."""
    logger = get_run_logger()

    def report(happened: ReceiveEvent) -> None:
        if happened.kind not in _QUIET:
            logger.log(logging.WARNING if happened.bad else logging.INFO, continued(happened.text))
        if happened.kind == "hole":
            stop.set()

    return report
