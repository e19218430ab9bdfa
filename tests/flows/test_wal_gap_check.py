"""The flow ``wal-gap-check``: a whole archive, a gap, a damaged segment, a source that is away."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flows.wal_gap_check import wal_gap_check
from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.errors import WalGap
from tasks.events import CHECKED, CURRENT, GAP, REPAIRED, WHOLE
from tests.flows.runs import Run, events_of, run, until
from tests.servers.postgres import Source

ONLY_LOOK = {"repair": False, "backup_when_lost": False}


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
    assert done.attempts == {"check WAL archive": 1, "look at backups and storage": 1}
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
        done = run(wal_gap_check, "main", config, **ONLY_LOOK)
    finally:
        kept.rename(segment)
    assert done.state.name == "Failed"
    assert 'WalGap: the WAL archive of cluster "main" is not whole' in done.message
    assert f"DETAIL: {name} missing." in done.message
    assert "HINT: pgproof wal check main; then pgproof backup main" in done.message
    with pytest.raises(WalGap):
        done.state.result()
    assert set(done.attempts.values()) == {1}  # the check itself worked
    text = done.artifact("pgproof-main-wal")
    assert text.startswith("# WAL of main: 1 gap\n")
    assert f"- **gap**: `{name}`, LSN " in text
    assert f"broken by {name} |" in text
    assert "No recovery window is left that new commits continue: take a base backup at once." in text
    assert done.artifacts["pgproof-main-wal"]["description"] == "WAL of main: 1 gap"


def test_a_damaged_segment_fails_the_check_of_content(config: str, segment: Path) -> None:
    content, mode = segment.read_bytes(), segment.stat().st_mode
    segment.chmod(0o600)
    segment.write_bytes(content[:-20])
    try:
        by_name = run(wal_gap_check, "main", config)
        by_content = run(wal_gap_check, "main", config, content=True, **ONLY_LOOK)
    finally:
        segment.write_bytes(content)
        segment.chmod(mode)
    assert by_name.state.is_completed()
    assert by_content.state.is_failed()
    name = segment.name.removesuffix(".zst")
    assert f"{name} damaged: " in by_content.message
    assert f"- **damaged**: `{name}`: " in by_content.artifact("pgproof-main-wal")


def test_the_archive_is_checked_without_its_source(shop: Source, config: str, backup: BackupRecord) -> None:
    with shop.away():
        done = run(wal_gap_check, "main", config)
    assert done.state.is_failed()  # unknown is not fine
    assert 'the WAL archive of cluster "main" is not in order' in done.message
    text = done.artifact("pgproof-main-wal")
    assert (
        "- **not known**: the source did not answer, and nobody knows what it has that is not archived: "
        in text
    )
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


def labels(shop: Source) -> list[str]:
    return [entry.record.label for entry in read_catalog(shop.archive).entries]


def events(done: Run) -> dict[str, dict[str, Any]]:
    """The payloads of the events of a run about its WAL; each name once."""
    wanted = f"prefect.flow-run.{done.flow_run.id}"

    def of_this_run() -> list[dict[str, Any]]:
        found = [e for e in events_of("main") if wanted in {r["prefect.resource.id"] for r in e["related"]}]
        return [event for event in found if event["event"].startswith("pgproof.wal.")]

    found = until(of_this_run, lambda seen: CHECKED in {event["event"] for event in seen})
    assert len({event["event"] for event in found}) == len(found)
    return {event["event"]: event["payload"] for event in found}


def test_a_segment_that_the_source_still_has_is_brought_back(
    shop: Source, config: str, backup: BackupRecord
) -> None:
    shop.sql("SELECT pg_create_physical_replication_slot('keeper', true)")  # so that pg_wal keeps it
    try:
        shop.archive_now()
        name = shop.archive_now()
        shop.archive_now()
        path = shop.stored(name)
        content, before = path.read_bytes(), labels(shop)
        path.unlink()
        done = run(wal_gap_check, "main", config)
        again = run(wal_gap_check, "main", config)
    finally:
        shop.sql("SELECT pg_drop_replication_slot('keeper')")
    assert done.state.is_completed(), done.message
    assert path.read_bytes() == content
    assert labels(shop) == before
    assert done.attempts["repair WAL archive"] == 1
    found = events(done)
    assert list(found) == [REPAIRED, WHOLE, CURRENT, CHECKED]
    assert [one["segment"] for one in found[REPAIRED]["segments"]] == [name]
    assert found[REPAIRED]["segments"][0]["source"].startswith('source "')
    assert found[CHECKED]["ok"] is True
    text = done.artifact("pgproof-main-wal")
    assert text.startswith(
        f"# WAL of main: no gap\n\n- **repaired**: `{name}` was missing, is back from source "
    )
    assert list(events(again)) == [WHOLE, CURRENT, CHECKED]
    assert "repair WAL archive" not in again.attempts


class TestASegmentThatNobodyHas:
    def test_one_backup_begins_a_new_window_and_no_more_follow(
        self, shop: Source, config: str, backup: BackupRecord, lost: str
    ) -> None:
        before = labels(shop)
        first = run(wal_gap_check, "main", config)
        after = labels(shop)
        second = run(wal_gap_check, "main", config)
        assert labels(shop) == after  # five minutes later the gap is still there, and so is a window
        (label,) = set(after) - set(before)
        named = re.compile(rf"{before[-1]} on timeline 1 ends? at {lost}, which is missing\.")
        assert first.state.name == "Failed"
        assert f"DETAIL: {lost} missing. " in first.message
        assert named.search(first.message)
        assert f"A new recovery window begins with base backup {label}." in first.message
        assert first.attempts["take base backup"] == 1
        assert first.attempts["repair WAL archive"] == 1
        assert f"- **nobody has** `{lost}`: source " in first.artifact("pgproof-main-wal")
        assert list(events(first)) == [GAP, CURRENT, CHECKED]
        assert events(first)[GAP]["starts_again"] is True
        assert events(first)[GAP]["windows"][-1]["lost_at"] == lost
        assert f"| {label} | 1 |" in first.artifact("pgproof-main-wal")
        assert label in first.artifact("pgproof-main-backup")
        assert second.state.name == "Failed"
        assert "take base backup" not in second.attempts
        assert named.search(second.message)
        assert "begins with base backup" not in second.message
        assert events(second)[GAP]["starts_again"] is False

    def test_not_when_it_shall_not(self, shop: Source, config: str, backup: BackupRecord, lost: str) -> None:
        before = labels(shop)
        done = run(wal_gap_check, "main", config, **ONLY_LOOK)
        assert done.state.name == "Failed"
        assert labels(shop) == before
        assert events(done)[GAP]["starts_again"] is False

    def test_a_backup_that_cannot_be_taken_does_not_hide_the_gap(
        self, shop: Source, config: str, backup: BackupRecord, lost: str
    ) -> None:
        shop.sql("ALTER ROLE pgproof NOREPLICATION")
        try:
            done = run(wal_gap_check, "main", config, repair=False)
        finally:
            shop.sql("ALTER ROLE pgproof REPLICATION")
        assert 'WalGap: the WAL archive of cluster "main" is not whole' in done.message
        assert f"DETAIL: {lost} missing. " in done.message
        assert "No base backup could be taken, so that no new window begins: " in done.message
        assert GAP in events(done)


def _failed(shop: Source) -> int:
    return int(
        shop.sql(
            "SELECT count(*) FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity')"
        )[0][0]
    )
