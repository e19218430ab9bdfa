"""The flow ``wal-receive``: a run that ends by itself, and one that meets a hole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.wal_receive import wal_receive
from tests.flows.runs import run
from tests.servers.postgres import Source, running_source
from tests.wal.receiving import assert_stored, fill, flushed, receive_until, switch


@pytest.fixture(scope="module")
def unarchived(prefect: Path) -> Iterator[Source]:
    with running_source(17, archive_mode="off") as source:
        source.write_config(cluster="wal.workers = 1")
        yield source


def test_a_run(unarchived: Source) -> None:
    receive_until(unarchived, flushed(unarchived))  # makes the slot, so that the run begins here
    switch(unarchived)
    fill(unarchived)
    end = flushed(unarchived)
    done = run(wal_receive, "main", str(unarchived.config_path), seconds=3)
    assert done.name == "WAL receive of main"
    assert done.attempts == {"receive WAL": 1}
    found = done.state.result()
    assert found["holes"] == [] and found["stored_lsn"] == found["written_lsn"]
    assert_stored(unarchived, end)
    assert 'through slot "pgproof"' in done.logs()


def test_a_hole_ends_and_fails_the_run(unarchived: Source) -> None:
    receive_until(unarchived, flushed(unarchived))
    unarchived.sql("SELECT pg_drop_replication_slot('pgproof')")
    for _ in range(2):
        for _ in range(4):
            switch(unarchived)
        unarchived.sql("CHECKPOINT")
    done = run(wal_receive, "main", str(unarchived.config_path), seconds=60)
    assert done.state.is_failed()
    assert 'WalGap: WAL of cluster "main" was not received' in done.message
    assert "DETAIL: The server had removed " in done.message
    assert "HOLE: the server has removed WAL from " in done.logs()
    assert done.attempts == {"receive WAL": 1}


def test_a_server_of_another_cluster_is_refused_at_once(unarchived: Source) -> None:
    unarchived.write_config(cluster="system_identifier = 1")
    try:
        done = run(wal_receive, "main", str(unarchived.config_path), seconds=60)
    finally:
        unarchived.write_config()
    assert 'WrongSystem: server "main" belongs to another cluster' in done.message
    assert done.attempts == {"receive WAL": 1}
