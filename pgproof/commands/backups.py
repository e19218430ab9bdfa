"""``backup``, ``list`` and ``verify``."""

from __future__ import annotations

import time
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from pgproof.backups.base_backup import take_backup
from pgproof.backups.catalog import BackupEntry, Catalog, read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.backups.verify import verify_backup
from pgproof.commands.console import Session, counted, duration, size, table
from pgproof.errors import Finding, ObjectDamaged
from pgproof.repository.repository import Archive
from pgproof.validation.evidence_check import check_evidence


def now() -> datetime:
    """The clock of the commands."""
    return datetime.now(UTC)


def backup(session: Session, name: str, incremental: bool) -> int:
    """Take a base backup and show its record."""
    cluster = session.cluster(name)
    repository = session.repository(cluster)
    started = time.monotonic()
    with session.progress(f"backup {name}", None) as progress:
        record = take_backup(cluster, repository, now, incremental=incremental, progress=progress)
    seconds = time.monotonic() - started
    session.show(
        {**record.as_dict(), "seconds": round(seconds, 3), "stored_size": record.stored_size},
        lambda console: show_record(console, record, seconds),
    )
    return 0


def show_record(console: Console, record: BackupRecord, seconds: float) -> None:
    """A page about one backup."""
    rate = record.raw_size / max(seconds, 0.001)
    console.print(f"backup [bold]{record.label}[/bold] is complete")
    console.print(
        f"  {size(record.raw_size)} read, {size(record.stored_size)} stored in "
        f"{counted(len(record.volumes), 'volume')}, "
        f"{duration(seconds)}, {size(rate)}/s"
    )
    console.print(
        f"  timeline {record.timeline}, LSN {record.start_lsn} to {record.stop_lsn}, "
        f"WAL {record.first_segment} to {record.last_segment}"
    )


def list_backups(session: Session, name: str) -> int:
    """Show every backup with its state."""
    archive = session.archive(session.cluster(name))
    catalog = read_catalog(archive, tolerant=True)
    session.show(
        {
            "backups": [entry_dict(entry) for entry in catalog.entries],
            "torn": list(catalog.torn),
            "damaged": dict(catalog.damaged),
            "unread": dict(catalog.unread),
        },
        lambda console: _show_catalog(console, name, catalog),
    )
    return 1 if catalog.damaged or catalog.unread else 0


def entry_dict(entry: BackupEntry) -> dict[str, Any]:
    """A backup as ``--json`` shows it."""
    return {
        **entry.record.as_dict(),
        "state": entry.state,
        "stored_size": entry.record.stored_size,
        "proven_at": entry.proven_at.isoformat() if entry.proven_at else None,
        "failed": entry.failed,
        "hold": entry.hold.reason if entry.hold else None,
    }


def _show_catalog(console: Console, name: str, catalog: Catalog) -> None:
    rows = []
    for entry in catalog.entries:
        state = f"proven {entry.proven_at:%F %T}" if entry.state == "proven" else entry.state
        rows.append(
            (
                entry.label,
                state + (f", held: {entry.hold.reason}" if entry.hold else ""),
                f"{entry.record.stopped_at:%F %T}",
                size(entry.record.raw_size),
                size(entry.record.stored_size),
                str(entry.record.timeline),
                str(entry.record.stop_lsn),
            )
        )
    columns = ("backup", "state", "stopped (UTC)", "raw", "stored", "timeline", "stop LSN")
    console.print(
        table(f"backups of cluster {name}", columns, rows) if rows else f"cluster {name} has no backup yet"
    )
    for label, fault in (*catalog.damaged, *catalog.unread):
        console.print(f"damaged: {label}: {fault}", markup=False)
    if catalog.torn:
        console.print(f"torn, removed by the next expire: {', '.join(catalog.torn)}")


def verify(session: Session, name: str, label: str | None) -> int:
    """Read every stored byte of one backup, or of all and of what lies beside them, and compare with the records."""
    archive = session.archive(session.cluster(name))
    catalog = read_catalog(archive, tolerant=True)
    everything = [*dict(catalog.damaged), *(entry.label for entry in catalog.entries)]
    with ThreadPoolExecutor(2, "verify") as pool:
        results = [_verified(archive, catalog, one, pool) for one in ([label] if label else everything)]
        beside, faults = (0, []) if label else check_evidence(archive, pool)

    def page(console: Console) -> None:
        for result in results:
            if result["ok"]:
                console.print(
                    f"{result['backup']}: {counted(result['objects'], 'object')}, "
                    f"{size(result['bytes'])}, all as recorded"
                )
            else:
                console.print(f"{result['backup']}: {result['fact']}\n  {result['detail']}")
        for fault in faults:
            console.print(f"{fault.fact}\n  {fault.detail}")
        if beside and not faults:
            console.print(
                f"{counted(beside, 'fence, proof, hold or received part')} beside, readable and whole"
            )
        if not results:
            console.print(f"cluster {name} has no backup yet")

    session.show({"backups": results, "beside": beside, "damaged": [f.as_dict() for f in faults]}, page)
    return 0 if results and all(result["ok"] for result in results) and not faults else 1


def _verified(archive: Archive, catalog: Catalog, label: str, pool: Executor) -> dict[str, Any]:
    try:
        if fault := dict(catalog.damaged).get(label):
            raise ObjectDamaged(f'backup "{label}" cannot be used', fault)
        checked = verify_backup(archive, catalog.entry(label).record, pool)
    except Finding as error:
        return {"backup": label, "ok": False, **error.as_dict()}
    return {"backup": label, "ok": True, "objects": checked.objects, "bytes": checked.size}
