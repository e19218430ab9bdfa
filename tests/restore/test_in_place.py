"""A restore to where everything was: tablespaces inside the data directory and inside each other, of any backup."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.restore.destination import entries_besides, fault_of
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source


@pytest.fixture(scope="module")
def lost() -> Iterator[tuple[Source, dict[str, BackupRecord], list[Path]]]:
    """A source with a full and an incremental backup, whose server is gone; the inner tablespace is the older one."""
    with running_source(17, summarize_wal="on") as source:
        outer = source.root / "outer = all"
        places = [outer / "inner", outer, source.data / "spaces" / "own"]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            give_to_server(place)
        give_to_server(source.data / "spaces")
        for number, place in enumerate(places):
            source.sql(f"CREATE TABLESPACE s{number} LOCATION '{place}'")
            source.sql(
                f"CREATE TABLE t{number} TABLESPACE s{number} AS SELECT g FROM generate_series(1, 1000) g"
            )
        records = {"full": source.backup()}
        source.sql("; ".join(f"UPDATE t{number} SET g = -1 WHERE g = 7" for number in range(3)))
        records["incremental"] = source.backup(incremental=True)
        source.archive_now()
        source.server.stop("fast")
        yield source, records, places


@pytest.mark.parametrize("kind", ["full", "incremental"])
@pytest.mark.parametrize("mounted", [False, True], ids=["nothing is left", "empty directories are left"])
def test_everything_goes_back_to_where_it_was(
    lost: tuple[Source, dict[str, BackupRecord], list[Path]], kind: str, mounted: bool
) -> None:
    source, records, places = lost
    for directory in (source.data, places[1]):
        shutil.rmtree(directory, ignore_errors=True)
    if mounted:  # as file systems are mounted there
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for directory in (source.data, places[1]):
            give_to_server(directory)
    words = ("restore", "main", "--to", str(source.data), "--backup", records[kind].label)
    code, _, err = answer(source, *words)
    assert code == 0, err
    assert not list(source.root.rglob(".pgproof-chain"))
    with source.copy(source.data) as connection:
        for number in range(3):
            row = connection.execute(f"SELECT count(*), sum(g) FROM t{number}".encode()).fetchone()
            assert row == (1000, 500500 - 8)
    links = {path.name: path.readlink() for path in (source.data / "pg_tblspc").iterdir()}
    assert set(links.values()) == set(places)


def test_what_else_lies_there_is_told(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "inner"
    inner.mkdir(parents=True)
    assert entries_besides(tmp_path, (tmp_path, inner)) == []
    (tmp_path / "a" / "other").touch()
    assert entries_besides(tmp_path, (tmp_path, inner)) == ["other"]
    assert fault_of(tmp_path, (tmp_path, inner)) == "it is not empty: it has 1 entries, such as other"
    assert fault_of(tmp_path, (tmp_path,)) == "it is not empty: it has 1 entries, such as a"
