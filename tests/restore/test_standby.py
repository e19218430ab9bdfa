"""A standby that follows the archive, made by restore; and backups taken from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pgproof.postgres.server import LocalServer
from pgproof.wal.archive import list_wal
from tests.drills.damage import answer
from tests.servers.postgres import Source
from tests.validation.writers import repeated


@contextmanager
def following(source: Source) -> Iterator[LocalServer]:
    """A standby beside the source."""
    data = source.root / "standby"
    done = answer(source, "restore", "main", "--to", str(data), "--standby")
    assert done[0] == 0, done
    assert (data / "standby.signal").exists()
    assert not (data / "recovery.signal").exists()
    standby = source.start_copy(data, "standby", wal_retrieve_retry_interval="200ms")
    try:
        standby.wait_ready()
        yield standby
    finally:
        standby.stop("fast")


def rows(server: LocalServer) -> list[int]:
    with psycopg.connect(f"{server.dsn} user=postgres dbname=postgres") as connection:
        found = connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone()
    assert found is not None
    return list(found[0])


def wait_for(server: LocalServer, expected: list[int]) -> None:
    end = time.monotonic() + 30
    while rows(server) != expected:
        assert time.monotonic() < end, server.log.read_text()[-2000:]
        time.sleep(0.1)


def take_over(standby: LocalServer) -> tuple[str, bool]:
    """Promote it: it writes on a timeline of its own, and archives it as its source did."""
    with psycopg.connect(f"{standby.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
        connection.execute("INSERT INTO t VALUES (4)")
        found = connection.execute(
            "SELECT current_setting('archive_mode'), pg_walfile_name(pg_current_wal_lsn()) LIKE '00000002%'"
        ).fetchone()
        connection.execute("SELECT pg_switch_wal()")
    assert found is not None
    return found


def test_standby_follows_is_backed_up_and_takes_over(source: Source) -> None:
    # in a file, as those of a server are: on the command line of this source no standby would have it
    with open(source.data / "postgresql.conf", "a") as file:
        file.write(f"archive_mode = on\narchive_command = '{source.archive_command}'\n")
    source.sql("CREATE TABLE t (g int)")
    source.sql("INSERT INTO t VALUES (1)")
    first = source.backup()
    with following(source) as standby:
        source.sql("INSERT INTO t VALUES (2)")
        source.archive_now()
        wait_for(standby, [1, 2])

        source.write_config(dsn=f"host={standby.socket} user=pgproof dbname=postgres")
        # a primary that finishes a segment now and then, as its writers or archive_timeout would
        with repeated(source, [["SELECT pg_current_xact_id()", "SELECT pg_switch_wal()"]], pause=0.15):
            code, out, err = answer(source, "backup", "main", "--json")
        assert code == 0, err
        record = json.loads(out)
        assert (record["from_standby"], record["timeline"]) == (True, 1)
        assert record["label"] != first.label
        # commits that it replayed carry the primary's time; its own clock may be another
        assert record["consistent_at"] < record["stopped_at"]
        code, out, _ = answer(source, "wal", "check", "main", "--json")
        assert (code, json.loads(out)["gaps"]) == (0, [])
        # it was "off": after a failover nothing was archived
        assert take_over(standby) == ("on", True)
        end = time.monotonic() + 60
        while 2 not in (listing := list_wal(source.archive, 1 << 20)).timelines or 2 not in listing.histories:
            assert time.monotonic() < end, standby.log.read_text()[-2000:]
            time.sleep(0.1)

    source.write_config()
    source.sql("INSERT INTO t VALUES (3)")
    source.archive_now()
    data = source.root / "restored"
    code, _, err = answer(source, "restore", "main", "--to", str(data), "--backup", record["label"])
    assert code == 0, err
    # the backup holds the standby's own standby.signal, with which it would never open
    assert not (data / "standby.signal").exists()
    with source.copy(data) as connection:
        assert connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone() == ([1, 2, 3],)
