"""Two servers were promoted to timeline 2: the history of one must not name the archived WAL of the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgproof.errors import ObjectMissing
from pgproof.gaps.histories import find_history
from pgproof.postgres.server import LocalServer
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, read_history
from tests.drills.damage import answer
from tests.gaps.test_unknown import _writable
from tests.restore.test_futures import on, promoted_clone
from tests.servers.postgres import Source, running_source
from tests.wal.files import MB

HISTORY = "00000002.history"


@pytest.fixture(scope="module")
def split() -> Iterator[tuple[Source, LocalServer, LocalServer]]:
    """A source that is gone; the first clone archived its timeline 2, the second was promoted later and did not."""
    with running_source(17, wal_keep_size="64MB") as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        source.archive_now()
        with promoted_clone(source, "one", wal_keep_size="64MB") as one:
            one.wait(lambda: _writable(one.dsn), 30, "to be promoted")
            on(one, "INSERT INTO t VALUES (100)", "SELECT pg_switch_wal()", "CHECKPOINT")
            one.wait(lambda: "00000002/" in _names(source) and HISTORY in _names(source), 60, "to archive")
            for _ in range(3):
                source.archive_now()
            with promoted_clone(source, "two", archive_mode="off") as two:
                two.wait(lambda: _writable(two.dsn), 30, "to be promoted")
                source.server.stop("immediate")
                yield source, one, two
                source.server.start()


def _names(source: Source) -> str:
    return " ".join(info.key for info in source.archive.store.list(source.archive.layout.wal))


@contextmanager
def without_history(source: Source, *standbys: LocalServer) -> Iterator[None]:
    dsns = ", ".join(f'"host={standby.socket} user=pgproof dbname=postgres"' for standby in standbys)
    source.write_config(cluster=f"standbys = [{dsns}]")
    path = source.stored(HISTORY)
    content = path.read_bytes()
    path.unlink()
    try:
        yield
    finally:
        path.write_bytes(content)


def repaired(source: Source) -> tuple[int, dict[str, Any]]:
    code, out, err = answer(source, "wal", "check", "main", "--repair", "--json")
    assert out, err
    return code, json.loads(out)["repair"]


def test_the_history_of_another_server_is_not_taken(split: tuple[Source, LocalServer, LocalServer]) -> None:
    source, _, two = split
    with without_history(source, two):
        code, found = repaired(source)
        there = HISTORY in _names(source)
    assert (code, found["repaired"], there) == (1, [], False)
    (lost,) = found["lost"]
    said = [one["answer"] for one in lost["answers"] if one["place"].startswith("standby")]
    assert said[0].startswith("another server's history: it says that timeline 2 begins at LSN ")


def test_two_different_histories_are_a_conflict(split: tuple[Source, LocalServer, LocalServer]) -> None:
    source, one, two = split
    with without_history(source, one, two):
        code, found = repaired(source)
    assert (code, found["repaired"]) == (1, [])
    assert found["lost"][0]["answers"][-1] == {
        "place": "conflict",
        "answer": "two servers made this timeline; none was chosen",
    }


def test_the_right_one_is_known_by_the_archive_itself(split: tuple[Source, LocalServer, LocalServer]) -> None:
    """The source is away; the archived segment of the fork says which timeline was left, and where."""
    source, one, _ = split
    with without_history(source, one):
        _, found = repaired(source)
    assert [one["name"] for one in found["repaired"]] == [HISTORY]


class Told:
    """A place that says where timeline 2 begins, and has no WAL."""

    name, trusted = "a server", False

    def __init__(self, fork: LSN) -> None:
        self.fork = fork

    def segment(self, segment: WalSegment) -> list[bytes]:
        raise ObjectMissing("it is gone")

    def history(self, timeline: int) -> bytes:
        return f"1\t{self.fork}\tno recovery target specified\n".encode()

    def close(self) -> None:
        """Nothing is held."""


def test_where_in_its_segment_a_timeline_begins(split: tuple[Source, LocalServer, LocalServer]) -> None:
    """Both were promoted within one segment: the archived one says at which of its records."""
    source, _, _ = split
    archive = source.archive
    fork = read_history(archive, find_key(archive, HISTORY)).forks[0].lsn
    oldest = WalSegment.containing(2, fork, MB)
    answers = {
        lsn: find_history(archive, oldest, [Told(lsn)], source.bin)[1][0][1]
        for lsn in (fork, LSN(fork + 8), LSN(fork + 200), LSN(oldest.start - 8))
    }
    assert answers.pop(fork) == "has it"
    assert answers.pop(LSN(oldest.start - 8)).startswith(
        "nothing tells whether its timeline 2 is the archived one"
    )
    wrong = "another server's history: in the archived "
    assert [answer for answer in answers.values() if not answer.startswith(wrong)] == []
