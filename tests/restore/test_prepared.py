"""Prepared transactions of a restored cluster are named with what ends them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.postgres.lock_file import running_in
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source


@pytest.fixture
def source() -> Iterator[Source]:
    with running_source(17, max_prepared_transactions="5") as made:
        with open(made.data / "postgresql.conf", "a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{made.root}/s'\n")
        made.sql("CREATE TABLE t (g int); CREATE ROLE ada")
        made.backup()
        made.sql("BEGIN; SET LOCAL ROLE NONE; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s mine'")
        made.archive_now()
        yield made


@pytest.fixture
def data(source: Source) -> Iterator[Path]:
    place = source.root / "restored"
    yield place
    if server := running_in(place):
        server.stop()
    shutil.rmtree(place, ignore_errors=True)


ENDS = (
    "in database \"postgres\", as whoever knows says: COMMIT PREPARED 'it''s mine'; or "
    "ROLLBACK PREPARED 'it''s mine';"
)


@pytest.mark.parametrize("opened", [True, False])
def test_start_and_accept_name_them(source: Source, data: Path, opened: bool) -> None:
    """They held their locks for ever, and nothing said so."""
    options = [] if opened else ["--target-time", str(source.sql("SELECT now()")[0][0])]
    if not opened:
        source.sql("INSERT INTO t VALUES (2)")
        source.archive_now()
    assert answer(source, "restore", "main", "--to", str(data), *options)[0] == 0
    code, out, err = answer(source, "start", str(data), "--json")
    assert code == 0, err
    found = json.loads(out)
    if opened:
        (one,) = found["prepared"]
        assert (one["gid"], one["owner"], one["database"]) == ("it's mine", "postgres", "postgres")
        assert one["hint"] == ENDS
        assert 0 < one["age_seconds"] < 600
        out = answer(source, "start", str(data))[1]
        assert 'prepared transaction "it\'s mine" of role "postgres" in database "postgres"' in " ".join(
            out.split()
        )
    else:  # PostgreSQL shows none in recovery
        assert (found["state"], found["prepared"]) == ("paused", [])
    with source.away():
        code, out, err = answer(source, "accept", str(data), "--yes")
        assert code == 0, err
        assert 'prepared transaction "it\'s mine"' in " ".join(out.split())
        assert ENDS in out
        # on the source's command line, as Patroni gives it; the accepted server did not start
        assert "keep max_prepared_transactions = 5, which its source had and no file of it says" in " ".join(
            out.split()
        )
