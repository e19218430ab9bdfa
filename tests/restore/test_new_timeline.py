"""An accepted cluster's timeline: its history is archived, and no other restored cluster writes on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.errors import OldServerRuns
from pgproof.postgres.lock_file import RunningServer, running_in
from pgproof.restore.old_server import ask_old_server
from pgproof.restore.record import held
from pgproof.restore.restored import open_restored
from pgproof.restore.running import read_running
from pgproof.wal.archive import is_archived
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, running_source

ROWS = "SELECT array_agg(g ORDER BY g) FROM t"


@pytest.fixture(scope="module", params=[15, 17])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A lost server with one backup, and an archive that its successors go on with."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as made:
        accepted = made.root / "accepted"
        accepted.mkdir()
        give_to_server(accepted)
        with open(made.data / "postgresql.conf", "a") as file:
            file.write(f"archive_mode = on\narchive_command = '{made.archive_command}'\nfsync = off\n")
            file.write(f"unix_socket_directories = '{accepted}'\nlisten_addresses = ''\n")
        made.sql("CREATE TABLE t AS SELECT 1 AS g")
        made.backup()
        made.sql("INSERT INTO t VALUES (2)")
        made.archive_now()
        made.server.stop("fast")
        yield made


@pytest.fixture
def lost() -> Iterator[Source]:
    """Another lost server, whose archive has no other timeline yet."""
    with running_source(17) as made:
        with open(made.data / "postgresql.conf", "a") as file:
            file.write(f"archive_mode = on\narchive_command = '{made.archive_command}'\n")
        made.backup()
        made.archive_now()
        made.server.stop("fast")
        yield made


@contextmanager
def started(source: Source, name: str, *options: str) -> Iterator[Path]:
    """A restored cluster that runs; it is ended and removed."""
    data = source.root / name
    try:
        for words in (["restore", "main", "--to", str(data), *options], ["start", str(data)]):
            code, out, err = answer(source, *words)
            assert code == 0, out + err
        yield data
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data, ignore_errors=True)


def server_of(data: Path) -> RunningServer:
    server = running_in(data)
    assert server is not None
    return server


def ask(data: Path, query: str) -> Any:
    with psycopg.connect(
        server_of(data).dsn, user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def archived(source: Source, name: str) -> bool:
    end = time.monotonic() + 60
    while not (found := is_archived(source.archive, name)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_what_an_accepted_cluster_archives_can_be_restored(source: Source) -> None:
    """Its history file was never archived, and a restore ended, without a word, where the timeline begins."""
    with started(source, "first") as first, started(source, "second") as second:
        code, out, err = answer(source, "accept", str(first), "--yes")
        assert code == 0, out + err
        ask(first, "INSERT INTO t VALUES (3) RETURNING g")
        assert archived(source, ask(first, "SELECT pg_walfile_name(pg_switch_wal())"))
        assert archived(source, "00000002.history")
        server_of(first).stop()

        # the second one chose the same number while nobody knew of the first one's
        code, _, err = answer(source, "accept", str(second), "--yes")
        assert (code, err.splitlines()[0]) == (
            35,
            f'pgproof: cannot accept "{second}": another server archives on its timeline 2',
        )
        assert server_of(second).alive

    with started(source, "third") as third:
        assert ask(third, ROWS) == [1, 2, 3]
        assert ask(third, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)") == "00000003"

    stored = source.stored("00000002.history")
    content = stored.read_bytes()
    stored.unlink()
    code, out, err = answer(source, "restore", "main", "--to", str(source.root / "fourth"), "--dry-run")
    stored.write_bytes(content)
    assert code == 0, err
    assert "WAL of timeline 2 is archived and its history file is not" in " ".join(out.split())


def test_two_that_were_planned_at_once_do_not_take_one_timeline(
    lost: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing reserved the number: both archived on it, and no restore found its way."""
    with started(lost, "one") as one, started(lost, "two") as two:
        assert len(notes(lost)) == 2
        # the archive as the second one sees it before the first one has archived anything
        monkeypatch.setattr("pgproof.restore.acceptance.ask_archive", lambda *_: "")
        assert answer(lost, "accept", str(one), "--yes", "--no-start")[0] == 0
        assert notes(lost) == [str(two)]
        code, _, err = answer(lost, "accept", str(two), "--yes")
        fact = f'pgproof: cannot accept "{two}": another server archives on its timeline 2'
        assert (code, err.splitlines()[0]) == (35, fact)
        assert open_restored(two).record.isolated
        # the number is the first one's, also for the archiver of its server
        copy = lost.start_copy(one)
        copy.wait_ready()
        try:
            done = one / "pg_wal/archive_status/00000002.history.done"
            copy.wait(done.exists, 60, "to archive its history")
        finally:
            copy.stop()


def notes(source: Source) -> list[str]:
    """The directories of which the repository has a note."""
    return sorted(running.destination.partition(":")[2] for running in read_running(source.archive))


def test_one_command_at_a_time_changes_it(source: Source) -> None:
    """The second of two acceptances ended with a traceback, or stopped what the first one had started."""
    with started(source, "held", "--target-immediate") as data:
        for command in (["start"], ["accept", "--yes"]):
            with held(data):
                code, _, err = answer(source, command[0], str(data), *command[1:])
            assert (code, err.splitlines()[0]) == (43, f'pgproof: another command works on "{data}"')
        assert answer(source, "start", str(data))[0] == 0


def test_a_server_that_refuses_us_may_be_the_old_one(source: Source) -> None:
    """It was "does not answer", and the restored cluster was accepted beside it."""
    with started(source, "refused", "--target-immediate") as data:
        source.write_config(dsn=f"host={data} user=nobody dbname=postgres")
        restored, cluster = open_restored(data), source.cluster
        source.write_config()
        with pytest.raises(OldServerRuns, match="does not let us ask which it is"):
            ask_old_server(restored, cluster)
        assert "does not answer at" in ask_old_server(restored, source.cluster)
