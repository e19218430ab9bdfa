"""Archives to expire from: backups, WAL and histories, as values and as stored objects."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from pgproof.backups.catalog import BackupEntry, Catalog, Hold
from pgproof.backups.record import BackupRecord, Volume
from pgproof.config import RetentionConfig
from pgproof.repository.codec import Codec
from pgproof.repository.layout import Layout
from pgproof.repository.repository import Archive, Repository, StoredObject
from pgproof.repository.seal import unsealed
from pgproof.repository.store import ObjectInfo, Store
from pgproof.retention.plan import ExpireFacts
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.runs import Numbered
from tests.repository.passing import Passing

SIZE = 1 << 20  # of a WAL segment
SYSTEM = 7446001122334455667
LAYOUT = Layout("shop", SYSTEM)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
NOTHING = {"daily": 0, "weekly": 0, "monthly": 0, "wal_window": 0}


def policy(**values: int) -> RetentionConfig:
    """A policy; what is not named is 0."""
    return RetentionConfig.model_validate({**NOTHING, **values})


def entry(
    label: str,
    stopped_at: datetime,
    segment: int,
    *,
    timeline: int = 1,
    last: int | None = None,
    parent: str | None = None,
    proven: bool = False,
    failed: str | None = None,
    hold: Hold | None = None,
    stop_lsn: int | None = None,
    segment_size: int = SIZE,
) -> BackupEntry:
    """A backup that starts in a segment and stops in the same or a later one."""
    end = segment if last is None else last
    record = BackupRecord(
        label=label,
        cluster="shop",
        system_identifier=SYSTEM,
        server_version=170010,
        timeline=timeline,
        start_lsn=LSN(segment * segment_size + 40),
        stop_lsn=LSN(end * segment_size + 4096 if stop_lsn is None else stop_lsn),
        started_at=stopped_at - timedelta(minutes=5),
        stopped_at=stopped_at,
        segment_size=segment_size,
        volumes=(Volume(_object(label, "base-000.tar.zst", 100), None, 300),),
        manifest=_object(label, "backup_manifest.zst", 10),
        parent=parent,
    )
    return BackupEntry(record, stopped_at + timedelta(hours=1) if proven else None, failed, hold)


def _object(label: str, name: str, size: int) -> StoredObject:
    return StoredObject(
        LAYOUT.backup(label) + name, size, hashlib.sha256(_data(label, name, size)).hexdigest()
    )


def _data(label: str, name: str, size: int) -> bytes:
    return (f"{label}/{name} " * size).encode()[:size]


def wal(
    timeline: int, numbers: Iterable[int], suffix: str = "", stored: datetime | None = None
) -> list[ObjectInfo]:
    """Archived segments, or ``.partial`` and ``.backup`` files at their positions; no store tells when by default."""
    names = (WalSegment(timeline, number, SIZE).name + suffix for number in numbers)
    return [ObjectInfo(LAYOUT.wal_file(name) + ".zst", 7, _modified(stored)) for name in names]


def _modified(stored: datetime | None) -> float:
    return stored.timestamp() if stored else 0.0


def part(timeline: int, number: int, offset: int = 4096) -> ObjectInfo:
    """A received part."""
    return ObjectInfo(LAYOUT.received_part(WalSegment(timeline, number, SIZE).name, offset) + ".zst", 5)


def history_object(timeline: int, stored: datetime | None = None) -> ObjectInfo:
    return ObjectInfo(LAYOUT.wal_file(f"{timeline:08X}.history") + ".zst", 3, _modified(stored))


def names(objects: Iterable[ObjectInfo]) -> list[str]:
    return [info.key.rsplit("/", 1)[-1].removesuffix(".zst") for info in objects]


def positions(objects: Iterable[ObjectInfo]) -> list[tuple[int, int]]:
    """Timeline and segment number of WAL objects."""
    found = (WalSegment.parse(name[:24], SIZE) for name in names(objects))
    return [(segment.timeline, segment.number) for segment in found]


def facts(
    entries: Iterable[BackupEntry],
    objects: Iterable[ObjectInfo] = (),
    *,
    now: datetime = NOON,
    histories: Mapping[int, TimelineHistory] | None = None,
    torn: tuple[str, ...] = (),
    torn_data: tuple[ObjectInfo, ...] = (),
    held: frozenset[str] = frozenset(),
    received: tuple[ObjectInfo, ...] = (),
    damaged: tuple[ObjectInfo, ...] = (),
    removed: Numbered | None = None,
    **limits: int,
) -> ExpireFacts:
    catalog = Catalog(tuple(sorted(entries, key=lambda e: (e.record.stopped_at, e.label))), torn)
    return ExpireFacts(
        catalog,
        tuple(objects),
        histories or {},
        policy(**limits),
        now,
        LAYOUT,
        torn_data,
        held,
        received,
        damaged,
        removed or {},
    )


class Watched(Passing):
    """A real store that tells of every removal before it happens; the listener may raise or meddle."""

    def __init__(self, inner: Store, before_delete: Callable[[int, str], None]) -> None:
        super().__init__(inner)
        self.count, self._before_delete, self._lock = 0, before_delete, threading.Lock()

    def delete(self, key: str) -> None:
        with self._lock:
            self.count += 1
            self._before_delete(self.count, key)
            self.inner.delete(key)


def archive_on(store: Store, layout: Layout = LAYOUT) -> Archive:
    return Archive(Repository(store, Codec(level=1), "test"), layout)


def store_facts(archive: Archive, found: ExpireFacts) -> None:
    """Write everything that facts speak of into an archive, in the order in which it would have been."""
    for info in found.wal:
        if not info.key.endswith(".history.zst"):
            archive.store.put(info.key, b"segment")
    for history in found.histories.values():
        text = "".join(f"{fork.timeline}\t{fork.lsn}\tno reason\n" for fork in history.forks)
        archive.write(archive.layout.wal_file(f"{history.timeline:08X}.history"), [text.encode()])
    for known in found.catalog.entries:
        store_backup(archive, known)
    for info in found.torn:
        archive.store.put(info.key, b"t" * info.size)


def store_backup(archive: Archive, known: BackupEntry) -> None:
    record = known.record
    for stored in (*(volume.object for volume in record.volumes), record.manifest):
        archive.store.put(stored.key, _data(known.label, stored.key.rsplit("/", 1)[-1], stored.size))
    archive.write_json(archive.layout.backup_record(known.label), record.as_dict())
    if known.proven_at is not None:
        store_proof(archive, known.label, known.proven_at, "proven")
    if known.hold is not None:
        until = known.hold.until.isoformat() if known.hold.until else None
        content = {"label": known.label, "reason": known.hold.reason, "until": until}
        archive.write_json(f"{archive.layout.holds}{known.label}.json", content)


def store_proof(archive: Archive, label: str, at: datetime, verdict: str) -> None:
    content = {"backup": label, "verdict": verdict, "at": at.isoformat(), "summary": "2 tables differ"}
    archive.write_json(f"{archive.layout.proofs}{at:%Y%m%dT%H%M%S}-{label}.json", content)


def content_of(store: Store, prefix: str = "") -> dict[str, str]:
    """Every object below a prefix with the hash of its bytes."""
    return {
        info.key: hashlib.sha256(b"".join(store.get(info.key))).hexdigest() for info in store.list(prefix)
    }


def assert_backups_whole(archive: Archive) -> list[str]:
    """Every listed backup has all its data, its parents and its WAL; the labels (invariants 1, 2 and 5)."""
    present = {info.key for info in archive.store.list(archive.layout.root + "/")}
    records = {
        key.split("/")[-2]: BackupRecord.from_dict(unsealed(b"".join(archive.store.get(key))))
        for key in present
        if key.endswith("/backup.json")
    }
    for label, record in records.items():
        for stored in (*(volume.object for volume in record.volumes), record.manifest):
            data = b"".join(archive.store.get(stored.key))
            assert (len(data), hashlib.sha256(data).hexdigest()) == (stored.size, stored.sha256), label
        assert record.parent is None or record.parent in records, f"{label} lost its parent"
        segment = record.first_segment
        while segment.number <= record.last_segment.number:
            assert archive.layout.wal_file(segment.name) + ".zst" in present, f"{label} lost {segment}"
            segment = segment.next()
    return sorted(records)
