"""Whatever the source was set up to do, its copy does nothing of it: it recovers, is checked, and never reaches out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.validation.checks import checking
from pgproof.validation.expectations import suites
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source

# What a copy may run; no archiver, no walsender or walreceiver, nothing of logical replication, nothing of an extension
HARMLESS = {"client backend", "checkpointer", "background writer", "walwriter", "startup", "io worker"}
HARMLESS |= {"parallel worker"}
# Each of them would stop a server that reads it, or make it reach out
HOSTILE = """
archive_mode = 'on'
archive_library = ''
archive_command = 'touch {marker}-archive'
restore_command = 'touch {marker}-restore; false'
archive_cleanup_command = 'touch {marker}-cleanup'
recovery_end_command = 'touch {marker}-end'
recovery_target_time = '2001-01-01'
primary_conninfo = 'host={root}/s user=postgres'
primary_slot_name = 'elsewhere'
shared_preload_libraries = 'not_here'
session_preload_libraries = 'not_here'
listen_addresses = '*'
port = 1
unix_socket_directories = '/nowhere'
ssl = 'on'
ssl_cert_file = '/nowhere/cert'
shared_buffers = '4TB'
huge_pages = 'on'
hba_file = '/nowhere/hba'
ident_file = '/nowhere/ident'
data_directory = '/nowhere/data'
external_pid_file = '{marker}-pid'
log_directory = '/nowhere/log'
logging_collector = 'on'
include_dir = '/nowhere/conf.d'
cluster_name = 'production'
event_source = 'production'
"""
TRIGGERS = """
CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g;
CREATE INDEX t_g ON t (g);
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('archive_mode') = 'off' THEN
        EXECUTE $c$COPY (SELECT 1) TO PROGRAM 'touch {marker}-trigger'$c$;
        RAISE EXCEPTION 'an event trigger ran in the copy';
    END IF;
END $$;
CREATE EVENT TRIGGER ddl ON ddl_command_start EXECUTE FUNCTION refuse();
ALTER EVENT TRIGGER ddl ENABLE ALWAYS;
"""
# Of the role that reads the copy; the drill reads the source with another
ROLE = """
ALTER ROLE postgres SET search_path = nowhere;
ALTER ROLE postgres SET zero_damaged_pages = on;
ALTER ROLE postgres SET default_transaction_read_only = on;
ALTER ROLE postgres SET session_preload_libraries = 'not_here';
"""


@pytest.fixture(scope="module", params=[15, 17])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source that archives, publishes, and subscribes to a second real server."""
    with (
        running_source(request.param, wal_level="logical") as publisher,
        running_source(request.param, wal_level="logical") as made,
    ):
        publisher.sql("CREATE TABLE sent (a int); CREATE PUBLICATION p FOR TABLE sent")
        made.sql("CREATE TABLE sent (a int)")
        made.sql(f"CREATE SUBSCRIPTION s CONNECTION '{publisher.dsn()}' PUBLICATION p")
        made.sql(TRIGGERS.format(marker=made.root / "marker"))
        if request.param >= 17:
            made.sql("CREATE EVENT TRIGGER l ON login EXECUTE FUNCTION refuse()")
        made.sql(ROLE)
        made.backup()
        yield made


def hostile(source: Source) -> None:
    text = HOSTILE.format(marker=source.root / "marker", root=source.root)
    with open(source.data / "postgresql.conf", "a") as file:
        file.write(text)
    with open(source.data / "postgresql.auto.conf", "a") as file:
        file.write(text)
    (source.data / "pg_hba.conf").write_text("local all all reject\n")


def elsewhere(source: Source) -> None:
    """As Debian has it: no configuration in the data directory at all."""
    aside = source.root / "etc"
    aside.mkdir()
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.move(source.data / name, aside / name)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What runs in the copy, and how it is set, a moment after it was opened for writing."""
    seen: list[dict[str, Any]] = []
    real = checking.open_for_writing

    def watching(dsn: str) -> str:
        reason = real(dsn)
        time.sleep(1)  # a launcher starts its workers at once
        with psycopg.connect(dsn, autocommit=True) as connection:
            types = connection.execute("SELECT DISTINCT backend_type FROM pg_stat_activity").fetchall()
            settings = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
            enabled = connection.execute("SELECT count(*) FROM pg_subscription WHERE subenabled").fetchall()
        seen.append({"types": {row[0] for row in types}, "enabled": enabled[0][0], **dict(settings)})
        return reason

    monkeypatch.setattr(checking, "open_for_writing", watching)
    return seen


@pytest.mark.parametrize("arrange", [hostile, elsewhere], ids=["hostile", "elsewhere"])
def test_a_copy_never_reaches_out(source: Source, monkeypatch: pytest.MonkeyPatch, arrange: Any) -> None:
    monkeypatch.setattr(suites, "available", lambda: False)
    source.write_config(cluster='drill.checks = ["log", "checksums", "amcheck", "dump"]')
    if not (source.data / "postgresql.conf").exists():
        pytest.skip("the configuration was moved away already")
    arrange(source)
    time.sleep(1)  # a label has its second
    source.backup()
    seen = watched(monkeypatch)
    code, out, err = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("proven", 0, ""), proof["summary"]
    results = {check["name"]: check["ok"] for check in proof["checks"] if check["database"] != "template1"}
    assert results == {"log": True, "checksums": None, "amcheck": True, "dump": True}
    (copy,) = seen
    assert copy["types"] <= HARMLESS
    assert copy["enabled"] == 1  # it is there, and nobody acts on it
    wanted = {"listen_addresses": "", "archive_mode": "off", "shared_preload_libraries": "", "ssl": "off"}
    wanted |= {"primary_conninfo": "", "huge_pages": "try", "max_logical_replication_workers": "0"}
    assert {name: copy[name] for name in wanted} == wanted
    assert copy["unix_socket_directories"].startswith("/tmp/pgproof-")
    assert list(source.root.glob("marker*")) == []
    assert list((source.root / "scratch").iterdir()) == []
    assert not Path(copy["unix_socket_directories"]).exists()


def test_a_library_that_is_not_here(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "available", lambda: False)
    source.write_config(cluster='drill.preload_libraries = ["not_here"]')
    code, out, err = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("not exact", 1, "")
    assert proof["summary"] == (
        'library "not_here" of drill.preload_libraries cannot be loaded on this machine '
        "DETAIL: The server says: No such file or directory. "
        "HINT: install the extension here, and name its library in drill.preload_libraries of the cluster"
    )


def test_a_library_that_recovery_needs_is_loaded(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "available", lambda: False)
    source.write_config(cluster='drill.preload_libraries = ["pg_stat_statements", "auto_explain"]')
    seen = watched(monkeypatch)
    code, _, err = answer(source, "drill", "main", "--json")
    assert (code, err) == (0, "")
    assert seen[0]["shared_preload_libraries"] == "pg_stat_statements,auto_explain"
