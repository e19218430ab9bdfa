"""The flow ``wal-gap-check``: a whole archive, a gap, a damaged segment, a source that is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.wal_gap_check import wal_gap_check
from pgproof.backups.record import BackupRecord
from pgproof.errors import WalGap
from tests.flows.runs import run
from tests.servers.postgres import Source


@pytest.fixture(scope="module")
def backup(shop: Source) -> BackupRecord:
    """A backup, and three segments after it."""
    record = shop.backup()
    for number in range(3):
        shop.sql(f"INSERT INTO orders VALUES ({10_000 + number}, 1)")
        shop.archive_now()
    return record


@pytest.fixture
def segment(shop: Source, backup: BackupRecord) -> Path:
    """The object of the segment after the backup."""
    name = backup.last_segment.next().name
    (path,) = shop.repository_path.rglob(f"{name}.zst")
    return path


def test_no_gap(shop: Source, config: str, backup: BackupRecord) -> None:
    done = run(wal_gap_check, "main", config)
    assert done.name == "WAL gap check of main"
    assert done.attempts == {"check WAL archive": 1}
    found = done.state.result()
    assert found["ok"] and found["gaps"] == []
    text = done.artifact("pgproof-main-wal")
    assert text.startswith("# WAL of main: no gap\n")
    assert "| lost if the source died now | **" in text
    assert f"| {backup.label} | 1 | {backup.stop_lsn} to " in text
    assert done.artifacts["pgproof-main-wal"]["description"] == "WAL of main: no gap"


def test_a_gap_fails_the_run(shop: Source, config: str, segment: Path, tmp_path: Path) -> None:
    name = segment.name.removesuffix(".zst")
    kept = segment.rename(tmp_path / segment.name)
    try:
        done = run(wal_gap_check, "main", config)
    finally:
        kept.rename(segment)
    assert done.state.name == "Failed"
    assert 'WalGap: the WAL archive of cluster "main" is not whole' in done.message
    assert f"DETAIL: {name} missing." in done.message
    assert "HINT: pgproof wal check main; then pgproof backup main" in done.message
    with pytest.raises(WalGap):
        done.state.result()
    assert done.attempts == {"check WAL archive": 1}  # the check itself worked
    text = done.artifact("pgproof-main-wal")
    assert text.startswith("# WAL of main: 1 gap\n")
    assert f"- **gap**: `{name}`, LSN " in text
    assert f"broken by {name} |" in text
    assert "take a new base backup at once" in text
    assert done.artifacts["pgproof-main-wal"]["description"] == "WAL of main: 1 gap"


def test_a_damaged_segment_fails_the_check_of_content(config: str, segment: Path) -> None:
    content, mode = segment.read_bytes(), segment.stat().st_mode
    segment.chmod(0o600)
    segment.write_bytes(content[:-20])
    try:
        by_name = run(wal_gap_check, "main", config)
        by_content = run(wal_gap_check, "main", config, content=True)
    finally:
        segment.write_bytes(content)
        segment.chmod(mode)
    assert by_name.state.is_completed()
    assert by_content.state.is_failed()
    name = segment.name.removesuffix(".zst")
    assert f"{name} damaged: " in by_content.message
    assert f"- **damaged**: `{name}`: " in by_content.artifact("pgproof-main-wal")


def test_the_archive_is_checked_without_its_source(shop: Source, config: str, backup: BackupRecord) -> None:
    shop.server.stop("fast")
    try:
        done = run(wal_gap_check, "main", config)
    finally:
        shop.server.start()
        shop.server.wait_ready()
    assert done.state.is_completed()
    text = done.artifact("pgproof-main-wal")
    assert '- the source was not asked: could not connect to cluster "main"' in text
    assert "| lost if the source died now | **unknown** |" in text


def test_an_archiver_that_fails(shop: Source, config: str, backup: BackupRecord) -> None:
    working = shop.server.settings["archive_command"]
    shop.set(archive_command="false")
    try:
        with shop.connect() as connection:
            connection.execute("SELECT pg_current_xact_id()")
            connection.execute("SELECT pg_switch_wal()")
            shop.server.wait(lambda: _failed(shop) > 0, 60, "to fail to archive")
        done = run(wal_gap_check, "main", config)
    finally:
        shop.set(archive_command=working)
        shop.archive_now()
    assert "the archiver is failing: " in done.message
    assert done.artifact("pgproof-main-wal").startswith("# WAL of main: the archiver is failing\n")


def _failed(shop: Source) -> int:
    return int(
        shop.sql(
            "SELECT count(*) FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity')"
        )[0][0]
    )
