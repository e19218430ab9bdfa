"""Fences on real servers: exact, patient, limited, and gone from the source whatever happens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pgproof.errors import NotProven, ServerNotReady, ServerUnreachable, WalNotArchived, WrongSystem
from pgproof.validation.fences import burst, fencing
from pgproof.validation.fences.counting import Counter
from pgproof.validation.fences.fence import WHOLE_DATABASE, NotChecked, read_fence
from pgproof.validation.fences.fencing import _Fencer, take_fence
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import drill, fence_of, meanwhile, sessions
from tests.validation.stuck import AWAY, stuck_commit
from tests.validation.writers import repeated


def test_an_idle_server_has_an_exact_fence(shared: Source) -> None:
    fence = fence_of(shared)
    assert fence.exact
    assert fence.exact_candidates == fence.candidates == shared.cluster.drill.candidates
    assert fence.cut is not None
    assert fence.cut < fence.end_lsn
    assert sessions(shared) == []
    assert read_fence(shared.archive, fence.identifier) == fence


def test_snapshots_are_released_when_counting_fails(shared: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Counter) -> None:
        assert [state for state, _ in sessions(shared) if state == "idle in transaction"]
        raise RuntimeError("as the host loses its memory")

    monkeypatch.setattr(Counter, "count", failing)
    with pytest.raises(RuntimeError, match="loses its memory"):
        fence_of(shared)
    _assert_released(shared)


def test_snapshots_are_released_when_the_archive_does_not_come(shared: Source) -> None:
    shared.write_config('drill.archive_timeout = "1s"\n')
    shared.sql("ALTER SYSTEM SET archive_command = 'false'")
    before = shared.server.settings
    shared.set(archive_command="false")
    try:
        with pytest.raises(WalNotArchived) as caught:
            fence_of(shared)
        assert caught.value.fact.startswith('WAL segment "00000001')
        assert caught.value.fact.endswith('" of the fence did not reach the archive')
        assert (caught.value.detail, caught.value.hint) == ("Waited 1 s.", "pgproof doctor main")
        _assert_released(shared)
    finally:
        shared.write_config()
        shared.sql("ALTER SYSTEM RESET archive_command")
        shared.set(archive_command=before["archive_command"])


def _assert_released(source: Source) -> None:
    end = time.monotonic() + 5
    while sessions(source) and time.monotonic() < end:
        time.sleep(0.02)
    assert sessions(source) == []


def test_a_source_that_closes_idle_transactions_early(
    shared: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshots wait idle for the archive: they ask for patience, and get it."""
    for name in ("idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"):
        shared.sql(f"ALTER ROLE pgproof SET {name} = '100ms'")
    meanwhile(monkeypatch, lambda: time.sleep(0.4))
    try:
        fence = fence_of(shared)
    finally:
        shared.sql("ALTER ROLE pgproof RESET ALL")
    assert fence.exact
    assert fence.not_checked == ()


@pytest.mark.parametrize("candidates", [1, 3, 20])
def test_no_more_candidates_than_wanted(
    shared: Source, monkeypatch: pytest.MonkeyPatch, candidates: int
) -> None:
    open_at_once = []
    meanwhile(monkeypatch, lambda: open_at_once.append(len(sessions(shared))))
    shared.write_config(f"drill.candidates = {candidates}\n")
    try:
        fence = fence_of(shared)
    finally:
        shared.write_config()
    assert fence.candidates == candidates
    assert open_at_once == [candidates + 1]  # and the one that steers


@pytest.fixture(scope="module")
def several() -> Iterator[Source]:
    """Six databases that can be read, and two that cannot."""
    with running_source(17) as source:
        for name in NAMES:
            source.sql(f"CREATE DATABASE {name} STRATEGY file_copy")
            source.sql(f"CREATE TABLE t AS SELECT '{name}' AS a", database=name)
        source.sql("CREATE DATABASE closed STRATEGY file_copy")
        source.sql("ALTER DATABASE closed ALLOW_CONNECTIONS false")
        source.sql("CREATE DATABASE torn STRATEGY file_copy")
        source.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'torn'")
        source.backup()
        yield source


NAMES = [f"d{number}" for number in range(5)]


def test_all_databases_have_one_cut(several: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    open_at_once = []
    meanwhile(monkeypatch, lambda: open_at_once.append(len(sessions(several))))
    found = drill(several, checked=False)
    assert found.proof.proven
    assert sorted(table.database for table in found.comparison.tables) == NAMES
    assert {d.cut for d in found.fence.databases} == {found.fence.cut}
    assert len(found.proof.cuts) == 6
    assert (found.fence.several_cuts, found.proof.several_cuts) == ("", "")
    assert open_at_once == [25]  # four candidates for each of six databases, and the one that steers
    assert found.fence.exact_candidates == found.fence.candidates == 24
    assert set(found.fence.not_checked) == {
        NotChecked("closed", WHOLE_DATABASE, "it allows no connections"),
        NotChecked("torn", WHOLE_DATABASE, "invalid: its DROP DATABASE was interrupted"),
    }


def test_more_databases_than_connections_are_fenced_in_groups(
    several: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group has a cut of its own, as the one before it is ended by a commit."""
    open_at_once = []
    meanwhile(monkeypatch, lambda: open_at_once.append(len(sessions(several))))
    several.write_config("drill.connections = 2\n")
    try:
        found = drill(several, checked=False)
    finally:
        several.write_config()
    assert found.proof.proven
    assert open_at_once == [3, 3, 3]
    cuts = [database.cut for database in found.fence.databases]
    assert cuts[::2] == cuts[1::2]
    assert len(set(cuts)) == 3
    assert found.proof.several_cuts == "3 cuts, as 6 databases are more than the 2 of drill.connections"


def test_databases_that_never_agree_have_cuts_of_their_own(
    several: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a server that commits all the time: the copy is recovered to one cut after the other."""
    ask, asked = burst._ask_all, 0

    def busy(connections: Any, query: bytes) -> Any:
        nonlocal asked
        if query != burst._SNAPSHOT or len(connections) < 2:
            return ask(connections, query)
        asked += 1
        found = []
        for connection in connections:
            found += ask([connection], query)
            several.sql(
                "UPDATE t SET a = a || 'x'", database=connection.info.dbname.replace("postgres", "d0")
            )
        return found

    monkeypatch.setattr(burst, "_ask_all", busy)
    monkeypatch.setattr(burst, "_TRIES", 2)
    found = drill(several, checked=False)
    assert found.proof.proven
    assert asked == 3 * 4 * 2  # bursts, candidates, tries
    assert len({d.cut for d in found.fence.databases}) == 6
    assert found.proof.several_cuts == (
        "6 cuts, as transactions ended between the snapshots of the databases in every burst"
    )
    assert found.fence.exact_candidates == found.fence.candidates == 3 * 24


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_a_role_without_connections_left_is_a_passing_fault(shared: Source, limit: int) -> None:
    shared.sql(f"ALTER ROLE pgproof CONNECTION LIMIT {limit}")
    try:
        with pytest.raises(ServerUnreachable) as caught:
            fence_of(shared)
    finally:
        shared.sql("ALTER ROLE pgproof CONNECTION LIMIT -1")
    assert caught.value.fact == 'could not connect to cluster "main"'
    assert 'too many connections for role "pgproof"' in caught.value.detail
    _assert_released(shared)


def test_a_role_that_may_not_switch_wal_waits_for_the_archive(shared: Source) -> None:
    shared.sql("REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM pgproof")
    shared.write_config('drill.archive_timeout = "1s"\n')
    try:
        with pytest.raises(WalNotArchived) as caught:
            fence_of(shared)
        assert caught.value.hint == 'GRANT EXECUTE ON FUNCTION pg_switch_wal() TO "pgproof"'
        shared.write_config()
        # segments that end by themselves, as on a busy server
        switching = "SELECT pg_logical_emit_message(false, '', 'x'), pg_switch_wal()"
        with repeated(shared, [[switching]], pause=0.3):
            assert fence_of(shared).exact
    finally:
        shared.write_config()
        shared.sql("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO pgproof")


def test_another_cluster_is_never_compared(shared: Source) -> None:
    other = shared.repository.archive("main", 7)
    with pytest.raises(WrongSystem) as caught:
        take_fence(shared.cluster, lambda system: other, now)
    assert caught.value.fact == 'server of cluster "main" belongs to another cluster'


def test_a_standby_cannot_be_fenced(shared: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    read = fencing.read_facts
    monkeypatch.setattr(fencing, "read_facts", lambda c: dataclasses.replace(read(c), in_recovery=True))
    with pytest.raises(ServerNotReady) as caught:
        fence_of(shared)
    assert (caught.value.fact, caught.value.hint) == ('cluster "main" is a standby', "name its primary")


def test_the_bursts_go_on_until_a_cut_is_exact(shared: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst whose candidates are all in the middle of a commit is tried again; the snapshots are given back."""
    rounds: list[int] = []
    original = _Fencer._archived_commits

    def disturbed(self: _Fencer, burst: object) -> list[object]:
        commits = original(self, burst)  # type: ignore[arg-type]
        rounds.append(len(sessions(shared)))
        return commits[::-1] if len(rounds) < 3 else list(commits)

    monkeypatch.setattr(_Fencer, "_archived_commits", disturbed)
    with shared.writer():
        fence = fence_of(shared)
    assert fence.exact
    assert len(rounds) == 3
    assert len(set(rounds)) == 1
    shared.sql("DROP TABLE busy")


def test_a_fence_without_an_exact_cut_says_why(shared: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Fencer, "_archived_commits", lambda self, burst: [])
    fence = fence_of(shared)
    assert not fence.exact
    assert fence.cut is None
    (database,) = fence.databases
    assert (database.cut, database.tables) == (None, ())
    assert database.reason == "no commit after the fence is in the archive"
    assert fence.candidates == 5 * shared.cluster.drill.candidates
    assert fence.exact_candidates == 0
    assert sessions(shared) == []


# ---- a synchronous standby that is away


def _move_wal(source: Source, segments: int) -> None:
    """WAL without any transaction."""
    for _ in range(segments):
        source.sql("SELECT pg_logical_emit_message(false, '', 'x'), pg_switch_wal()")


@pytest.mark.parametrize("later_commit", [False, True], ids=["from xmax on", "running at the fence"])
def test_a_commit_that_waits_long_for_a_standby_is_not_a_difference(later_commit: bool) -> None:
    """Its record is in WAL from before what the fence looks at, so the cut seems exact and is not."""
    with running_source(17, **AWAY) as source:
        source.sql("CREATE TABLE stuck (a int); CREATE TABLE t AS SELECT 1 AS a")
        source.backup()
        with stuck_commit(source) as xid:
            if later_commit:
                source.sql("INSERT INTO t VALUES (2)")
            _move_wal(source, 3)
            fence = fence_of(source)
            assert [d.reason for d in fence.databases] == [
                f"transaction {xid} committed before the WAL of the fence, and still waits for a synchronous "
                "standby to be seen"
            ]
            # where the role may not see that it waits, the copy tells
            source.sql("REVOKE pg_monitor FROM pgproof")
            fence = fence_of(source)
            assert fence.exact
            with pytest.raises(NotProven) as caught:
                drill(source, fence, checked=False)
        assert caught.value.fact == (
            f"transaction {xid} is committed in the copy and was not seen at the fence"
        )


def test_a_commit_that_waits_for_a_standby_is_the_cut_when_it_is_near() -> None:
    with running_source(17, **AWAY) as source:
        source.sql("CREATE TABLE stuck (a int)")
        source.backup()
        with stuck_commit(source):
            found = drill(source, checked=False)
        assert found.proof.proven
        assert found.equal == {"stuck"}
        assert [table.source_rows for table in found.comparison.tables] == [0]
