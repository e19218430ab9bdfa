"""A backup record makes a backup exist: it is written last and names every object of it (invariant 1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pgproof.backups.configuration import Configuration
from pgproof.backups.locales import Locale
from pgproof.errors import ObjectDamaged, PgproofError
from pgproof.repository.repository import StoredObject
from pgproof.repository.shape import moment, shaped
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment

_SEGMENT_SIZES = frozenset(1 << power for power in range(20, 31))  # IsValidWalSegSize
_MOST_WAL = 1 << 42  # bytes between start and stop
_MOST_BYTES = 1 << 53


@dataclass(frozen=True, slots=True)
class Tablespace:
    """A tablespace besides the data directory: its OID and where the source had it."""

    oid: int
    path: str


@dataclass(frozen=True, slots=True)
class Volume:
    """One tar volume: a valid tar of whole files, and the tablespace they belong to (None: the data directory)."""

    object: StoredObject
    tablespace: int | None
    raw_size: int


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """Everything that a restore must know of a backup.

    Sizes are bytes, times are aware and in UTC, ``server_version`` is PostgreSQL's number such as 170010.
    ``started_at`` is of the clock of the host that took it, ``stopped_at`` of the server's, and ``consistent_at`` of
    the one that commits are stamped with: of a standby it is the primary's. ``skipped`` are the paths that the server
    left out, ``warnings`` what whoever restores it should know, a sentence each. ``configuration`` are the files that
    set the source; None when all of them lie inside the data directory.
    """

    label: str
    cluster: str
    system_identifier: int
    server_version: int
    timeline: int
    start_lsn: LSN
    stop_lsn: LSN
    started_at: datetime
    stopped_at: datetime
    segment_size: int
    volumes: tuple[Volume, ...]
    manifest: StoredObject
    tablespaces: tuple[Tablespace, ...] = ()
    parent: str | None = None
    from_standby: bool = False
    data_checksums: bool = False
    raw_size: int = 0
    consistent_at: datetime | None = None
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    software: dict[str, str] = field(default_factory=dict)
    locales: tuple[Locale, ...] = ()
    configuration: Configuration | None = None

    @property
    def objects(self) -> tuple[StoredObject, ...]:
        """Every object of it."""
        configured = self.configuration.object if self.configuration else None
        return (
            *(volume.object for volume in self.volumes),
            self.manifest,
            *([configured] if configured else []),
        )

    @property
    def kind(self) -> str:
        return "incremental" if self.parent else "full"

    @property
    def reachable_from(self) -> datetime:
        """The earliest time that recovery can stop at: no commit of the backup itself is newer."""
        return self.consistent_at or self.stopped_at

    @property
    def stored_size(self) -> int:
        return sum(stored.size for stored in self.objects)

    @property
    def major(self) -> int:
        return self.server_version // 10000

    @property
    def first_segment(self) -> WalSegment:
        return WalSegment.containing(self.timeline, self.start_lsn, self.segment_size)

    @property
    def last_segment(self) -> WalSegment:
        return WalSegment.ending_at(self.timeline, self.stop_lsn, self.segment_size)

    def as_dict(self) -> dict[str, Any]:
        tree = asdict(self)
        tree["system_identifier"] = str(self.system_identifier)  # over 2^53: a JSON number would lose digits
        for name in ("start_lsn", "stop_lsn"):
            tree[name] = str(getattr(self, name))
        for name in ("started_at", "stopped_at"):
            tree[name] = getattr(self, name).isoformat()
        tree["consistent_at"] = self.consistent_at.isoformat() if self.consistent_at else None
        tree["kind"] = self.kind
        return tree

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> BackupRecord:
        """Read a record as ``backup.json`` holds it.

        Raises:
            ObjectDamaged: a value is missing or cannot be read.
        """
        try:
            values = {**tree}
            values.pop("kind", None)
            values["system_identifier"] = int(tree["system_identifier"])
            for name in ("start_lsn", "stop_lsn"):
                values[name] = LSN.parse(tree[name])
            for name in ("started_at", "stopped_at"):
                values[name] = moment(tree[name])
            if at := tree.get("consistent_at"):
                values["consistent_at"] = moment(at)
            values["skipped"] = tuple(str(path) for path in tree.get("skipped", ()))
            values["warnings"] = tuple(str(text) for text in tree.get("warnings", ()))
            values["manifest"] = StoredObject(**tree["manifest"])
            values["locales"] = tuple(Locale(**item) for item in tree.get("locales", ()))
            if configured := tree.get("configuration"):
                values["configuration"] = Configuration.from_dict(configured)
            values["tablespaces"] = tuple(Tablespace(**item) for item in tree["tablespaces"])
            values["volumes"] = tuple(
                Volume(**{**item, "object": StoredObject(**item["object"])}) for item in tree["volumes"]
            )
            return _sensible(shaped(cls(**values)))
        except (AttributeError, KeyError, TypeError, ValueError, PgproofError) as error:
            label = tree.get("label", "?") if isinstance(tree, dict) else "?"
            raise ObjectDamaged(f'backup record "{label}" cannot be read', f"{error!r}.") from error


def _sensible(record: BackupRecord) -> BackupRecord:
    """A record whose numbers are some that PostgreSQL can have: what is computed with them ends.

    Raises:
        ValueError: one is not.
    """
    sizes = (*(stored.size for stored in record.objects), *(volume.raw_size for volume in record.volumes))
    allowed = {
        "segment_size": record.segment_size in _SEGMENT_SIZES,
        "timeline": 0 < record.timeline < 1 << 32,
        "server_version": 90_000 < record.server_version < 1_000_000,
        "start_lsn": 0 < record.start_lsn <= record.stop_lsn < 1 << 64,
        "stop_lsn": record.stop_lsn - record.start_lsn <= _MOST_WAL,
        "a size": all(0 <= size <= _MOST_BYTES for size in (record.raw_size, *sizes)),
        "parent": record.parent != record.label,
    }
    if wrong := [name for name, holds in allowed.items() if not holds]:
        raise ValueError(f"{', '.join(wrong)} cannot be")
    return record
