"""The order of a backup's writes: a crash between any two leaves nothing that looks like a backup."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial

import pytest

from pgproof.backups.base_backup import take_backup
from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.errors import PgproofError, RepositoryReadOnly, StoreUnavailable
from pgproof.repository.repository import Archive, Repository
from pgproof.repository.seal import unsealed
from pgproof.repository.store import Store
from pgproof.wal.archive import find_key
from tests.repository.passing import Passing
from tests.servers.postgres import Source, now, running_source


class Crash(BaseException):
    """The process is dead."""


class Mortal(Passing):
    """A real store of a process that dies before its n-th write, and does nothing any more from then on."""

    def __init__(self, inner: Store, writes: int) -> None:
        super().__init__(inner)
        self.left, self.dead, self.written = writes, False, list[str]()
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        with self._lock:
            self.left -= 1
            self.dead = self.dead or self.left < 0
        super().put(key, data, create=create)
        self.written.append(key)

    def reach(self) -> Store:
        if self.dead:
            raise Crash
        return self.inner


class Watching(Mortal):
    """A store that looks, before the record is written, at everything that the record names."""

    def __init__(self, archive: Archive, *, fail_after_record: PgproofError | None = None) -> None:
        super().__init__(archive.store, 10_000)
        self.archive, self.fail, self.seen = archive, fail_after_record, 0
        self.removed: list[str] = []

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        if key.endswith("backup.json"):
            assert isinstance(data, bytes)
            self._look(BackupRecord.from_dict(unsealed(data)))
            super().put(key, data, create=create)
            if self.fail is not None:
                raise self.fail
            return
        super().put(key, data, create=create)

    def delete(self, key: str) -> None:
        self.removed.append(key)
        super().delete(key)

    def _look(self, record: BackupRecord) -> None:
        for stored in (*(volume.object for volume in record.volumes), record.manifest):
            content = b"".join(self.inner.get(stored.key))
            assert (len(content), hashlib.sha256(content).hexdigest()) == (stored.size, stored.sha256)
            self.seen += 1
        segment = record.first_segment
        while segment <= record.last_segment:
            find_key(self.archive, segment.name)
            segment = segment.next()
        self.seen += 1


@pytest.fixture(scope="module")
def shared() -> Iterator[Source]:
    with running_source(17) as source:
        source.write_config(cluster='backup.volume_size = "16MB"')
        source.archive_now()
        yield source


def on(source: Source, store: Store) -> Repository:
    repository = source.repository
    return Repository(store, repository.codec, repository.identifier)


def forget_lease(source: Source) -> None:
    """The holder is this process, which lives on."""
    source.archive.store.delete(source.archive.layout.lease)


def listed(source: Source) -> list[str]:
    return [entry.label for entry in read_catalog(source.archive).entries]


def test_invariants_1_and_2_at_the_moment_the_record_is_written(shared: Source) -> None:
    store = Watching(shared.archive)
    record = take_backup(shared.cluster, on(shared, store), now)
    assert store.seen == len(record.volumes) + 2
    names = [key.rsplit("/", 1)[-1] for key in store.written if "/backups/" in key]
    assert names[-2:] == ["backup_manifest.zst", "backup.json"]
    assert all(name.startswith("base-") for name in names[:-2])
    assert listed(shared) == [record.label]


def test_invariant_1_crash_between_any_two_writes(shared: Source) -> None:
    """Lease, volumes, manifest, record: dead before each of them in turn."""
    before = listed(shared)
    count = 0
    while True:
        store = Mortal(shared.archive.store, count)
        try:
            record = take_backup(shared.cluster, on(shared, store), partial(hours_from_now, count))
        except Crash:
            assert not any(key.endswith("backup.json") for key in store.written)
            assert listed(shared) == before, store.written
            forget_lease(shared)
            count += 1
            continue
        break
    assert count == len(store.written)
    assert count >= 5
    assert listed(shared) == sorted([*before, record.label])
    torn = read_catalog(shared.archive).torn
    assert record.label not in torn
    assert torn  # what the crashes left is named


def hours_from_now(count: int) -> datetime:
    """A time of its own for each attempt: a label has seconds."""
    return now() + timedelta(hours=count)


def test_invariant_5_a_backup_that_failed_late_is_removed_record_first(shared: Source) -> None:
    before = listed(shared)
    store = Watching(shared.archive, fail_after_record=RepositoryReadOnly("mounted read-only"))
    with pytest.raises(RepositoryReadOnly):
        take_backup(shared.cluster, on(shared, store), partial(hours_from_now, 1000))
    removed = [key for key in store.removed if "/backups/" in key]
    assert removed[0].endswith("/backup.json")
    assert len(removed) > 3
    assert listed(shared) == before
    prefix = removed[0].rpartition("/")[0] + "/"
    assert list(shared.archive.store.list(prefix)) == []


def test_a_complete_backup_stays_when_the_store_does_not_answer_any_more(shared: Source) -> None:
    """It was removed, with hours of work, because nobody could be asked whether it is whole."""
    before = listed(shared)
    store = Watching(shared.archive, fail_after_record=StoreUnavailable("could not sync the directory"))
    with pytest.raises(StoreUnavailable) as caught:
        take_backup(shared.cluster, on(shared, store), partial(hours_from_now, 1001))
    assert "nothing was removed" in caught.value.detail
    assert store.removed == [shared.archive.layout.lease]
    (added,) = set(listed(shared)) - set(before)
    for info in shared.archive.store.list(shared.archive.layout.backup(added)):
        shared.archive.store.delete(info.key)
