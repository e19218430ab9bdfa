"""What cannot be read decides nothing: a record that is damaged keeps what it may be about.

A damaged proof, hold or verification names its backup in its key, and that backup stays. It may have failed, so that it
makes no other backup unnecessary, nor does one that builds on it. A damaged backup record tells neither which WAL its
backup needs nor what it builds on, so that all WAL stays, and every older backup.
"""

from __future__ import annotations

from dataclasses import replace

from pgproof.backups.catalog import Catalog, Hold
from pgproof.repository.layout import Layout


def with_unread_held(catalog: Catalog, layout: Layout) -> Catalog:
    """The catalog with a hold on every backup that something unreadable may be about.

    Args:
        catalog: with what could not be read.
        layout: of its archive.
    """
    if not catalog.damaged and not catalog.unread:
        return catalog
    known = {entry.label: entry for entry in catalog.entries}
    about = {label: _keys_about(label, catalog, layout) for label in known}
    doubtful: dict[str, str] = {}  # oldest first, so that a parent is known before what builds on it
    for label, entry in known.items():
        keys = [key for key in about[label] if not key.startswith(layout.holds)]
        doubtful[label] = keys[0] if keys else doubtful.get(entry.record.parent or "", "")
    made = []
    for label, entry in known.items():
        why = [f'"{key}" cannot be read' for key in about[label]]
        why += [
            f'backup "{one}", whose record cannot be read, may build on it'
            for one, _ in catalog.damaged
            if one > label
        ]
        if why:
            entry = replace(entry, hold=Hold(label, why[0]))
        if key := doubtful[label]:
            fault, at = f'"{key}" cannot be read', entry.record.stopped_at
            entry = replace(entry, failed=entry.failed or fault, failed_at=entry.failed_at or at)
        made.append(entry)
    return replace(catalog, entries=tuple(made))


def warnings_of(catalog: Catalog) -> tuple[str, ...]:
    """What whoever expires has to know of what could not be read.

    Args:
        catalog: of the archive.
    """
    records = [
        f'backup "{label}" is kept, with all WAL and every older backup, because its record cannot be used: '
        f"{reason.rstrip('.')}"
        for label, reason in catalog.damaged
    ]
    others = [
        f'the backup of "{key}" is kept, because that cannot be used: {reason}'
        for key, reason in catalog.unread
    ]
    return (*records, *others)


def _keys_about(label: str, catalog: Catalog, layout: Layout) -> list[str]:
    """The keys of what cannot be read and may be about a backup; a proof is called ``<time>-<label>``."""
    names = (f"/{label}.json", f"-{label}.json")
    return [key for key, _ in catalog.unread if key == layout.verification(label) or key.endswith(names)]
