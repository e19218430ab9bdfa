"""What doctor says of the replication slot, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.streaming import WalStream
from pgproof.readiness.checks import Check, examine
from tests.drills import damage
from tests.servers.postgres import Source
from tests.wal.receiving import switch, unarchived_source


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with unarchived_source() as made:
        made.write_config()
        yield made


def answer(source: Source) -> tuple[bool | None, str, str, str]:
    checks = {check.name: check for check in examine(source.cluster, source.config)}
    check: Check = checks["replication slot"]
    return check.ok, check.blocks, check.fact, check.mend


def test_from_no_slot_to_a_lost_one(source: Source) -> None:
    assert answer(source) == (
        True,
        "",
        'there is no slot "pgproof": WAL comes from archive_command alone',
        "",
    )
    source.write_config(cluster="wal.receive = true")
    assert answer(source) == (
        False,
        "",
        'there is no slot "pgproof": no WAL is received',
        "pgproof wal receive main",
    )
    assert damage.answer(source, "wal", "receive", "main", "--create-slot")[0] == 0
    ok, _, fact, mend = answer(source)
    assert ok is False
    assert fact.startswith('nobody receives from slot "pgproof", and it keeps ')
    assert fact.endswith("B of WAL on the server")
    assert mend == (
        "pgproof wal receive main  # or, if that is not wanted any more: pgproof wal receive main --drop-slot"
    )
    with ReplicationConnection(source.cluster) as connection:
        WalStream(connection, connection.identify_system().flush_lsn, 1, "pgproof")
        ok, _, fact, mend = answer(source)
        assert (ok, mend) == (True, "")
        assert fact.startswith('a receiver streams from slot "pgproof"; ')
    source.set(max_slot_wal_keep_size="1MB", wal_keep_size="0", max_wal_size="3MB", min_wal_size="2MB")
    for _ in range(8):
        switch(source)
    source.sql("CHECKPOINT")
    assert answer(source) == (
        False,
        "",
        'slot "pgproof" has lost its WAL: it fell behind by more than max_slot_wal_keep_size',
        "pgproof wal receive main  # makes it anew; then pgproof wal check main",
    )
