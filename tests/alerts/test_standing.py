"""A cluster's standing: the age of backups, the storage, and the words of their events."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgproof.backups.age import BackupAge, backup_age
from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.record import BackupRecord
from pgproof.backups.state import ProofAge
from pgproof.config import RepositoryConfig
from pgproof.errors import StoreUnavailable
from pgproof.repository.opening import open_store
from pgproof.repository.posix import PosixStore
from pgproof.repository.repository import StoredObject
from pgproof.repository.usage import Usage, measure_usage
from pgproof.timelines.lsn import LSN
from tasks.proof_events import FRESH, STALE
from tasks.standing import ABOVE, BELOW, OVERDUE, RECENT, Standing, standing_events

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = 86400
HOUR = 3600


def entry(label: str, hours: float, parent: str | None = None) -> BackupEntry:
    stopped = NOW - timedelta(hours=hours)
    manifest = StoredObject("k", 1, "s")
    return BackupEntry(
        replace(
            BackupRecord(label, "c", 1, 170010, 1, LSN(1), LSN(2), stopped, stopped, 1 << 20, (), manifest),
            parent=parent,
        )
    )


class TestAge:
    def test_the_newest_counts(self) -> None:
        found = backup_age(Catalog((entry("old", 40), entry("new", 2))), 26 * HOUR, NOW)
        assert (found.label, found.seconds, found.overdue) == ("new", 2 * HOUR, False)

    def test_one_whose_parent_is_gone_does_not(self) -> None:
        found = backup_age(Catalog((entry("old", 40), entry("new", 2, parent="gone"))), 26 * HOUR, NOW)
        assert (found.label, found.overdue) == ("old", True)

    def test_the_last_second_is_in_time(self) -> None:
        assert not backup_age(Catalog((entry("a", 26),)), 26 * HOUR, NOW).overdue
        assert backup_age(Catalog((entry("a", 26),)), 26 * HOUR - 1, NOW).overdue

    def test_none_is_overdue(self) -> None:
        assert backup_age(Catalog(()), HOUR, NOW) == BackupAge(HOUR)
        assert BackupAge(HOUR).overdue

    def test_a_clock_that_is_behind_makes_no_negative_age(self) -> None:
        assert backup_age(Catalog((entry("a", -1),)), HOUR, NOW).seconds == 0


class TestUsage:
    def test_a_directory(self, tmp_path: Path) -> None:
        store = PosixStore(tmp_path)
        found = measure_usage(RepositoryConfig(url=f"file://{tmp_path}"), store)
        state = os.statvfs(tmp_path)
        assert found.free == pytest.approx(state.f_bavail * state.f_frsize, rel=0.2)
        assert found.used_percent is not None and 0 <= found.used_percent <= 100
        assert (found.known, found.stored) == (True, None)

    def test_what_is_stored_is_counted_where_it_has_a_limit(self, tmp_path: Path) -> None:
        store = PosixStore(tmp_path)
        store.put("a/b", b"x" * 700)
        store.put("c", b"y" * 400)
        config = RepositoryConfig(url=f"file://{tmp_path}", used_limit=0, size_limit=1024)
        found = measure_usage(config, store)
        assert (found.stored, found.free, found.above) == (1100, None, True)
        assert not replace(found, size_limit=1100).above

    def test_another_store_has_no_file_system(self) -> None:
        config = RepositoryConfig(url="memory://usage")
        found = measure_usage(config, open_store(config))
        assert (found.known, found.above, found.used_percent) == (False, False, None)

    def test_a_directory_that_is_gone_bad(self, tmp_path: Path) -> None:
        store = PosixStore(tmp_path / "gone")
        with pytest.raises(StoreUnavailable) as caught:
            measure_usage(RepositoryConfig(url=store.url), store)
        assert str(caught.value) == (
            f'could not look at the file system of "file://{tmp_path}/gone"\nDETAIL: No such file or directory.'
        )

    def test_the_limit_itself_may_be_used(self) -> None:
        assert not Usage("u", 15, 100, 85.0).above
        assert Usage("u", 14, 100, 85.0).above


ROOM = Usage("file:///srv", 740, 1000, 85.0)


def words(standing: Standing) -> list[tuple[str, str, str, str]]:
    return [
        (e.name, e.payload["what"], e.payload["meaning"], e.payload["command"])
        for e in standing_events("shop", standing)
    ]


def test_all_is_well() -> None:
    age = BackupAge(26 * HOUR, "L", NOW, 2 * HOUR)
    assert words(Standing(age, ROOM, ProofAge("L", NOW, 3 * HOUR, 8 * DAY))) == [
        (
            RECENT,
            "cluster shop has a recent backup, L",
            "it is 2 h old; the limit is 1 d 2 h",
            "pgproof list shop",
        ),
        (
            FRESH,
            "the newest proof of cluster shop is 3 h old",
            "a backup was restored, and was equal to the source",
            "pgproof list shop",
        ),
        (
            BELOW,
            "the repository of cluster shop has room: 26 % of its file system is used, the limit is 85 %",
            "WAL and backups have a place to go",
            "pgproof list shop",
        ),
    ]


def test_nothing_is_well() -> None:
    usage = Usage("s3://b", None, None, 85.0, 2_000_000, 1_000_000)
    old = ProofAge("L", NOW, 9 * DAY, 8 * DAY)
    overdue, stale, above = words(Standing(BackupAge(26 * HOUR, "L", NOW, 30 * HOUR), usage, old))
    assert stale[0] == STALE
    assert overdue == (
        OVERDUE,
        "the newest backup of cluster shop is 1 d 6 h old",
        "a recovery replays all WAL since then, and every hour makes it longer; the limit is 1 d 2 h",
        "pgproof backup shop",
    )
    assert above == (
        ABOVE,
        "the repository of cluster shop fills up: 2.0 MB are stored, the limit is 1.0 MB",
        "when it is full no WAL is archived: every new commit is on the source alone, whose disk fills next",
        "pgproof expire shop --dry-run",
    )


def test_there_is_no_backup_and_no_limit() -> None:
    (only,) = words(
        Standing(BackupAge(HOUR), Usage("s3://b", used_limit=85.0), ProofAge("", None, 0, 8 * DAY))
    )
    assert only[:2] == (OVERDUE, "cluster shop has no backup")
