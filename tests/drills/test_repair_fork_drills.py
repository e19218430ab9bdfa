"""Content and repair across a fork: a restored copy that was promoted archives on, on timeline 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pgproof.postgres.connection import display_dsn
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key, list_wal
from tests.drills.damage import answer
from tests.restore.successor import succeed
from tests.servers.postgres import Source, running_source
from tests.wal.files import MB


@dataclass
class Fork:
    """A source whose server is the promoted copy; ``segment`` holds the fork, on timeline 2."""

    source: Source
    segment: WalSegment

    def content(self, segment: WalSegment) -> bytes:
        return b"".join(self.source.archive.open(find_key(self.source.archive, segment.name)))

    def flip(self, segment: WalSegment, offset: int) -> bytes:
        archive, content = self.source.archive, self.content(segment)
        altered = content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
        archive.store.delete(find_key(archive, segment.name))
        archive.write(archive.layout.wal_file(segment.name), [altered])
        return content

    def check(self, *options: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = answer(self.source, "wal", "check", "main", "--json", *options)
        return code, json.loads(out)


def _fill(source: Source) -> None:
    source.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 4000) g")


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    with running_source(17, wal_keep_size="64MB") as source:
        source.sql("CREATE TABLE t (g int, v text)")
        source.backup()
        _fill(source)
        source.sql("SELECT pg_create_restore_point('here')")
        _fill(source)
        source.archive_now()
        succeed(source, "here")
        _fill(source)
        source.archive_now()
        listing = list_wal(source.archive, MB)
        yield Fork(source, WalSegment(2, min(listing.numbers[2]), MB))


def test_nothing_is_wrong_across_the_fork(fork: Fork) -> None:
    code, found = fork.check("--content", "--all")
    assert (code, found["damaged"], found["content"]["crc"]) == (0, [], True)
    parent = fork.segment.on(1)
    assert fork.content(parent)[4] == fork.content(fork.segment)[4] == 1  # it starts with the parent's page
    assert fork.content(fork.segment) != fork.content(parent)


@pytest.mark.parametrize("offset", [60, 300_000])
def test_damage_after_the_fork_comes_back_from_the_source(fork: Fork, offset: int) -> None:
    """At 60 lies the end of a record that began on timeline 1."""
    healthy = fork.flip(fork.segment, offset)
    code, found = fork.check("--content")
    names = [name for name, _ in found["damaged"]]
    before = WalSegment(1, fork.segment.number - 1, MB)
    assert (code, names) == (1, [before.name, fork.segment.name] if offset == 60 else [fork.segment.name])
    code, found = fork.check("--content", "--repair")
    assert (code, found["repair"]["lost"], found["damaged"]) == (0, [], [])
    assert [one["name"] for one in found["repair"]["repaired"]] == [fork.segment.name]
    assert found["repair"]["intact"] == ([before.name] if offset == 60 else [])
    assert fork.content(fork.segment) == healthy


def test_history_that_is_missing_comes_back_from_the_source(fork: Fork) -> None:
    path = fork.source.stored("00000002.history")
    content = b"".join(fork.source.archive.open(find_key(fork.source.archive, "00000002.history")))
    path.unlink()
    code, found = fork.check("--repair")
    assert found["repair"]["repaired"][0] == {
        "name": "00000002.history",
        "place": f'source "{display_dsn(fork.source.cluster.dsn)}"',
        "was": "missing",
    }
    assert code == 0
    again = b"".join(fork.source.archive.open(find_key(fork.source.archive, "00000002.history")))
    assert again == content
