"""``backup``, ``list`` and ``verify``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pgproof.backups.base_backup import take_backup
from pgproof.backups.catalog import BackupEntry, Catalog, read_catalog
from pgproof.backups.estimate import estimated_size
from pgproof.backups.record import BackupRecord
from pgproof.backups.state import ProofAge, State, missing_wal, proof_age, state_of
from pgproof.backups.verification import Verification, write_verification
from pgproof.backups.verify import verify_backup
from pgproof.commands.console import Console, Session, line, table
from pgproof.errors import Finding, NoBackup, NoRoom, ObjectDamaged, RepositoryReadOnly, StoreUnavailable
from pgproof.repository.repository import Archive
from pgproof.retention.old_system import old_system_notes, old_systems
from pgproof.validation.evidence_check import check_evidence
from pgproof.wording import counted, duration, size


def now() -> datetime:
    """The clock of the commands."""
    return datetime.now(UTC)


def backup(session: Session, name: str, incremental: bool) -> int:
    """Take a base backup and show its record."""
    cluster = session.cluster(name)
    repository = session.repository(cluster)
    started = time.monotonic()
    total = estimated_size(cluster, incremental=incremental)
    with session.progress(f"backup {name}", total) as progress:
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
    console.print(line("backup ", (record.label, "bold"), " is complete"))
    console.print(
        f"  {size(record.raw_size)} read, {size(record.stored_size)} stored in "
        f"{counted(len(record.volumes), 'volume')}, "
        f"{duration(seconds)}, {size(rate)}/s"
    )
    console.print(
        f"  timeline {record.timeline}, LSN {record.start_lsn} to {record.stop_lsn}, "
        f"WAL {record.first_segment} to {record.last_segment}"
    )
    if record.configuration and record.configuration.files:
        count = counted(len(record.configuration.files), "configuration file")
        console.print(f"  {count} from outside the data directory")
    for warning in record.warnings:
        console.print(f"  warning: {warning}", style="yellow")


def list_backups(session: Session, name: str) -> int:
    """Show every backup with its state."""
    cluster = session.cluster(name)
    archive = session.archive(cluster)
    catalog = read_catalog(archive)
    lacking = missing_wal(archive, [entry.record for entry in catalog.entries])
    at, limit = now(), cluster.drill.stale_after
    states = [state_of(e, at, limit, lacking.get(e.label, "")) for e in catalog.entries]
    age = proof_age(catalog, at, limit)
    old = old_systems(cluster, archive)
    session.show(
        {
            "backups": [entry_dict(e, state) for e, state in zip(catalog.entries, states, strict=True)],
            "torn": list(catalog.torn),
            "damaged": dict(catalog.damaged),
            "unread": dict(catalog.unread),
            "old_systems": [str(system) for system in old],
            "proof": {
                "backup": age.label or None,
                "at": age.at.isoformat() if age.at else None,
                "seconds": age.seconds,
                "stale": age.stale,
            },
        },
        lambda console: _show_catalog(console, name, catalog, states, age, old),
    )
    return 1 if catalog.damaged or catalog.unread else 0


def entry_dict(entry: BackupEntry, state: State) -> dict[str, Any]:
    """A backup as ``--json`` shows it."""
    times = {"proven_at": entry.proven_at, "verified_at": entry.verified_at, "failed_at": entry.failed_at}
    return {
        **entry.record.as_dict(),
        **state.as_dict(),
        "stored_size": entry.record.stored_size,
        **{key: at.isoformat() if at else None for key, at in times.items()},
        "failed": entry.failed,
        "hold": entry.hold.reason if entry.hold else None,
    }


def _show_catalog(
    console: Console,
    name: str,
    catalog: Catalog,
    states: Sequence[State],
    age: ProofAge,
    old: Sequence[int],
) -> None:
    rows, notes, warnings = [], [], []
    for entry, state in zip(catalog.entries, states, strict=True):
        stale = ", stale" if state.stale else ""
        held = f", held: {entry.hold.reason}" if entry.hold else ""
        rows.append(
            (
                entry.label,
                f"{state.name}{stale}{held}",
                f"{state.since:%F %R}",
                _short(state, entry.label),
                f"{entry.record.stopped_at:%F %R}",
                size(entry.record.raw_size),
                size(entry.record.stored_size),
                str(entry.record.timeline),
                str(entry.record.stop_lsn),
            )
        )
        notes += [f"{entry.label}: {state.reason}"] if state.reason else []
        warnings += [f"{entry.label}: {text}" for text in entry.record.warnings]
    columns = ("backup", "state", "since (UTC)", "by", "stopped (UTC)", "raw", "stored", "tl", "stop LSN")
    console.print(
        table(f"backups of cluster {name}", columns, rows) if rows else f"cluster {name} has no backup yet"
    )
    for note in notes:
        console.print(note, style="red")
    for warning in warnings:
        console.print(warning, style="yellow")
    if rows:
        style = None if age.at and not age.stale else "yellow"
        console.print(proof_line(name, age), style=style)
    for label, fault in (*catalog.damaged, *catalog.unread):
        console.print(f"damaged: {label}: {fault}")
    for note in old_system_notes(name, old):
        console.print(note)
    if catalog.torn:
        console.print(f"torn, removed by the next expire: {', '.join(catalog.torn)}")


def _short(state: State, label: str) -> str:
    """By what a state is known, so that it fits into a column: of a proof its time, which begins its file's name."""
    return state.by.removesuffix(f"-{label}")


def proof_line(name: str, age: ProofAge) -> str:
    """A line about the newest proof, with what to do when it is old or there is none."""
    if age.at is None:
        return f"nothing is proven: pgproof drill {name}"
    old = f", which is stale: pgproof drill {name}" if age.stale else ""
    return f"newest proof: {duration(age.seconds)} ago, of backup {age.label}{old}"


def verify(session: Session, name: str, label: str | None) -> int:
    """Read every stored byte of one backup, or of all and of what lies beside them; remember what was found."""
    archive = session.archive(session.cluster(name))
    catalog = read_catalog(archive)
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
            if result["unrecorded"]:
                console.print(f"  not remembered: {result['unrecorded']}", style="yellow")
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
        record = catalog.entry(label).record
    except Finding as error:  # there is no record that an outcome could be kept beside
        return {"backup": label, "ok": False, **error.as_dict(), "unrecorded": ""}
    try:
        _require_chain(catalog, label)
        checked = verify_backup(archive, record, pool)
    except Finding as error:
        fault = " ".join(f"{error.fact}. {error.detail}".split())
        kept = _remember(archive, Verification(label, now(), False, fault=fault))
        return {"backup": label, "ok": False, **error.as_dict(), "unrecorded": kept}
    kept = _remember(archive, Verification(label, now(), True, checked.objects, checked.size))
    return {
        "backup": label,
        "ok": True,
        "objects": checked.objects,
        "bytes": checked.size,
        "unrecorded": kept,
    }


def _require_chain(catalog: Catalog, label: str) -> None:
    """Bytes that are as recorded restore nothing where the backups below do not fit."""
    try:
        catalog.chain(label)
    except NoBackup as error:
        raise ObjectDamaged(error.fact, error.detail, error.hint) from error


def _remember(archive: Archive, verification: Verification) -> str:
    """Store what was found; why it could not be stored: whoever may only read can verify all the same."""
    try:
        write_verification(archive, verification)
    except (RepositoryReadOnly, NoRoom, StoreUnavailable) as error:
        return error.fact
    return ""
