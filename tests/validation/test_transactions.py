"""Every way in which a transaction can end around a fence, on each PostgreSQL: the drill is exact, and proves.

``between`` commits after the snapshots and before the end of the burst, so what it does is the first in WAL that the
fence does not see. Each test says which rows the source was seen to have; a drill that is a commit too early or too
late has others.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgproof.validation.fences.cut import Snapshot
from pgproof.validation.fences.fencing import _Fencer
from pgproof.validation.targets.canary import _PLANTED
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import Drill, drill
from tests.validation.writers import Connection, repeated

MAJORS = [15, 17, 18]
WRAP = 1 << 32
MANY = 70  # savepoints: more than a snapshot has room for (PGPROC_MAX_CACHED_SUBXIDS, 64)


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> Iterator[Source]:
    """One source a version: WAL of asynchronous commits is written by nobody but who must."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param, max_prepared_transactions="20", wal_writer_delay="10s") as source:
        source.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        source.backup()
        yield source


@pytest.fixture
def source(server: Source) -> Iterator[Source]:
    """The source, whose table is empty."""
    server.sql("TRUNCATE t")
    yield server
    assert server.sql("SELECT gid FROM pg_prepared_xacts") == []


def between(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something after the snapshots of a burst and before the transaction that ends it."""
    original = _Fencer._archived_commits

    def patched(self: _Fencer, burst: object) -> object:
        action()
        return original(self, burst)  # type: ignore[arg-type]

    monkeypatch.setattr(_Fencer, "_archived_commits", patched)


def proven(source: Source, rows: int) -> Drill:
    """A drill that proves, and that saw so many rows of ``t``; all snapshots of an otherwise idle server are exact."""
    found = drill(source, checked=False)
    assert found.proof.proven, found.proof.summary
    assert found.not_checked == {}
    (table,) = found.comparison.tables
    assert (table.source_rows, table.restored_rows, table.equal) == (rows, rows, True)
    assert found.fence.exact_candidates == found.fence.candidates
    return found


def snapshot_of(found: Drill) -> Snapshot:
    return Snapshot.parse(str(found.fence.databases[0].snapshot))


def xid_of(connection: Connection) -> int:
    row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


def insert(connection: Connection, number: int) -> None:
    connection.execute("INSERT INTO t VALUES (%s)", (number,))


def test_an_idle_server(source: Source) -> None:
    source.sql("INSERT INTO t VALUES (1)")
    first, second = proven(source, 1), proven(source, 1)
    assert first.fence.cut is not None and second.fence.cut is not None
    assert first.fence.cut < second.fence.cut


# ---- prepared transactions


def prepare(source: Source, name: str, number: int) -> int:
    with source.connect() as connection:
        connection.execute("BEGIN")
        insert(connection, number)
        xid = xid_of(connection)
        connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
    return xid


def test_prepared_transactions_that_end_around_the_fence(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["before", "undone before", "after", "undone after", "open"]
    xids = {name: prepare(source, name, number) for number, name in enumerate(names)}
    source.backup()  # which has them all as files
    source.sql("COMMIT PREPARED 'before'")
    source.sql("ROLLBACK PREPARED 'undone before'")

    def end() -> None:
        source.sql("ROLLBACK PREPARED 'undone after'")
        source.sql("COMMIT PREPARED 'after'")

    between(monkeypatch, end)
    try:
        found = proven(source, 1)
    finally:
        source.sql("ROLLBACK PREPARED 'open'")
    assert snapshot_of(found).xip == {xids["after"], xids["undone after"], xids["open"]}


def test_a_transaction_that_is_prepared_between_the_snapshots_and_their_end(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.sql("INSERT INTO t VALUES (1)")

    def both() -> None:
        prepare(source, "late", 2)
        source.sql("COMMIT PREPARED 'late'")

    between(monkeypatch, both)
    proven(source, 1)


# ---- sub-transactions


def savepoints(connection: Connection, first: int) -> None:
    """An open transaction of many sub-transactions that wrote; every seventh is undone."""
    connection.execute("BEGIN")
    for number in range(first, first + MANY):
        connection.execute("SAVEPOINT s")
        insert(connection, number)
        connection.execute("ROLLBACK TO s" if number % 7 == 0 else "RELEASE s")


def test_more_sub_transactions_than_a_snapshot_has_room_for(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = MANY - MANY // 7
    with contextlib.ExitStack() as stack:
        before, after, open_, undone = (stack.enter_context(source.connect()) for _ in range(4))
        for number, connection in enumerate([before, after, open_, undone]):
            savepoints(connection, number * MANY)
        before.execute("COMMIT")

        def end() -> None:
            undone.execute("ROLLBACK")
            after.execute("COMMIT")

        between(monkeypatch, end)
        found = proven(source, kept)
        assert len(snapshot_of(found).xip) == 3  # only the transactions themselves
        open_.execute("COMMIT")
    monkeypatch.undo()
    proven(source, 3 * kept)


# ---- how a transaction ends


def test_asynchronous_commits(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are seen before their commit record is on any disk."""
    with source.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        for number in range(20):
            insert(connection, number)
        between(monkeypatch, lambda: [insert(connection, number) for number in range(20, 25)])
        proven(source, 20)


def test_aborted_transactions(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first end of a transaction after the fence is a ROLLBACK: it is no cut, and nothing of it is there."""
    with source.connect() as early, source.connect() as late, source.connect() as failing:
        for number, connection in enumerate([early, late, failing]):
            connection.execute("BEGIN")
            insert(connection, number)
        early.execute("ROLLBACK")
        source.sql("INSERT INTO t VALUES (10)")

        def abort() -> None:
            late.execute("ROLLBACK")
            with pytest.raises(psycopg.errors.DivisionByZero):
                failing.execute("SELECT 1 / 0")
            failing.execute("COMMIT")  # which is a ROLLBACK

        between(monkeypatch, abort)
        proven(source, 1)


def test_a_session_that_is_killed_in_its_transaction(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(source.connect()) as connection:
        connection.execute("BEGIN")
        insert(connection, 1)
        between(
            monkeypatch,
            lambda: source.sql("SELECT pg_terminate_backend(%s, 5000)", connection.info.backend_pid),
        )
        proven(source, 0)
        assert source.sql("SELECT * FROM t") == []


def test_commit_and_chain(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next transaction begins at once, with no BEGIN in between."""
    with source.connect() as connection:
        connection.execute("BEGIN")
        for number in range(3):
            insert(connection, number)
            connection.execute("COMMIT AND CHAIN")
        insert(connection, 3)
        connection.execute("ROLLBACK AND CHAIN")
        insert(connection, 4)

        def chain() -> None:
            connection.execute("COMMIT AND CHAIN")
            insert(connection, 5)
            connection.execute("COMMIT AND CHAIN")

        between(monkeypatch, chain)
        proven(source, 3)
        connection.execute("ROLLBACK")
    monkeypatch.undo()
    proven(source, 5)


def test_transactions_that_are_open_before_and_after(source: Source) -> None:
    """One since before the backup, and one since before the fence: their rows are in the files and not to be seen."""
    with source.connect() as oldest, source.connect() as newer:
        oldest.execute("BEGIN")
        insert(oldest, 1)
        first = xid_of(oldest)
        source.sql("CHECKPOINT")
        source.backup()
        source.sql("INSERT INTO t VALUES (2)")
        newer.execute("BEGIN")
        insert(newer, 3)
        found = proven(source, 1)
        assert snapshot_of(found).xmin == first
        assert snapshot_of(found).xip == {first, xid_of(newer)}
        oldest.execute("COMMIT")
        newer.execute("ROLLBACK")
    proven(source, 2)


# ---- DDL

# statements that never stop; every table is counted as it was, or named with the reason
STREAMS = [
    [
        "CREATE TABLE made AS SELECT g AS id FROM generate_series(1, 50) g",
        "CREATE INDEX CONCURRENTLY made_id ON made (id)",
        "REINDEX TABLE CONCURRENTLY made",
        "ALTER TABLE made ADD COLUMN v text DEFAULT 'v'",
        "ALTER TABLE made ALTER id TYPE bigint",
        "VACUUM FULL made",
        "CLUSTER made USING made_id",
        "DROP TABLE made",
    ],
    [
        "BEGIN; TRUNCATE emptied; INSERT INTO emptied SELECT generate_series(1, 9); COMMIT",
        "REFRESH MATERIALIZED VIEW shown",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY shown",
        "ALTER TABLE emptied RENAME TO renamed; ALTER TABLE renamed RENAME TO emptied",
        "BEGIN; ALTER TABLE emptied ADD COLUMN w int; ROLLBACK",
        "CREATE OR REPLACE VIEW seen AS SELECT id, 1 AS one FROM emptied; DROP VIEW seen",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; DROP FUNCTION f()",
        "REINDEX INDEX CONCURRENTLY t_pkey",
        "VACUUM (FREEZE) t",
    ],
]


def test_ddl_that_never_stops_makes_no_false_difference(source: Source) -> None:
    source.sql("INSERT INTO t SELECT g, 'v' FROM generate_series(1, 30) g; CREATE TABLE emptied (id int)")
    source.sql("CREATE MATERIALIZED VIEW shown AS SELECT * FROM t; CREATE UNIQUE INDEX ON shown (id)")
    with repeated(source, STREAMS) as rounds:
        drills = [drill(source, checked=False) for _ in range(2)]
    source.sql("DROP MATERIALIZED VIEW shown; DROP TABLE emptied; DROP TABLE IF EXISTS made")
    assert min(rounds) >= 1
    for found in drills:
        assert found.proof.proven, found.proof.summary
        assert found.equal | set(found.not_checked) >= {"t", "emptied", "shown"}
        assert "t" in found.equal


# ---- xids beyond 2^32


def set_next_xid(source: Source, xid: int) -> None:
    """Move the xid counter of a stopped cluster: 32 bits of it, and its epoch; the commit log must have the page."""
    epoch, low = divmod(xid, WRAP)
    log = source.data / "pg_xact" / f"{low >> 20:04X}"  # 32 pages of 32,768 xids in a segment
    if not log.exists():
        log.write_bytes(bytes(1 << 18))
        log.chmod(0o600)
    words = ["-f", "-e", str(epoch), "-x", str(low), "-D", str(source.data)]
    with source.away():
        run_program(source, "pg_resetwal", *words)


def run_program(source: Source, program: str, *words: str) -> None:
    done = subprocess.run([str(source.bin / program), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def freeze(source: Source) -> None:
    for (database,) in source.sql("SELECT datname FROM pg_database"):
        source.sql("VACUUM (FREEZE)", database=database)


def burn_to(source: Source, xid: int) -> None:
    """Take xids until this is the next one."""
    with source.connect() as connection:
        while xid_of(connection) < xid - 1:
            pass


def before_the_wrap(source: Source) -> None:
    """Close to 2^32, in steps of less than 2^31, as xids are compared in a circle."""
    source.sql("UPDATE pg_database SET datallowconn = true")
    freeze(source)
    for xid in (0x6000_0000, 0xC000_0000):
        set_next_xid(source, xid)
        freeze(source)
    set_next_xid(source, WRAP - 300)


@pytest.mark.parametrize("major", MAJORS, ids=lambda major: f"pg{major}")
def test_xids_around_a_new_epoch(major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major, autovacuum="off") as source:
        source.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        before_the_wrap(source)
        source.backup()
        source.sql("INSERT INTO t VALUES (1)")
        first = WRAP - 2 - _PLANTED  # the fence plants its canaries before its snapshots
        burn_to(source, first)
        with source.connect() as old:
            old.execute("BEGIN")
            insert(old, 2)
            assert xid_of(old) == first
            written = iter(range(10, 20))

            def commits() -> None:
                for _ in range(3):
                    source.sql("INSERT INTO t VALUES (%s)", next(written))

            between(monkeypatch, commits)
            found = proven(source, 1)
            assert (snapshot_of(found).xmax, snapshot_of(found).xip) == (WRAP - 1, {first})
            # now the next xids are of epoch 1, and one that is open is of epoch 0
            found = proven(source, 4)
            assert snapshot_of(found).xmax > WRAP
            assert snapshot_of(found).xmin == first
            old.execute("COMMIT")
        monkeypatch.undo()
        proven(source, 8)
        source.backup()
        source.sql("INSERT INTO t VALUES (100)")
        assert snapshot_of(proven(source, 9)).xmin > WRAP
