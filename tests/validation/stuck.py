"""A synchronous standby that is away: what commits is in WAL, and nobody sees it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psycopg

from tests.servers.postgres import Source

# of a source whose transactions wait only when they ask for it
AWAY = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}


@contextlib.contextmanager
def stuck_commit(source: Source) -> Iterator[int]:
    """A transaction on table ``stuck`` whose commit is in WAL and waits for ever; its xid."""
    xid: list[int] = []

    def commit() -> None:
        with contextlib.suppress(psycopg.OperationalError), source.connect() as connection:
            connection.execute("SET synchronous_commit = on; BEGIN; INSERT INTO stuck VALUES (1)")
            row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            xid.append(row[0])
            connection.execute("COMMIT")

    thread = threading.Thread(target=commit)
    thread.start()
    waits = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    try:
        end = time.monotonic() + 60
        while not source.sql(f"SELECT 1 {waits}"):
            assert time.monotonic() < end
            time.sleep(0.02)
        yield xid[0]
    finally:
        source.sql(f"SELECT pg_terminate_backend(pid) {waits}")
        thread.join(60)
