"""Counting while the source changes: never a false "not equal"; what cannot be counted is named with the reason."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from pgproof.errors import ServerNotReady, ServerUnreachable
from pgproof.postgres.connection import connect
from pgproof.validation.fences.fence import LARGE_OBJECTS, NotChecked
from pgproof.validation.fences.fingerprint import SETTINGS
from tests.servers.postgres import Source, running_source
from tests.validation.drilling import drill, fence_of, meanwhile, sessions
from tests.validation.writers import repeated

REWRITTEN = "it was altered or rewritten while it was counted"
LOCKED = "locked in the copy by a transaction that had not ended at the cut, such as an ALTER TABLE"

# what is done to a table of that name between the snapshots and the counting -> why it is not checked, or None
CHANGES: dict[str, tuple[str, str | None]] = {
    "truncated": ("TRUNCATE truncated", REWRITTEN),
    "truncated_refilled": ("TRUNCATE truncated_refilled; INSERT INTO truncated_refilled VALUES (9)", REWRITTEN),
    "added": ("ALTER TABLE added ADD COLUMN n int DEFAULT 7", None),
    "added_rewrite": ("ALTER TABLE added_rewrite ADD COLUMN n float8 DEFAULT random()", REWRITTEN),
    "dropped_column": ("ALTER TABLE dropped_column DROP COLUMN v", "column t.v does not exist"),
    "dropped": ("DROP TABLE dropped", 'relation "public.dropped" does not exist'),
    "recreated": ("DROP TABLE recreated; CREATE TABLE recreated AS SELECT 1 AS id", "column t.v does not exist"),
    "recreated_alike": (
        "DROP TABLE recreated_alike; CREATE TABLE recreated_alike AS SELECT * FROM written",
        REWRITTEN,
    ),
    "vacuumed": ("VACUUM FULL vacuumed", REWRITTEN),
    "clustered": ("CREATE INDEX i ON clustered (id); CLUSTER clustered USING i", REWRITTEN),
    "vacuumed_lazily": ("DELETE FROM vacuumed_lazily WHERE id > 5; VACUUM vacuumed_lazily", None),
    "analyzed": ("ANALYZE analyzed", None),
    "swap_a": (
        "ALTER TABLE swap_a RENAME TO x; ALTER TABLE swap_b RENAME TO swap_a; ALTER TABLE x RENAME TO swap_b",
        REWRITTEN,
    ),
    "swap_b": ("", REWRITTEN),
    "swapped_columns": (
        "ALTER TABLE swapped_columns RENAME v TO x; ALTER TABLE swapped_columns RENAME w TO v;"
        "ALTER TABLE swapped_columns RENAME x TO w",
        REWRITTEN,
    ),
    "retyped": ("SET TimeZone = 'UTC'; ALTER TABLE retyped ALTER at TYPE timestamp", REWRITTEN),
    "retyped_rewrite": ("ALTER TABLE retyped_rewrite ALTER id TYPE bigint", REWRITTEN),
    "moods": ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", REWRITTEN),
    "references_one": ("ALTER TABLE target RENAME TO aimed_at", None),
    "written": ("INSERT INTO written SELECT * FROM written; UPDATE written SET v = 'x'", None),
    "unlogged_now": ("ALTER TABLE unlogged_now SET UNLOGGED", REWRITTEN),
    "moved": ("ALTER TABLE moved SET SCHEMA elsewhere", 'relation "public.moved" does not exist'),
    "hidden": (
        "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY",
        'query would be affected by row-level security policy for table "hidden"',
    ),
    "attached": ("ALTER TABLE parent ATTACH PARTITION attached FOR VALUES IN (1)", None),
    "refreshed": ("REFRESH MATERIALIZED VIEW refreshed", REWRITTEN),
    "created": ("CREATE TABLE created (a int)", "absent"),
}  # fmt: skip
ORDINARY = "SELECT g AS id, 'v' || g AS v, 'w' || g AS w, now() AS at FROM generate_series(1, 20) g"


def create(source: Source) -> None:
    source.sql("CREATE SCHEMA elsewhere; CREATE TYPE mood AS ENUM ('glad', 'sad')")
    source.sql("CREATE TABLE parent (id int, v text, w text, at timestamptz) PARTITION BY LIST (id)")
    source.sql("CREATE TABLE target (id int); CREATE TABLE moods AS SELECT 'sad'::mood AS v")
    source.sql("CREATE TABLE references_one AS SELECT 'target'::regclass AS v")
    for name in CHANGES.keys() - {"moods", "references_one", "refreshed", "created"}:
        source.sql(f"CREATE TABLE {name} AS {ORDINARY}")
    source.sql("UPDATE swap_b SET v = 'other'; DELETE FROM attached; INSERT INTO attached VALUES (1)")
    source.sql(f"CREATE MATERIALIZED VIEW refreshed AS {ORDINARY}")


def test_ddl_between_the_snapshot_and_the_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_source(17) as source:
        create(source)
        source.backup()

        def change() -> None:
            with source.connect() as connection:
                for statement, _ in CHANGES.values():
                    for part in statement.split(";"):  # apart: VACUUM allows no transaction
                        connection.execute(part.encode())

        meanwhile(monkeypatch, change)
        found = drill(source, checked=False)
        assert found.proof.proven, found.proof.summary
        named = {name: why for name, (_, why) in CHANGES.items() if why not in (None, "absent")}
        assert found.not_checked == named | {"target": 'relation "public.target" does not exist'}
        assert found.equal == {name for name, (_, why) in CHANGES.items() if why is None}
        assert sessions(source) == []


def test_ddl_that_never_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verdict of several drills is "proven", and every table is equal or named."""
    with running_source(17) as source:
        source.sql(
            f"CREATE TABLE r AS {ORDINARY}; CREATE TABLE s AS {ORDINARY}; CREATE TABLE u AS {ORDINARY}"
        )
        source.sql(f"CREATE MATERIALIZED VIEW m AS {ORDINARY}; CREATE TABLE quiet AS {ORDINARY}")
        source.backup()
        statements = [
            "TRUNCATE r; INSERT INTO r (id) SELECT generate_series(1, 5)",
            "ALTER TABLE s ADD COLUMN n int DEFAULT 7; ALTER TABLE s DROP COLUMN n",
            "ALTER TABLE u RENAME TO x; ALTER TABLE s RENAME TO u; ALTER TABLE x RENAME TO s",
            "DROP TABLE r; CREATE TABLE r (id int, v text)",
            "REFRESH MATERIALIZED VIEW m",
            "BEGIN; TRUNCATE u; ROLLBACK",
            "ALTER TABLE u ALTER id TYPE bigint; ALTER TABLE u ALTER id TYPE int",
            "VACUUM FULL s",
        ]
        # without the pause the archive of 1 MB segments would take most of the time
        with repeated(source, [statements], pause=0.03):
            drills = [drill(source, checked=False) for _ in range(2)]
        for found in drills:
            assert found.proof.proven, found.proof.summary
            assert found.equal | set(found.not_checked) >= {"r", "s", "u", "m", "quiet"}
            assert "quiet" in found.equal


def test_tables_that_are_locked_at_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the copy the lock of a transaction that had not ended is never released: no table may be waited for."""
    monkeypatch.setitem(SETTINGS, "lock_timeout", "300ms")
    with running_source(17) as source:
        source.sql("CREATE TABLE altered AS SELECT 1 AS a; CREATE TABLE held AS SELECT 1 AS a")
        source.sql("CREATE TABLE undone AS SELECT 1 AS a; CREATE TABLE quiet AS SELECT 1 AS a")
        source.backup()
        with source.connect() as one, source.connect() as two, source.connect() as three:
            for connection, statement in (
                (one, "ALTER TABLE altered ADD COLUMN b int"),
                (two, "TRUNCATE undone"),
                (three, "LOCK TABLE held"),
            ):
                connection.execute("BEGIN")
                connection.execute(statement.encode())
            three.execute("SELECT pg_current_xact_id()")

            def end() -> None:
                one.execute("COMMIT")
                two.execute("ROLLBACK")

            meanwhile(monkeypatch, end)
            found = drill(source, checked=False)
    assert found.proof.proven
    assert found.equal == {"quiet"}
    assert found.not_checked == {
        "altered": LOCKED,
        "undone": LOCKED,
        "held": "canceling statement due to lock timeout",
    }


def test_a_table_that_takes_too_long_is_named(shared: Source) -> None:
    shared.sql("CREATE TABLE slow AS SELECT 1 AS a")
    shared.write_config('drill.statement_timeout = "1s"\n')
    try:
        with shared.connect() as holder:
            holder.execute("BEGIN; LOCK TABLE slow")
            fence = fence_of(shared)
    finally:
        shared.write_config()
        shared.sql("DROP TABLE slow")
    assert [table.title for table in fence.databases[0].tables] == ["public.t"]
    assert fence.not_checked == (
        NotChecked(
            "postgres",
            "public.slow",
            "canceling statement due to statement timeout; drill.statement_timeout is 1 s",
        ),
    )


def test_a_broken_page_of_the_source_is_named(shared: Source) -> None:
    """It is no fault of the backup: the other tables are compared all the same, and the verdict tells of the source."""
    shared.sql("CREATE TABLE broken AS SELECT g FROM generate_series(1, 1000) g")
    path = shared.data / shared.sql("SELECT pg_relation_filepath('broken')")[0][0]
    shared.sql("CHECKPOINT")
    shared.restart()
    content = bytearray(path.read_bytes())
    content[8192:8216] = b"\xff" * 24
    path.write_bytes(content)
    fence = fence_of(shared)
    assert [table.title for table in fence.databases[0].tables] == ["public.t"]
    (item,) = fence.not_checked
    assert item.what == "public.broken"
    assert item.reason.startswith("damaged: invalid page in block 1 of relation base/")
    found = drill(shared, fence)
    assert found.equal == {"t"}
    assert (found.proof.verdict, found.proof.summary) == (
        "not exact",
        f"the source cannot read public.broken of database postgres: {item.reason.removeprefix('damaged: ')}",
    )
    with pytest.raises(ServerNotReady) as caught, connect(shared.cluster) as connection:
        connection.execute("SELECT count(*) FROM public.broken")
    assert str(caught.value) == (
        'cluster "main" cannot read what it stores\n'
        f"DETAIL: The server says: {item.reason.removeprefix('damaged: ')}.\n"
        "HINT: keep the older backups with pgproof hold, and prove one: docs/runbooks/backup-fails.md, step 4"
    )
    shared.sql("DROP TABLE broken")


def test_large_objects_without_the_privilege_are_named_with_the_grant(shared: Source) -> None:
    shared.sql("SELECT lo_from_bytea(90001, 'x')")
    shared.sql("REVOKE SET ON PARAMETER lo_compat_privileges FROM pgproof")
    try:
        fence = fence_of(shared)
    finally:
        shared.sql("GRANT SET ON PARAMETER lo_compat_privileges TO pgproof")
    assert fence.not_checked == (
        NotChecked(
            "postgres",
            LARGE_OBJECTS,
            "permission denied for large object 90001; "
            "GRANT SET ON PARAMETER lo_compat_privileges lets the role read them",
        ),
    )
    fence = fence_of(shared)
    assert fence.not_checked == ()
    assert [table.title for table in fence.databases[0].tables] == ["public.t", LARGE_OBJECTS]
    shared.sql("SELECT lo_unlink(90001)")


def test_a_table_without_the_privilege_is_named(shared: Source) -> None:
    shared.sql("CREATE TABLE denied (a int); CREATE SCHEMA closed; CREATE TABLE closed.c (a int)")
    shared.sql("REVOKE pg_read_all_data FROM pgproof; GRANT SELECT ON t TO pgproof")
    try:
        fence = fence_of(shared)
    finally:
        shared.sql("GRANT pg_read_all_data TO pgproof; REVOKE SELECT ON t FROM pgproof")
        shared.sql("DROP TABLE denied; DROP SCHEMA closed CASCADE")
    reasons = {item.what: item.reason for item in fence.not_checked}
    assert reasons == {
        "catalog pg_user_mapping": "permission denied for oid, umuser, umserver; GRANT pg_read_all_data reads it",
        "public.denied": "permission denied for table denied",
        "closed.c": "permission denied for schema closed",
    }


def test_names_of_tables_that_are_not_there_are_told(shared: Source) -> None:
    """A typo must not go unseen, and a table that was dropped must not fail the proof."""
    shared.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false STRATEGY file_copy")
    shared.write_config(
        'drill.exclude_tables = ["postgres.public.T", "nowhere.public.t", "closed.public.t"]\n'
        'drill.sample_tables = { "postgres.public.t" = 50, "postgres.t" = 5 }\n'
    )
    try:
        proof = drill(shared, checked=False).proof
    finally:
        shared.write_config()
        shared.sql("DROP DATABASE closed")
    told = {item.what for item in proof.not_checked if item.reason.startswith("no such table: ")}
    assert told == {
        '"postgres.public.T" of drill.exclude_tables',
        '"nowhere.public.t" of drill.exclude_tables',
        '"postgres.t" of drill.sample_tables',
    }
    assert proof.proven, proof.summary


@pytest.mark.parametrize("above", ["8kB", "1GB"])
def test_a_table_that_is_dropped_before_its_size_is_asked(
    shared: Source, monkeypatch: pytest.MonkeyPatch, above: str
) -> None:
    shared.sql("CREATE TABLE gone (a int)")
    shared.write_config(f'drill.sample_above = "{above}"\n')
    meanwhile(monkeypatch, lambda: shared.sql("DROP TABLE gone"))
    try:
        fence = fence_of(shared)
    finally:
        shared.write_config()
    reasons = {item.what: item.reason for item in fence.not_checked}
    assert reasons == {"public.gone": 'relation "public.gone" does not exist'}


def test_the_lock_of_a_table_is_not_kept_while_others_are_counted(
    shared: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ALTER TABLE that waits for the counting would stop everybody who uses the table."""
    shared.sql("CREATE TABLE aa (a int); CREATE TABLE zz (a int)")
    shared.write_config("drill.workers = 1\n")
    locked = []
    from pgproof.validation.fences import counting

    original = counting.current_definition

    def watched(connection: psycopg.Connection, table: counting.Table) -> str | None:
        rows = shared.sql(
            "SELECT relation::regclass::text FROM pg_locks WHERE mode = 'AccessShareLock' "
            "AND relation IN ('aa'::regclass, 'zz'::regclass) AND pid <> pg_backend_pid()"
        )
        locked.append((table.name, [name for (name,) in rows]))
        return original(connection, table)

    monkeypatch.setattr(counting, "current_definition", watched)
    fence_of(shared)
    shared.write_config()
    shared.sql("DROP TABLE aa, zz")
    assert sorted(locked) == [("aa", ["aa"]), ("t", []), ("zz", ["zz"])]


# a reader of a table meets its lock first when it asks for the size
READER = """
SELECT pid FROM pg_stat_activity
 WHERE wait_event_type = 'Lock' AND (query LIKE '%pg_table_size%' OR query LIKE 'SELECT count(*)%')
"""


def ending_the_reader(source: Source, table: str, how: str) -> Callable[[], None]:
    """Lock a table; whoever reads it is killed, as a damaged row would do it, or ended, as an administrator does."""

    def run() -> None:
        with (
            contextlib.suppress(psycopg.OperationalError),
            source.connect() as lock,
            source.connect() as other,
        ):
            lock.execute("BEGIN")
            lock.execute(f"LOCK TABLE {table}".encode())
            ready.set()
            deadline = time.monotonic() + 120
            while (row := other.execute(READER).fetchone()) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert row is not None
            if how == "terminate":
                other.execute("SELECT pg_terminate_backend(%s)", row)
                return
            os.kill(row[0], signal.SIGKILL)
            other.execute("SELECT pg_sleep(60)")  # until the crash ends this one as well

    ready, thread = threading.Event(), threading.Thread(target=run)

    def start() -> None:
        thread.start()
        assert ready.wait(60)

    return start


@pytest.mark.parametrize("workers", [1, 4])
def test_a_table_whose_reading_crashes_the_source_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    with running_source(17) as source:
        source.sql("CREATE TABLE rotten AS SELECT 1 AS a; CREATE TABLE sound AS SELECT 1 AS a")
        source.write_config(f"drill.workers = {workers}")
        source.backup()
        meanwhile(monkeypatch, ending_the_reader(source, "rotten", "kill"))
        with pytest.raises(ServerNotReady) as caught:
            fence_of(source)
        assert str(caught.value) == (
            'the source crashed while table "public.rotten" of database "postgres" was read\n'
            "DETAIL: Its session was killed, and the server restarted: a damaged row does that, or want of memory.\n"
            'HINT: the source\'s log names the signal; drill.exclude_tables = ["postgres.public.rotten"] leaves the '
            "table out; docs/runbooks/backup-fails.md, step 4"
        )
        source.server.wait_ready()


def test_a_connection_that_is_ended_is_no_crash(shared: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.sql("CREATE TABLE ended AS SELECT 1 AS a")
    try:
        meanwhile(monkeypatch, ending_the_reader(shared, "ended", "terminate"))
        with pytest.raises(ServerUnreachable, match="terminating connection due to administrator command"):
            fence_of(shared)
    finally:
        shared.sql("DROP TABLE ended")
