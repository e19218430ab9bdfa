"""A hold keeps one backup from expiring, for a stated reason and as long as stated."""

from __future__ import annotations

from datetime import datetime

from pgproof.backups.catalog import Hold, read_catalog, read_holds
from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing, UsageError
from pgproof.repository.repository import Archive


def hold_key(archive: Archive, label: str) -> str:
    """Where the hold on a label is."""
    return f"{archive.layout.holds}{label}.json"


def add_hold(
    archive: Archive,
    label: str,
    reason: str,
    until: datetime | None = None,
    *,
    now: datetime,
    replace: bool = False,
) -> Hold:
    """Hold a backup; a hold that is over is replaced, one that is not only when that is asked for.

    No lease is taken, so that a hold can be placed while a backup runs. Write order: the hold, then a second
    look at the backup record, because an expire may have been quicker.

    Args:
        archive: of the backup.
        label: of the backup.
        reason: shown wherever the backup is listed.
        until: aware; None holds until it is removed.
        now: aware; decides whether a hold is over.
        replace: a hold that the backup has, whatever its reason and end.

    Raises:
        NoBackup: there is no backup of this label.
        UsageError: no reason, a time without a zone, or the backup is held already.
    """
    if not reason.strip():
        raise UsageError(
            f'a hold on backup "{label}" needs a reason', hint=f'pgproof hold NAME {label} --reason "..."'
        )
    if until is not None and until.tzinfo is None:
        raise UsageError(
            f'the end of a hold "{until.isoformat()}" has no time zone', hint="such as 2026-12-31T00:00:00Z"
        )
    read_catalog(archive).entry(label)
    present = read_hold(archive, label)
    if present is not None and present.active(now) and not replace:
        raise _held(present)
    content = {"label": label, "reason": reason, "until": until.isoformat() if until else None}
    archive.write_json(hold_key(archive, label), content, create=False)
    try:
        archive.store.head(archive.layout.backup_record(label))
    except ObjectMissing as error:
        archive.store.delete(hold_key(archive, label))
        raise NoBackup(f'backup "{label}" expired before it was held', hint="pgproof list NAME") from error
    return Hold(label, reason, until)


def _held(present: Hold) -> UsageError:
    end = f"until {present.until:%F %T%z}" if present.until else "without an end"
    return UsageError(
        f'backup "{present.label}" is held already',
        f'It is held {end}, for this reason: "{present.reason}".',
        "add --replace to put the new reason and end in place of these",
    )


def remove_hold(archive: Archive, label: str) -> None:
    """End a hold; the backup may have gone already.

    Raises:
        UsageError: there is no hold on this label.
    """
    held = [hold.label for hold in read_holds(archive)]
    if label not in held:
        raise UsageError(
            f'backup "{label}" is not held', f"Held are: {', '.join(held) or 'none'}.", "pgproof list NAME"
        )
    archive.store.delete(hold_key(archive, label))


def read_hold(archive: Archive, label: str) -> Hold | None:
    """The hold on a label, active or not.

    Raises:
        ObjectDamaged: it cannot be read.
    """
    key = hold_key(archive, label)
    try:
        return Hold.from_dict(archive.read_json(key))
    except ObjectMissing:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ObjectDamaged(f'hold "{key}" cannot be read', f"{error!r}.") from error
