"""A cluster that was on a later timeline already when its archive began: nobody archives the history file again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.errors import BackupFailed, WalConflict
from pgproof.gaps.check import WalCheck, check_wal
from pgproof.readiness.checks import examine
from pgproof.repository.repository import create_repository
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, now, running_source

HISTORY = "00000002.history"


@pytest.fixture(scope="module", params=[15, 18])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """On timeline 2, with a repository that was made afterwards, and one backup in it."""
    with running_source(request.param) as made:
        made.server.stop("fast")
        (made.data / "standby.signal").touch()
        give_to_server(made.data / "standby.signal")
        made.server.start()
        made.server.wait_ready()
        made.sql("SELECT pg_promote()")
        made.archive_now()  # its history went into the first repository
        assert made.stored(HISTORY).exists()
        place = made.root / "later"
        made.write_config(repository=f"file://{place}")
        create_repository(made.config.repositories["main"])
        give_to_server(place)
        made.sql("CREATE TABLE t AS SELECT generate_series(1, 9) AS g")
        made.backup()
        made.sql("INSERT INTO t VALUES (10)")
        made.archive_now()
        yield made


@pytest.fixture
def stored(source: Source) -> Iterator[Path]:
    """The history file in the archive; it is there again afterwards."""
    path = source.root / "later" / source.archive.layout.wal_file(HISTORY)
    path = path.with_name(path.name + ".zst")
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def check(source: Source) -> WalCheck:
    return check_wal(source.cluster, source.archive, now=now())


def rows_of(source: Source, data: Path) -> int:
    with source.copy(data) as connection:
        row = connection.execute("SELECT count(*) FROM t").fetchone()
    assert row is not None
    return int(row[0])


def test_a_backup_brings_the_history_that_it_needs(source: Source, stored: Path, tmp_path: Path) -> None:
    assert check(source).ok
    assert answer(source, "restore", "main", "--to", str(tmp_path / "restored"))[0] == 0
    assert rows_of(source, tmp_path / "restored") == 10

    stored.unlink()
    source.backup()
    assert stored.exists()


def test_what_is_lost_is_found_and_brought_back(source: Source, stored: Path) -> None:
    stored.unlink()
    fact = "the history file of timeline 2 is missing: no recovery begins on it or finds the way to it"
    assert fact in check(source).findings
    doctor = next(
        found for found in examine(source.cluster, source.config) if found.name == "timeline history"
    )
    assert (doctor.ok, doctor.blocks) == (False, "restore")
    assert doctor.mend.startswith("pgproof wal check main --repair")

    code, out, _ = answer(source, "wal", "check", "main", "--repair")
    assert code == 0, out
    assert f"repaired: {HISTORY} was missing, now from source" in out
    assert check(source).ok


def test_without_it_a_restore_follows_the_timeline_of_the_backup(
    source: Source, stored: Path, tmp_path: Path
) -> None:
    """PostgreSQL refuses by its number a timeline without a history file."""
    stored.unlink()
    data = tmp_path / "restored"
    code, out, err = answer(source, "restore", "main", "--to", str(data))
    assert code == 0, err
    assert "the history file of timeline 2 is not in the archive" in " ".join(out.split())
    assert "recovery_target_timeline = 'current'" in (data / "postgresql.auto.conf").read_text()
    assert rows_of(source, data) == 10


def test_a_drill_says_what_brings_it_back(source: Source, stored: Path) -> None:
    stored.unlink()
    code, _, err = answer(source, "drill", "main")
    assert code == 33
    assert f'"{HISTORY}" is not in the archive' in err
    assert "DETAIL: Recovery along timeline 2 begins with it." in err
    assert "HINT: pgproof wal check main --repair brings it from the server" in err


def test_a_server_without_it_gets_no_backup(source: Source) -> None:
    file = source.data / "pg_wal" / HISTORY
    content = file.read_bytes()
    try:
        file.unlink()
        with pytest.raises(BackupFailed) as caught:
            source.backup()
        assert caught.value.fact.startswith("the server has no history file of its timeline 2")
        file.write_bytes(content.replace(b"no recovery target", b"another recovery "))
        with pytest.raises(WalConflict):
            source.backup()
    finally:
        file.write_bytes(content)
        give_to_server(file)
