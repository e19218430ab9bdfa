"""Two clones were promoted to timeline 2 at one LSN and only one archives: WAL of the other fits, and is not it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pgproof.postgres.server import LocalServer
from pgproof.wal.archive import find_key
from tests.drills.damage import answer
from tests.gaps.test_unknown import _writable
from tests.restore.test_futures import on
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source


@contextmanager
def clone(source: Source, name: str, **settings: str) -> Iterator[LocalServer]:
    """A copy of a source that is shut down, promoted."""
    data = source.root / name
    shutil.copytree(source.data, data)
    (data / "standby.signal").touch()
    give_to_server(data)
    server = source.start_copy(data, name, wal_keep_size="64MB", **settings)
    try:
        server.wait_ready()
        on(server, "SELECT pg_promote()")
        server.wait(lambda: _writable(server.dsn), 30, "to be promoted")
        yield server
    finally:
        server.stop("fast")


@pytest.fixture(scope="module")
def clones() -> Iterator[tuple[Source, LocalServer, LocalServer, list[str]]]:
    """A source that is gone, the clone that archives, one that does not, and the archived segments of timeline 2."""
    with running_source(17) as source, ExitStack() as stack:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        source.archive_now()
        source.server.stop("fast")
        archiving = {"archive_mode": "on", "archive_command": source.archive_command}
        one = stack.enter_context(clone(source, "one", **archiving))
        two = stack.enter_context(clone(source, "two"))
        for server, value in ((one, 100), (two, 200)):
            on(server, "CHECKPOINT", "SELECT pg_switch_wal()")  # that of the promotion comes at any moment
            for number in range(4):
                on(server, f"INSERT INTO t VALUES ({value + number})", "SELECT pg_switch_wal()")
        one.wait(lambda: len(_archived(source)) >= 5, 60, "to archive")
        yield source, one, two, _archived(source)
        source.server.start()


def _archived(source: Source) -> list[str]:
    keys = [info.key for info in source.archive.store.list(f"{source.archive.layout.wal}00000002/")]
    return sorted(name for key in keys if len(name := key.rsplit("/", 1)[-1].split(".")[0]) == 24)


def repaired(source: Source, dsn: LocalServer, *standbys: LocalServer) -> dict[str, Any]:
    named = [
        f"host={server.socket} port={server.port} user=pgproof dbname=postgres" for server in (dsn, *standbys)
    ]
    standby = ", ".join(f'"{text}"' for text in named[1:])
    source.write_config(dsn=named[0], cluster=f"standbys = [{standby}]")
    out, err = answer(source, "wal", "check", "main", "--repair", "--json")[1:]
    assert out, err
    found: dict[str, Any] = json.loads(out)["repair"]
    return found


@pytest.mark.parametrize("position", [-3, -2])
def test_wal_of_another_clone_is_not_taken(
    clones: tuple[Source, LocalServer, LocalServer, list[str]], position: int
) -> None:
    """It was, and the archive held two futures mixed: a row of the other clone, without an error in any check."""
    source, one, two, names = clones
    name = names[position]
    path = source.stored(name)
    content = path.read_bytes()
    path.unlink()
    try:
        found = repaired(source, two)
        (lost,) = found["lost"]
        assert (lost["name"], found["repaired"]) == (name, [])
        said = " ".join(a["answer"] for a in lost["answers"])
        # a record more or less, such as of a checkpoint in time, and the links do not fit either
        assert "another server's WAL of the same timeline" in said or "incorrect prev-link" in said
        found = repaired(source, two, one)
        assert [(got["name"], got["place"][:7]) for got in found["repaired"]] == [(name, "standby")], found
        assert b"".join(source.archive.open(find_key(source.archive, name)))
    finally:
        path.write_bytes(content)
