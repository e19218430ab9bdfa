"""A drill of a database with many tables: what it takes of the source's locks and sessions, and what it shows."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import psycopg
import pytest

from pgproof.commands.console import Console
from pgproof.commands.drill import show
from pgproof.validation import recount
from pgproof.validation.comparison import most_telling
from pgproof.validation.fences import counting
from pgproof.validation.fences.counting import Counter
from pgproof.validation.fences.fingerprint import Fingerprint
from tests.servers.postgres import Source, running_source
from tests.validation.drilling import drill, fence_of

TABLES = 2000
ONE = """
CREATE TABLE t{0} (id serial PRIMARY KEY, v text);
CREATE VIEW v{0} AS SELECT v FROM t{0};
INSERT INTO t{0} (v) VALUES ('{0}');
"""


def fill(source: Source) -> None:
    with source.connect() as connection:
        for start in range(0, TABLES, 50):
            statements = "".join(ONE.format(number) for number in range(start, start + 50))
            connection.execute(f"BEGIN; {statements}; COMMIT".encode())


def most_locks(source: Source, stop: threading.Event) -> int:
    """The most locks that one session of pgproof held."""
    most = 0
    with source.connect() as connection:
        while not stop.wait(0.01):
            row = connection.execute(
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE usename = 'pgproof'"
                " GROUP BY pid ORDER BY 1 DESC LIMIT 1"
            ).fetchone()
            most = max(most, row[0] if row else 0)
    return most


def room_for_locks(dsn: str) -> int:
    """As PostgreSQL counts it (``NLOCKENTS``)."""
    query = """SELECT current_setting('max_locks_per_transaction')::int
                    * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)"""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def test_a_copy_of_few_files_has_room_for_fewer_locks() -> None:
    """Room is shared memory, which each start of its server fills."""
    with running_source(17) as source:
        source.write_config("drill.checks = []\ndrill.targets = 0\n")
        source.backup()
        rooms = list[int]()
        done = drill(source, None, lambda database, dsn: rooms.append(room_for_locks(dsn)))
    assert done.proof.proven
    assert rooms and 19_000 < max(rooms) < 21_000


def test_two_thousand_tables_and_room_for_few_locks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides have room for some 1,000 locks; pg_dump of the copy takes one of each table."""
    monkeypatch.setattr(counting, "TABLES_OF_A_SESSION", 300)
    shared: list[object] = []
    original = Counter._share

    def counted(self: Counter, exported: str, stack: ExitStack) -> psycopg.Connection:
        shared.append(exported)
        return original(self, exported, stack)

    monkeypatch.setattr(Counter, "_share", counted)
    stop, found = threading.Event(), list[int]()
    with running_source(
        17, max_locks_per_transaction="10", max_connections="30", max_wal_senders="4"
    ) as source:
        fill(source)
        source.write_config('drill.checks = ["log", "dump"]\ndrill.targets = 0\n')
        source.backup()
        watcher = threading.Thread(target=lambda: found.append(most_locks(source, stop)))
        watcher.start()
        try:
            fence = fence_of(source)
        finally:
            stop.set()
            watcher.join()
        rooms = list[int]()
        done = drill(source, fence, lambda database, dsn: rooms.append(room_for_locks(dsn)))
    assert done.proof.proven, done.proof.summary
    assert rooms and min(rooms) > 99_000
    assert [(check["name"], check["ok"]) for check in done.proof.checks] == [("log", True), ("dump", True)]
    assert len(done.proof.tables) == TABLES
    assert found[0] < 400, "locks of the source"
    assert len(shared) >= 2 + TABLES // 300 - 2, "sessions that are renewed"
    show(Console(width=140), done.proof, "key")
    said = capsys.readouterr().out
    assert said.count("\n") < 170
    assert "  1,900 more tables; the proof and --json have all\n" in said


def test_a_table_that_differs_is_shown_first() -> None:
    tables = [{"table": f"t{n}", "source_rows": n, "equal": n != 7} for n in range(500)]
    shown, hidden = most_telling(tables, 3)
    assert [table["table"] for table in shown] == ["t7", "t499", "t498"]
    assert hidden == 497
    assert most_telling(tables[:3], 3) == (tables[:3], 0)


def test_a_copy_without_room_for_locks_is_no_difference(
    shared: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.sql(
        "CREATE FUNCTION crowded() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'out of shared memory' USING ERRCODE = '53200'; END $$"
    )

    def reading(connection: psycopg.Connection, *_: object, **__: object) -> Fingerprint:
        connection.execute("SELECT public.crowded()")
        raise AssertionError("it raises")

    monkeypatch.setattr(recount, "fingerprint", reading)
    found = drill(shared)
    reason = "in the copy: this machine is short of memory, room or the like: out of shared memory"
    assert found.not_checked == {"t": reason}
    assert found.proof.verdict == "not exact"
    assert found.proof.summary == f"nothing was compared: postgres: public.t: {reason}"
