"""A parent is the backup that an incremental one builds on; or there is a reason why a full one is taken instead."""

from __future__ import annotations

from dataclasses import dataclass

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.record import BackupRecord
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError, ServerNotReady
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.versions import INCREMENTAL_BACKUP


@dataclass(frozen=True, slots=True)
class Basis:
    """What a base backup builds on.

    Args:
        parent: the backup below it; None makes a full one.
        why_full: why it is a full one although an incremental one was asked for; empty when nobody did.
    """

    parent: BackupRecord | None = None
    why_full: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the record says of it."""
        return (f"a full backup was taken instead of an incremental one: {self.why_full}",) * bool(
            self.why_full
        )

    def refused(self, error: PgproofError) -> Basis:
        """A full backup, as the server refused the parent: WAL summaries do not reach back to it, say."""
        assert self.parent is not None
        said = error.detail.removeprefix("ERROR: ").rstrip(".")
        return Basis(None, f"the server does not build on {self.parent.label}: {said}")


def choose_basis(cluster: ClusterConfig, facts: ServerFacts, catalog: Catalog) -> Basis:
    """The parent of an incremental backup: the newest backup that serves; or why none does.

    Raises:
        ServerNotReady: the server cannot make incremental backups.
    """
    _require_incremental(cluster, facts)
    unfit = ""
    for entry in reversed(catalog.entries):
        fault = _unfit(entry, facts, catalog)
        if not fault:
            return Basis(entry.record)
        unfit = unfit or f"{entry.label}, the newest one, cannot be built on: {fault}"
    return Basis(None, unfit or "there is no backup to build on")


def _unfit(entry: BackupEntry, facts: ServerFacts, catalog: Catalog) -> str:
    """Why a backup cannot be a parent; empty when it can.

    What must be the same along a chain and can change within one system identifier; a block size, for one, cannot.
    """
    record = entry.record
    checksums = facts.settings.get("data_checksums") == "on"
    alike = (
        ("timeline", record.timeline, facts.timeline),
        ("major version", record.major, facts.major),
        ("WAL segment size", record.segment_size, facts.segment_size),  # pg_resetwal --wal-segsize
        ("data checksums", _switch(record.data_checksums), _switch(checksums)),  # pg_checksums
    )
    changed = [f"its {what}: {then}, the server's: {now}" for what, then, now in alike if then != now]
    if changed:
        return "; ".join(changed)
    if entry.failed:
        return f"its {entry.failed_what} failed"
    if not catalog.is_whole(entry.label):
        return "a backup that it builds on is missing"
    doubtful = catalog.doubtful_parents(entry)
    return f"it builds on {doubtful[0].label}, whose {doubtful[0].failed_what} failed" if doubtful else ""


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _require_incremental(cluster: ClusterConfig, facts: ServerFacts) -> None:
    if facts.major < INCREMENTAL_BACKUP:
        raise ServerNotReady(
            f'cluster "{cluster.name}" cannot make incremental backups',
            f"It is PostgreSQL {facts.major}; they need {INCREMENTAL_BACKUP}.",
            f"pgproof backup {cluster.name}",
        )
    if facts.settings.get("summarize_wal") != "on":
        raise ServerNotReady(
            f'cluster "{cluster.name}" does not summarize WAL',
            "Incremental backups are made from WAL summaries.",
            "psql -c 'ALTER SYSTEM SET summarize_wal = on' -c 'SELECT pg_reload_conf()'",
        )
