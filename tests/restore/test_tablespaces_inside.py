"""Tablespaces inside the data directory, linked and in place: backed up, combined, restored and drilled."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.postgres.lock_file import running_in
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, running_source

ROWS = 500


@pytest.fixture(scope="module", params=(17, 18), ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source with both kinds, a full backup and an incremental one."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param, summarize_wal="on", allow_in_place_tablespaces="on") as made:
        (made.data / "inside").mkdir()
        give_to_server(made.data / "inside")
        for name, location in (("place", ""), ("inside", f"{made.data}/inside")):
            made.sql(f"CREATE TABLESPACE {name} LOCATION '{location}'")
            made.sql(
                f"CREATE TABLE in_{name} TABLESPACE {name} AS SELECT g FROM generate_series(1, {ROWS}) g"
            )
        made.backup()
        made.sql("INSERT INTO in_place SELECT g FROM generate_series(1, 10) g")
        made.sql("INSERT INTO in_inside SELECT g FROM generate_series(1, 10) g")
        made.backup(incremental=True)
        made.archive_now()
        yield made


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_restored_elsewhere(source: Source, kind: str, tmp_path: Path) -> None:
    """Each lies inside the new data directory: in place, and linked to where it was told."""
    data = source.root / f"restored-{kind}"
    (label,) = [entry["label"] for entry in backups(source) if entry["kind"] == kind]
    words = ("--backup", label, "--tablespace", f"{source.data}/inside={data}/inner/place")
    code, _, err = answer(source, "restore", "main", "--to", str(data), *words)
    assert code == 0, err
    with source.copy(data) as connection:
        for name in ("in_place", "in_inside"):
            assert connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone() == (ROWS + 10,)
    entries = {path.is_symlink(): path for path in (data / "pg_tblspc").iterdir()}
    assert entries[True].resolve() == data / "inner" / "place"
    assert entries[False].is_dir()


def test_drilled(source: Source, without_expectations: None) -> None:
    code, out, err = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("proven", 0, ""), proof["summary"]


@pytest.mark.parametrize("configured", ["", "on"])
def test_accepted_it_needs_no_setting_of_the_recovery(source: Source, configured: str) -> None:
    """allow_in_place_tablespaces is for recovery; what the source has in its files comes back."""
    data = source.root / "accepted"
    words = ("--tablespace", f"{source.data}/inside={data}/inner", "--target-immediate")
    code, _, err = answer(source, "restore", "main", "--to", str(data), *words)
    assert code == 0, err
    assert "allow_in_place_tablespaces = 'on'" in (data / "postgresql.auto.conf").read_text()
    if configured:
        with open(data / "postgresql.conf", "a") as file:
            file.write(f"allow_in_place_tablespaces = '{configured}'\n")
    try:
        code, out, err = answer(source, "start", str(data), "--json")
        assert (code, json.loads(out)["findings"]) == (0, []), err
        with source.away():
            code, out, err = answer(source, "accept", str(data), "--yes", "--no-start")
            assert code == 0, out + err
        with source.copy(data) as connection:
            assert connection.execute("SHOW allow_in_place_tablespaces").fetchone() == (configured or "off",)
            connection.execute("INSERT INTO in_place VALUES (-1)")
            os.kill(running_pid(data), signal.SIGQUIT)
        with source.copy(data) as connection:  # after a crash, too
            assert connection.execute("SELECT min(g) FROM in_place").fetchone() == (-1,)
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data)


def running_pid(data: Path) -> int:
    server = running_in(data)
    assert server is not None
    return server.pid


def backups(source: Source) -> list[dict[str, str]]:
    code, out, _ = answer(source, "list", "main", "--json")
    assert code == 0
    return list(json.loads(out)["backups"])


def test_postgresql_15_would_leave_one_out() -> None:
    with running_source(15, allow_in_place_tablespaces="on") as source:
        source.sql("CREATE TABLESPACE place LOCATION ''")
        ((oid,),) = source.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'place'")
        code, _, err = answer(source, "backup", "main")
        assert code != 0
        assert 'tablespace "place" lies in place, and PostgreSQL 15 leaves it out of base backups' in err
        with source.away():
            (source.root / "moved").mkdir()
            give_to_server(source.root / "moved")
            place = source.data / "pg_tblspc" / str(oid)
            for path in place.iterdir():
                path.rename(source.root / "moved" / path.name)
            place.rmdir()
            place.symlink_to(source.root / "moved")
        assert answer(source, "backup", "main")[0] == 0
