"""The background process of ``wal push`` and ``wal fetch``: started by them, for one data directory, never by hand.

It inherits the lock of its spool, and always ends with 0: where PostgreSQL is the first process of a container, it
would take another exit code for a server process that crashed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pgproof.errors import FETCH_OFFSET, PgproofError, TransientError
from pgproof.visible import continued
from pgproof.wal.background.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgproof.config import ClusterConfig
    from pgproof.repository.repository import Archive

    Opener = Callable[[], Archive]

_MEMORY = 512 << 20  # bytes of WAL that may be under way at once: large segments get fewer workers


def main(words: list[str]) -> None:
    """Run ``push|fetch LOCK SPOOL DATA CONFIG CLUSTER TABLESPACES PLANNED``."""
    kind, lock, directory, data, config, cluster, tablespaces, planned = words
    os.closerange(3, int(lock))
    os.closerange(int(lock) + 1, 1024)
    os.chdir("/")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # nothing here needs an orderly end
    try:
        spool = Spool(data, config, cluster or None, os.path.dirname(directory), tablespaces, planned)
        run = _push if kind == "push" else _fetch
        run(spool, int(lock))
    except PgproofError as error:
        log(str(error))
    except Exception:
        log(traceback.format_exc())
    os._exit(0)  # threads that hang in a store are not waited for


def log(text: str) -> None:
    """A line in the spool's log."""
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} [{os.getpid()}] {continued(text)}\n")
    sys.stdout.flush()


def _push(spool: Spool, lock: int) -> None:
    from pgproof.wal.background.destination import Destination
    from pgproof.wal.background.pusher import Pusher

    try:
        cluster, archives = _configured(spool)
    except PgproofError as error:
        status = Path(spool.data) / "pg_wal" / "archive_status"
        ready = [path.name.removesuffix(".ready") for path in status.glob("*.ready")]
        _refuse_all(spool, "failed", ready, error, error.exit_code)
        raise
    spool.describe_holder(lock, cluster.wal.push_timeout)
    workers = _workers(spool, cluster)
    destinations = [Destination(name, opener, workers) for name, opener in archives.items()]
    Pusher(spool, destinations, cluster.wal.quorum, cluster.wal.linger, log).run()


def _fetch(spool: Spool, lock: int) -> None:
    from pgproof.postgres.control import read_system_identifier
    from pgproof.wal.background.prefetcher import Prefetcher
    from pgproof.wal.fetch import fetch_from
    from pgproof.wal.own_tablespaces import own_tablespaces_of
    from pgproof.wal.planned import planned_of

    directory = spool.for_recovery(read_system_identifier(Path(spool.data)))
    try:
        cluster, archives = _configured(spool)
    except PgproofError as error:
        _refuse_all(spool, "refused", spool.names("wanted"), error, FETCH_OFFSET + error.exit_code)
        raise
    spool.describe_holder(lock, cluster.wal.fetch_timeout)
    own = own_tablespaces_of(Path(spool.data), spool.own_tablespaces)
    planned = planned_of(Path(spool.data), spool.planned)
    opened = {name: _remembered(opener) for name, opener in archives.items()}
    _, patient = _configured(spool, 0.8 * cluster.wal.fetch_timeout)

    def fetch(name: str, path: Path) -> int:
        try:
            return fetch_from(opened.values(), name, path, own, planned, patient.values())
        except TransientError:  # opened anew the next time: its disk may be mounted again
            opened.update({name: _remembered(opener) for name, opener in archives.items()})
            raise

    workers, settings = _workers(spool, cluster), cluster.wal
    Prefetcher(spool, directory, fetch, workers, settings.prefetch_size, settings.linger, log).run()


def _refuse_all(spool: Spool, kind: str, names: list[str], error: PgproofError, code: int) -> None:
    """Nothing can be done for anybody who waits."""
    for name in names:
        spool.refuse(kind, name, code, str(error))


def _configured(spool: Spool, patience: float = 0) -> tuple[ClusterConfig, dict[str, Opener]]:
    """The cluster of the data directory, and what opens its repositories with so many seconds of patience."""
    from pgproof import config as configuration
    from pgproof.commands.wal_files import cluster_of, openers
    from pgproof.postgres.control import read_system_identifier

    config = configuration.load(spool.config)
    system = read_system_identifier(Path(spool.data))
    cluster = cluster_of(config, spool.cluster, system)
    return cluster, openers(config, cluster, system, patience)


def _remembered(opener: Opener) -> Opener:
    """Opens an archive once."""
    found: list[Archive] = []

    def opened() -> Archive:
        if not found:
            found.append(opener())
        return found[0]

    return opened


def _workers(spool: Spool, cluster: ClusterConfig) -> int:
    """How many files at once: as configured, and fewer where segments are so large that memory would not do."""
    wal = os.scandir(os.path.join(spool.data, "pg_wal"))
    largest = max((entry.stat().st_size for entry in wal if entry.is_file()), default=0)
    return max(1, min(cluster.wal.workers, _MEMORY // max(largest, 1)))


if __name__ == "__main__":
    main(sys.argv[1:])
