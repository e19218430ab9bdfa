"""A base backup: BASE_BACKUP read from the replication protocol straight into the repository.

Order of the writes, each durable before the next: the history files of the timeline, volumes, backup manifest, the
source's configuration where it lies outside the data directory, then (when the archive holds every WAL segment from
start to stop) the backup record. A crash before the record leaves a torn backup that no listing shows and the next
expire removes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pgproof import __version__
from pgproof.backups.catalog import read_catalog
from pgproof.backups.configuration import Configuration, store_configuration
from pgproof.backups.damaged_pages import with_names
from pgproof.backups.histories import store_histories
from pgproof.backups.locales import Locale, read_locales
from pgproof.backups.parent import Basis, choose_basis
from pgproof.backups.record import BackupRecord, Tablespace, Volume
from pgproof.backups.skipped import check_skipped, warning_of
from pgproof.backups.source import check_archiving, check_ready, check_tablespaces
from pgproof.backups.volumes import VolumeWriter
from pgproof.config import ClusterConfig
from pgproof.errors import (
    BackupFailed,
    ObjectExists,
    PgproofError,
    ServerNotReady,
    StoreUnavailable,
    TransientError,
    WalNotArchived,
)
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerClock, ServerFacts, read_clock, read_facts
from pgproof.postgres.messages import ArchiveStart, ManifestStart, Progress
from pgproof.postgres.replication import ReplicationConnection
from pgproof.repository.lease import Lease, hold_lease
from pgproof.repository.repository import Archive, Repository, StoredObject, check_system
from pgproof.repository.store import within
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import is_archived

Clock = Callable[[], datetime]
_LABELS = 3  # seconds that one backup waits for a label of its own


@dataclass(frozen=True, slots=True)
class _Stream:
    """What one BASE_BACKUP left behind, before its record."""

    start_lsn: LSN
    stop_lsn: LSN
    timeline: int
    tablespaces: tuple[Tablespace, ...]
    volumes: tuple[Volume, ...]
    manifest: StoredObject
    raw_size: int
    ended: ServerClock
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]


def take_backup(
    cluster: ClusterConfig,
    repository: Repository,
    clock: Clock,
    *,
    incremental: bool = False,
    progress: Callable[[int], None] = lambda size: None,
) -> BackupRecord:
    """Take a base backup; when this returns it can be restored.

    Args:
        cluster: to back up.
        repository: to store it in.
        clock: the time of this machine, aware, for the label.
        incremental: build on the newest backup (PostgreSQL 17 with ``summarize_wal = on``). Where none serves, a full
            one is taken, and its record says why.
        progress: told the raw bytes as they come.

    Raises:
        ServerNotReady, PrivilegeMissing, WrongSystem: found before the first byte.
        LeaseHeld: another writer works on this cluster.
        BackupFailed, ServerUnreachable, NoRoom, StoreUnavailable: on the way; what was stored is removed.
        WalNotArchived: the backup's WAL did not reach the archive in time (invariant 2).
    """
    with connect(cluster) as connection:
        facts = read_facts(connection)
        check_system(
            cluster.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"'
        )
        archive = repository.archive(cluster.name, facts.system_identifier)
        check_ready(cluster, facts)
        check_tablespaces(connection, facts)
        locales = read_locales(connection)
        if not facts.in_recovery:
            check_archiving(connection, archive, facts)
    purpose = f'a base backup of cluster "{cluster.name}"'
    with hold_lease(archive.store, archive.layout.lease, purpose) as lease:
        # under the lease, so that expire cannot take the parent away meanwhile
        basis = choose_basis(cluster, facts, read_catalog(archive)) if incremental else Basis()
        try:
            return _take(cluster, archive, facts, locales, basis, lease, clock, progress)
        except ServerNotReady as error:
            if basis.parent is None:
                raise
            return _take(cluster, archive, facts, locales, basis.refused(error), lease, clock, progress)


def _new_label(archive: Archive, kind: str, clock: Clock) -> tuple[datetime, str]:
    """When a backup began, and its label; a label has whole seconds, so that a second one waits for the next."""
    for _ in range(_LABELS):
        at = clock().astimezone(UTC)
        label = f"{at:%Y%m%dT%H%M%SZ}-{kind}"
        if not any(True for _ in archive.store.list(archive.layout.backup(label))):
            return at.replace(microsecond=0), label
        time.sleep(1 - at.microsecond / 1e6)
    raise BackupFailed(
        f'backup "{label}" exists already',
        f"The clock did not move on in {_LABELS} seconds.",
        "look at the clock of this machine, and try again",
    )


def _take(
    cluster: ClusterConfig,
    archive: Archive,
    facts: ServerFacts,
    locales: tuple[Locale, ...],
    basis: Basis,
    lease: Lease,
    clock: Clock,
    progress: Callable[[int], None],
) -> BackupRecord:
    parent = basis.parent
    started, label = _new_label(archive, "incremental" if parent else "full", clock)
    prefix = archive.layout.backup(label)
    try:
        stream = _read_stream(cluster, archive, prefix, label, parent, facts.segment_size, progress)
        configuration = store_configuration(cluster, archive, prefix, stream.skipped)
        record = BackupRecord(
            label=label,
            cluster=cluster.name,
            system_identifier=facts.system_identifier,
            server_version=facts.version,
            timeline=stream.timeline,
            start_lsn=stream.start_lsn,
            stop_lsn=stream.stop_lsn,
            started_at=started,
            stopped_at=stream.ended.now.astimezone(UTC),
            consistent_at=stream.ended.committed.astimezone(UTC),
            segment_size=facts.segment_size,
            volumes=stream.volumes,
            manifest=stream.manifest,
            tablespaces=stream.tablespaces,
            parent=parent.label if parent else None,
            from_standby=facts.in_recovery,
            data_checksums=facts.settings.get("data_checksums") == "on",
            raw_size=stream.raw_size,
            skipped=stream.skipped,
            warnings=(*basis.warnings, *stream.warnings, *_of_files(stream.skipped, configuration)),
            software={"pgproof": __version__, "postgresql": facts.version_text},
            locales=locales,
            configuration=configuration,
        )
        wait_for_wal(cluster, archive, record)
        lease.check()
    except BaseException as error:
        _remove_torn(archive, prefix)
        if isinstance(error, BackupFailed):
            raise with_names(cluster, error) from error
        raise
    _write_record(archive, prefix, record)
    return record


def _write_record(archive: Archive, prefix: str, record: BackupRecord) -> None:
    """Write the record, and read it back.

    All of the backup is there now: nothing is removed because the store does not answer. The record may have been
    written, and then the backup is complete; otherwise it is torn, and the next expire removes it.

    Raises:
        BackupFailed, RepositoryReadOnly, NoRoom: what was stored is removed.
        ObjectExists: another has written a record of this label; nothing is removed.
        StoreUnavailable: the record is written, or nobody knows whether it is.
    """
    try:
        archive.write_json(archive.layout.backup_record(record.label), record.as_dict())
        _check_written(archive, record)
    except TransientError as error:
        raise StoreUnavailable(
            f'could not make sure that backup "{record.label}" is complete',
            f"{error.fact}. {error.detail} All of it but perhaps its record is stored, and nothing was removed.",
            f"pgproof list {record.cluster} shows whether it is complete; the next expire removes it when it is torn",
        ) from error
    except ObjectExists:
        raise
    except BaseException:
        _remove_torn(archive, prefix)
        raise


def _read_stream(
    cluster: ClusterConfig,
    archive: Archive,
    prefix: str,
    label: str,
    parent: BackupRecord | None,
    segment_size: int,
    progress: Callable[[int], None],
) -> _Stream:
    writer = VolumeWriter(archive, prefix, cluster.backup.volume_size, cluster.backup.workers, progress)
    with ReplicationConnection(cluster) as replication:
        try:
            identity = replication.identify_system()
            check_system(archive.system_identifier, identity.system_identifier, "the replication connection")
            store_histories(archive, replication, identity.timeline)
            if parent is not None:
                replication.upload_manifest(archive.open_checked(parent.manifest))
            start, _, rows = replication.start_base_backup(
                _options(cluster, label, parent), cluster.backup.archive_timeout
            )
            manifest: list[bytes] = []
            for message in replication.messages():
                if isinstance(message, bytes):
                    (manifest.append if manifest else writer.feed)(message)
                elif isinstance(message, ArchiveStart):
                    writer.start_tar(message.tablespace)
                elif isinstance(message, ManifestStart):
                    manifest.append(b"")
                else:
                    assert isinstance(message, Progress)
            # first, as it says why a stream ended early
            try:
                stop, timeline = replication.finish_base_backup()
            except ServerNotReady as error:
                _refuse_promoted(cluster, identity.timeline, error)
                raise
            if timeline != identity.timeline:  # a standby followed its primary to another one meanwhile
                history = store_histories(archive, replication, timeline)
                _refuse_two_timelines(cluster, history, start, segment_size)
            ended = _read_end(cluster)
            skipped = check_skipped(cluster.name, replication.notices)
            volumes = writer.finish()
            stored = archive.write(f"{prefix}backup_manifest", manifest)
        except BaseException:
            writer.abandon()
            raise
    tablespaces = tuple(Tablespace(int(row[0]), row[1]) for row in rows if row[0])
    said = [notice.text for notice in replication.notices if not (notice.left_out or notice.waits)]
    return _Stream(
        start, stop, timeline, tablespaces, volumes, stored, writer.raw_size, ended, skipped, tuple(said)
    )


def _refuse_promoted(cluster: ClusterConfig, began: int, error: ServerNotReady) -> None:
    """Say it where a server refused to end a backup because it is no standby any more (``do_pg_backup_stop``).

    Raises:
        TransientError: the next one is of a primary.
    """
    with ReplicationConnection(cluster) as other:
        timeline = other.identify_system().timeline
    if timeline != began:
        raise TransientError(
            f"could not finish the backup: the standby was promoted, from timeline {began} to timeline {timeline}",
            error.detail,
            f"pgproof backup {cluster.name}",
        ) from error


def _refuse_two_timelines(
    cluster: ClusterConfig, history: TimelineHistory, start: LSN, segment_size: int
) -> None:
    """Refuse a backup whose WAL begins on a timeline that its server left, in a segment that the new one does not have.

    Raises:
        TransientError: the next one begins on the new timeline.
    """
    first = WalSegment.containing(history.timeline, start, segment_size)
    if (began := history.timeline_at(first.end - 1)) != history.timeline:
        raise TransientError(
            f"could not finish the backup: the standby went over from timeline {began} to timeline {history.timeline}",
            f"Its WAL begins at LSN {start}, before timeline {history.timeline} does.",
            f"pgproof backup {cluster.name}",
        )


def _of_files(skipped: tuple[str, ...], configuration: Configuration | None) -> list[str]:
    """What a backup lacks of the source's files: links that are no part of its configuration, and what of that."""
    taken = configuration.files if configuration else ()
    lost = tuple(path for path in skipped if not any(f"/{path}/" in f"{file}/" for file in taken))
    left_out = configuration.warning if configuration else ""
    return [*([warning_of(lost)] if lost else []), *([left_out] if left_out else [])]


def _read_end(cluster: ClusterConfig) -> ServerClock:
    """When the backup ended, for the server: a time target is compared with its clock's commits, not with ours.

    Raises:
        ServerUnreachable: it took no connection within ``backup.archive_timeout``.
    """
    end = time.monotonic() + cluster.backup.archive_timeout
    while True:
        try:
            with connect(cluster) as connection:
                return read_clock(connection)
        except (
            TransientError
        ):  # hours of work must not be lost because all connections are taken for a moment
            if time.monotonic() > end:
                raise
            time.sleep(1)


def _options(cluster: ClusterConfig, label: str, parent: BackupRecord | None) -> str:
    options = [
        f"LABEL 'pgproof {label}'",
        "PROGRESS true",
        f"CHECKPOINT '{cluster.backup.checkpoint}'",
        "WAIT false",  # we wait ourselves, with a limit, and see the archive rather than the archiver
        "MANIFEST 'yes'",
        "TABLESPACE_MAP true",
    ]
    if cluster.backup.max_rate:
        options.append(f"MAX_RATE {cluster.backup.max_rate}")
    if parent is not None:
        options.append("INCREMENTAL")
    return ", ".join(options)


def wait_for_wal(cluster: ClusterConfig, archive: Archive, record: BackupRecord) -> None:
    """Wait until every segment from start to stop is archived (invariant 2).

    Raises:
        WalNotArchived: the time is over; the first missing segment is named.
    """
    end = time.monotonic() + cluster.backup.archive_timeout
    segment, last = record.first_segment, record.last_segment
    while segment <= last:
        if is_archived(archive, segment.name):
            segment = segment.next()
        elif time.monotonic() > end:
            raise WalNotArchived(
                f'WAL segment "{segment}" of backup "{record.label}" did not reach the archive',
                f"Waited {cluster.backup.archive_timeout} s for segments {record.first_segment} to {last}."
                + (" A standby waits for its primary to switch the segment." if record.from_standby else ""),
                f"pgproof doctor {cluster.name}; SELECT * FROM pg_stat_archiver shows the archiver's last error",
            )
        else:
            time.sleep(0.1)


def _remove_torn(archive: Archive, prefix: str) -> None:
    # it was tried for long enough; what stays is torn, and expire removes it
    store = within(archive.store, 0)
    with contextlib.suppress(PgproofError):
        store.delete(f"{prefix}backup.json")  # first: a record must never outlive its data
        for info in list(store.list(prefix)):
            store.delete(info.key)


def _check_written(archive: Archive, record: BackupRecord) -> None:
    """Read the record back: success is said only of what the repository shows (pgBackRest #2622)."""
    written = BackupRecord.from_dict(archive.read_json(archive.layout.backup_record(record.label)))
    if written != record:
        raise BackupFailed(f'backup record "{record.label}" reads back differently')
    for stored in record.objects:
        info = archive.store.head(stored.key)
        if info.size != stored.size:
            raise BackupFailed(
                f'object "{info.key}" has the wrong size',
                f"It has {info.size} bytes; {stored.size} were stored.",
            )
