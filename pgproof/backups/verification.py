"""A verification is what the last reading of a backup found: every byte as recorded, or what was not, and when.

There is one of each backup, beside it, replaced whole by the next reading; it expires with the backup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pgproof import __version__
from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.repository.repository import Archive
from pgproof.repository.shape import moment, shaped


@dataclass(frozen=True, slots=True)
class Verification:
    """One reading of a backup.

    Args:
        label: of the backup.
        at: when it ended, aware.
        ok: whether every byte was as recorded, and the backup's own WAL whole.
        objects: how many were read; 0 when it failed.
        size: stored bytes that were read; 0 when it failed.
        fault: what was found, on one line; empty when all was as recorded.
        software: versions.
    """

    label: str
    at: datetime
    ok: bool
    objects: int = 0
    size: int = 0
    fault: str = ""
    software: dict[str, str] = field(default_factory=lambda: {"pgproof": __version__})

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Verification:
        """Read a verification as the repository holds it; fields that a later version adds are left out.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or cannot be read.
        """
        at, ok, fault = moment(tree["at"]), tree["ok"], str(tree["fault"])
        if not isinstance(ok, bool) or ok == bool(fault):
            raise ValueError("it contradicts itself")
        sizes = int(tree["objects"]), int(tree["size"])
        return shaped(cls(str(tree["label"]), at, ok, *sizes, fault, dict(tree["software"])))


def write_verification(archive: Archive, verification: Verification) -> None:
    """Store a verification in place of the one before, in one write.

    Raises:
        RepositoryReadOnly, NoRoom, StoreUnavailable: it could not be stored; the one before is still there.
    """
    key = archive.layout.verification(verification.label)
    archive.write_json(key, verification.as_dict(), create=False)


def read_verification(archive: Archive, label: str) -> Verification | None:
    """The verification of a backup; None when there is none.

    Args:
        archive: that holds the backup.
        label: of the backup.

    Raises:
        ObjectDamaged: it cannot be read.
    """
    key = archive.layout.verification(label)
    try:
        found = Verification.from_dict(archive.read_json(key))
        if found.label != label:
            raise ValueError(f'it is of backup "{found.label}"')
    except ObjectMissing:  # expired while we looked
        return None
    except (ObjectDamaged, AttributeError, KeyError, TypeError, ValueError) as error:
        detail = error.detail if isinstance(error, ObjectDamaged) else f"{error!r}."
        hint = "pgproof verify NAME reads the backup again, and replaces it"
        raise ObjectDamaged(f'record "{key}" cannot be read', detail, hint) from error
    return found
