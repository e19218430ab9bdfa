"""A restored cluster acts on nobody, and comes to its target, whatever the source was set up to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgproof.restore.isolation import isolation
from pgproof.validation.expectations import suites
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source

# Of the source's postgresql.conf, which lies in its data directory and so in the backup
ACTING = """
archive_mode = 'on'
archive_command = 'touch {marker}-archive'
archive_cleanup_command = 'touch {marker}-cleanup'
recovery_end_command = 'touch {marker}-end'
recovery_min_apply_delay = '2h'
hot_standby = 'off'
synchronous_standby_names = 'node2'
primary_conninfo = 'host={root}/s user=postgres'
primary_slot_name = 'node2'
shared_preload_libraries = 'not_here'
session_preload_libraries = 'not_here'
external_pid_file = '{marker}-pid'
logging_collector = 'on'
log_directory = '{marker}-log'
ssl = 'on'
cluster_name = 'production'
huge_pages = 'on'
"""
RAISED = {
    "max_connections": "150",
    "max_worker_processes": "12",
    "max_wal_senders": "14",
    "max_prepared_transactions": "7",
    "max_locks_per_transaction": "96",
}


@pytest.fixture(scope="module", params=[15, 18])
def acting(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source with a configuration that acts, once somebody else reads it, and with a slot of its standby."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        source.sql("SELECT pg_create_physical_replication_slot('node2')")
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
        # ALTER SYSTEM writes other lines than a file by hand, and a value may hold what Python takes for line ends
        source.sql("ALTER SYSTEM SET recovery_min_apply_delay = '3h'")
        source.sql("ALTER SYSTEM SET log_line_prefix = E'%m\\x1e%p\\x1e'")
        with open(source.data / "postgresql.conf", "a") as file:
            file.write(ACTING.format(marker=source.root / "marker", root=source.root))
        source.backup()
        source.sql("INSERT INTO t VALUES (11)")
        source.sql("SELECT pg_create_restore_point('eleven')")
        source.sql("INSERT INTO t VALUES (12)")
        source.archive_now()
        yield source


def test_a_restored_cluster_acts_on_nobody_and_pauses_at_its_target(acting: Source, tmp_path: Path) -> None:
    data = tmp_path / "restored"
    assert answer(acting, "restore", "main", "--to", str(data), "--target-name", "eleven")[0] == 0
    with acting.copy(data, open_for_writing=False) as connection:
        assert connection.execute("SELECT max(g) FROM t").fetchone() == (11,)
        names = list(isolation(acting.major))
        rows = connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (names,))
        assert dict(rows.fetchall()) == isolation(acting.major) | {"archive_command": "(disabled)"}
        assert connection.execute("SHOW log_line_prefix").fetchone() == ("%m\x1e%p\x1e",)
        connection.execute("CHECKPOINT")  # a restartpoint runs archive_cleanup_command
        connection.execute("SELECT pg_wal_replay_resume()")
        while connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            time.sleep(0.05)
        connection.execute("INSERT INTO t VALUES (100)")  # no standby that never comes is waited for
        connection.execute("SELECT pg_switch_wal()")
    assert list(acting.root.glob("marker*")) == []


def test_a_standby_takes_no_slot_and_cleans_no_archive(acting: Source, tmp_path: Path) -> None:
    data = tmp_path / "standby"
    assert answer(acting, "restore", "main", "--to", str(data), "--standby", "--take-over")[0] == 0
    written = (data / "postgresql.auto.conf").read_text()
    assert "archive_mode" not in written
    configuration = (data / "postgresql.conf").read_text()
    harmless = ("shared_preload", "session_preload", "ssl", "huge_pages", "logging_collector", "external_pid")
    kept = [line for line in configuration.split("\n") if not line.startswith(harmless)]
    (data / "postgresql.conf").write_text("\n".join(kept))
    standby = acting.start_copy(data, "standby")
    try:
        standby.wait_ready()
        with psycopg.connect(f"{standby.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
            while connection.execute("SELECT max(g) FROM t").fetchone() != (12,):
                time.sleep(0.05)
            connection.execute("CHECKPOINT")
            assert connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() == (0,)
        assert acting.sql("SELECT active FROM pg_replication_slots") == [(False,)]
    finally:
        standby.stop("fast")
    assert not list(acting.root.glob("marker-cleanup"))


def test_looking_at_a_subscriber_costs_production_no_row(tmp_path: Path) -> None:
    with running_source(15, wal_level="logical") as publisher, running_source(15) as source:
        for server in (publisher, source):
            server.sql("CREATE TABLE t (g int)")
        publisher.sql("CREATE PUBLICATION p FOR TABLE t")
        source.sql(f"CREATE SUBSCRIPTION s CONNECTION '{publisher.dsn()}' PUBLICATION p")
        source.backup()
        data = tmp_path / "restored"
        assert answer(source, "restore", "main", "--to", str(data))[0] == 0
        with (
            source.away(),
            source.copy(data) as connection,
        ):  # the slot is free, as when a subscriber restarts
            publisher.sql("INSERT INTO t VALUES (1)")
            time.sleep(2)  # a launcher starts its workers at once
            types = connection.execute("SELECT DISTINCT backend_type FROM pg_stat_activity").fetchall()
            assert not [name for (name,) in types if "logical" in name]
            assert connection.execute("SELECT subname, subenabled FROM pg_subscription").fetchall() == [
                ("s", True)
            ]
        while source.sql("SELECT g FROM t") != [(1,)]:
            time.sleep(0.05)


def test_settings_that_were_raised_stop_neither_a_restore_nor_a_drill(
    any_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = any_source
    source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
    source.backup()
    source.set(**RAISED)
    source.sql("INSERT INTO t VALUES (11)")
    source.sql("SELECT pg_create_restore_point('eleven')")
    source.sql("INSERT INTO t VALUES (12)")
    source.archive_now()
    data = tmp_path / "restored"
    assert answer(source, "restore", "main", "--to", str(data), "--target-name", "eleven")[0] == 0
    with source.copy(data, open_for_writing=False) as connection:
        assert connection.execute("SELECT max(g) FROM t").fetchone() == (11,)
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(RAISED),)
        )
        assert dict(rows.fetchall()) == RAISED
    monkeypatch.setattr(suites, "available", lambda: False)
    code, out, err = answer(source, "drill", "main")
    assert (code, err) == (0, ""), out
