"""A backup manifest is PostgreSQL's own list of a backup's files, and of the WAL that makes them consistent.

We store it as the server sent it. What it says of WAL must be what the backup record says: a record that was altered,
or that belongs to other files, would fetch too little WAL, or be chosen for a point that the backup cannot reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgproof.backups.record import BackupRecord
from pgproof.errors import ObjectDamaged, PgproofError
from pgproof.repository.seal import strict_json
from pgproof.timelines.lsn import LSN

LARGEST = 1 << 30  # bytes: of five million files
_END = 1 << 14  # bytes of each end


def check_manifest(record: BackupRecord, chunks: Iterable[bytes]) -> None:
    """Compare the backup record with its manifest: timeline, LSNs, and system identifier (from PostgreSQL 17 on).

    Only what comes before the list of files and after it is parsed: of 500,000 files all of it took 318 MB and several
    seconds. A manifest that cannot be read says nothing here: pg_verifybackup judges it.

    Args:
        record: of the backup.
        chunks: its content (manual, chapter "Backup Manifest Format"), of which both ends are held.

    Raises:
        ObjectDamaged: they contradict each other.
    """
    manifest = _ends(chunks)
    try:
        tree = _without_files(manifest)
        ranges = [
            (LSN.parse(item["Start-LSN"]), LSN.parse(item["End-LSN"]), int(item["Timeline"]))
            for item in tree["WAL-Ranges"]
        ]
        start, (_, stop, timeline) = min(ranges)[0], max(ranges, key=lambda item: item[1])
        system = int(tree.get("System-Identifier", record.system_identifier))
    except (ValueError, KeyError, TypeError, AttributeError, PgproofError):
        return
    _compare(record, "system_identifier", record.system_identifier, system)
    _compare(record, "timeline", record.timeline, timeline)
    _compare(record, "start_lsn", record.start_lsn, start)
    _compare(record, "stop_lsn", record.stop_lsn, stop)


def _without_files(manifest: bytes) -> dict[str, Any]:
    """The manifest but its files; they come before the WAL, and no name in quotes can end up behind it."""
    before, after = manifest.find(b'"Files"'), manifest.rfind(b'"WAL-Ranges"')
    if not 0 < before < after:
        raise ValueError("it has no files before its WAL")
    head = manifest[:before].rstrip().removesuffix(b",") + b"}"
    return {**strict_json(head), **strict_json(b"{" + manifest[after:])}


def _ends(chunks: Iterable[bytes]) -> bytes:
    """The beginning and the end of a manifest, each as much as is parsed of any."""
    head, tail = b"", b""
    for chunk in chunks:
        lacks = _END - len(head)
        head += chunk[:lacks]
        tail = (tail + chunk[max(lacks, len(chunk) - _END) :])[-_END:]
    return head + tail


def _compare(record: BackupRecord, name: str, said: Any, found: Any) -> None:
    if said != found:
        raise ObjectDamaged(
            f'backup record "{record.label}" contradicts its backup manifest',
            f"Its {name} is {said}; the manifest says {found}.",
            "one of them was altered or belongs to another backup; choose another with pgproof list",
        )
