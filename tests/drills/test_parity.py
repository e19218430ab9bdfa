"""What a user gets by the printed steps is what the drill proved: the same fingerprints at the same cut."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgproof.postgres.lock_file import RunningServer, running_in
from pgproof.postgres.programs import account, as_account, environment
from pgproof.restore.isolation import session_options
from pgproof.validation.catalogs.object_recount import bring_objects, recount_objects
from pgproof.validation.catalogs.objects import HeldObjects
from pgproof.validation.comparing import compare_restored
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import make_proof
from pgproof.validation.fences.fence import WHOLE_DATABASE, Fence
from pgproof.validation.recount import recount
from pgproof.validation.scratch import Scratch
from pgproof.validation.sessions import sessions_of
from tests.conftest import MAJORS
from tests.drills.awkward import THINGS, Awkward, awkward_source
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, now
from tests.validation.drilling import fence_of, restored_copy

# What an isolated cluster may run, once it was opened
HARMLESS = {"client backend", "checkpointer", "background writer", "walwriter", "startup", "io worker"}
HARMLESS |= {"autovacuum launcher", "autovacuum worker"}

# Every thing once, on a version and a layout, with others that do not hide it
MIXES: list[tuple[int, bool, tuple[str, ...]]] = [
    (
        15,
        True,
        ("acts on others", "waits", "settings raised", "later tablespace", "time zone", "names in LATIN1"),
    ),
    (15, False, ("names another cluster", "timeline 2", "subscriber", "databases dropped and moved")),
    (
        17,
        True,
        ("tablespace inside", "waits", "names another cluster", "separators in a value", "connection limit"),
    ),
    (
        18,
        False,
        ("checksums enabled", "64 MB segments", "acts on others", "tables of users in information_schema"),
    ),
    (18, True, ("several databases", "later tablespace", "settings raised", "timeline 2")),
]


def label(mix: tuple[int, bool, tuple[str, ...]]) -> str:
    major, debian, names = mix
    return f"pg{major}-{'debian' if debian else 'plain'}-{'-'.join(names)}"


@dataclass
class Pair:
    """A source with its fence, and what its drill found."""

    source: Source
    things: list[Awkward]
    fence: Fence
    drilled: Comparison
    label: str


@pytest.mark.parametrize("mix", MIXES, ids=label)
def test_the_printed_steps_lead_to_what_the_drill_proved(
    mix: tuple[int, bool, tuple[str, ...]], tmp_path: Path
) -> None:
    compare(*mix, tmp_path, by_hand="timeline 2" in mix[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", THINGS)
@pytest.mark.parametrize("debian", [False, True], ids=["plain", "debian"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["start", "line"])
@pytest.mark.parametrize("major", MAJORS, ids=lambda major: f"pg{major}")
def test_each_thing_alone(major: int, by_hand: bool, debian: bool, name: str, tmp_path: Path) -> None:
    if major >= THINGS[name].since:
        compare(major, debian, (name,), tmp_path, by_hand=by_hand)


def compare(major: int, debian: bool, names: tuple[str, ...], tmp_path: Path, *, by_hand: bool) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    things = [THINGS[name] for name in names]
    with awkward_source(major, things, debian=debian) as source:
        pair = proven(source, things)
        held = held_objects(pair, tmp_path)
        data = source.root / "restored"
        with user_gets(pair, data, by_hand=by_hand) as server:
            assert_the_same(pair, server, held)
            assert_apart(pair, server)


def proven(source: Source, things: list[Awkward]) -> Pair:
    """Drill the source: the drill says equal and sound."""
    fence = fence_of(source)
    with restored_copy(source, fence) as copy:
        comparison = compare_restored(source.cluster, fence, copy)
    proof = make_proof(source.archive, fence, copy.label, now, restored=copy, comparison=comparison)
    assert proof.proven, proof.summary
    left_out = {item.database for item in fence.not_checked if item.what == WHOLE_DATABASE}
    assert left_out == {name for thing in things for name in thing.not_checked}
    assert not fence.several_cuts
    return Pair(source, things, fence, comparison, copy.label)


def held_objects(pair: Pair, place: Path) -> HeldObjects:
    scratch = Scratch(place)
    bring_objects(pair.source.archive, pair.fence, scratch)
    return HeldObjects(scratch.objects)


def run_step(pair: Pair, step: str) -> dict[str, Any]:
    """Do what a printed step of ours says, word by word."""
    words = shlex.split(step, comments=True)
    assert words.pop(0) == "pgproof"
    code, out, err = answer(pair.source, *words, "--json")
    assert (code, err) == (0, ""), out + err
    found: dict[str, Any] = json.loads(out)
    return found


def run_line(line: str) -> None:
    """Do what a line for the shell says, as the server's account."""
    done = subprocess.run(
        ["bash", "-c", line],
        env=environment(),
        timeout=120,
        **as_account(account(None)),  # type: ignore[call-overload]
    )
    assert done.returncode == 0


@contextmanager
def user_gets(pair: Pair, data: Path, *, by_hand: bool) -> Iterator[RunningServer]:
    """The cluster that a user gets, who does what is printed, for the time of a block."""
    options = [word for thing in pair.things for word in thing.options(pair.source, data)]
    words = ["restore", "main", "--to", str(data), "--target-lsn", str(pair.fence.cut), "--exclusive"]
    code, out, err = answer(pair.source, *words, *options, "--json")
    assert (code, err) == (0, ""), out
    planned = json.loads(out)
    assert planned["backup"] == pair.label
    first, *_, line = planned["next"]
    assert first == f"pgproof start {data}"  # with the source's configuration, wherever the source has it
    try:
        if by_hand:
            run_line(line)
        started = run_step(pair, first)
        assert (started["findings"], started["state"]) == ([], "paused")
        server = running_in(data)
        assert server is not None
        yield server
    finally:
        if server := running_in(data):
            server.stop()


def assert_the_same(pair: Pair, server: RunningServer, held: HeldObjects) -> None:
    """Every table, all else of every database, and users' own queries are as on the source and in the drill."""
    fence, drill = pair.fence, pair.source.cluster.drill
    dsn = make_conninfo(server.dsn, user=fence.bootstrap_role, options=session_options(pair.source.major))
    tables, objects = [], []
    for database in fence.databases:
        content = held.of(database.database)
        sessions = sessions_of(dsn, database.database, content.settings if content else {})
        assert not sessions.refused
        left_out = {item.what for item in fence.not_checked if item.database == database.database}
        found = recount(drill, database, sessions.ours, left_out)
        assert not found.not_checked
        tables += found.rows
        objects += recount_objects(drill, database, content, sessions.ours).rows
    assert [table.difference() for table in tables if not table.equal] == []
    assert [kind for kind in objects if not kind.equal] == []
    assert tables == list(pair.drilled.tables)
    assert objects == list(pair.drilled.objects)
    for thing in pair.things:
        for name, query in thing.probes:
            assert ask(server.dsn, query, name) == ask(pair.source.server.dsn, query, name)


def ask(dsn: str, query: str, database: str = "postgres") -> list[Any]:
    """The rows of the last statement."""
    with psycopg.connect(f"{dsn} user=postgres dbname={database}", autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def assert_apart(pair: Pair, server: RunningServer) -> None:
    """It acts on nobody, paused as well as opened, and a commit waits for nobody."""
    ask(server.dsn, "CHECKPOINT")  # a restartpoint runs archive_cleanup_command
    for query in ("SELECT pg_promote()", "INSERT INTO t VALUES (-2)", "SELECT pg_switch_wal()"):
        ask(server.dsn, query)
    types = {name for (name,) in ask(server.dsn, "SELECT DISTINCT backend_type FROM pg_stat_activity")}
    assert types <= HARMLESS
    server.stop()
    assert not list(pair.source.root.glob("marker*"))
    assert pair.source.sql("SELECT count(*) FROM t") == [(301,)]
