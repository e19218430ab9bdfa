"""A fence is a moment of the source, written down: a snapshot, its exact cut, and what every table held.

One REPEATABLE READ transaction a candidate, no locks but those of reading, no superuser. A burst of candidates
makes it practically sure that one of them has an exact cut, best one that all databases share, which is known from
the archived WAL before anything is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pgproof.errors import ObjectDamaged, ObjectMissing, PgproofError
from pgproof.repository.repository import Archive, StoredObject
from pgproof.repository.shape import moment, shaped
from pgproof.timelines.lsn import LSN
from pgproof.validation.fences.cut import Snapshot
from pgproof.validation.fences.fingerprint import Fingerprint, table_title

LARGE_OBJECTS = "(large objects)"
WHOLE_DATABASE = "(whole database)"


@dataclass(frozen=True, slots=True)
class TableContent:
    """One table at the fence: its columns, and its fingerprint; ``pieces`` says how it was read."""

    schema: str
    name: str
    columns: tuple[str, ...]
    fingerprint: Fingerprint
    sample: float | None = None
    pieces: bool = False

    @property
    def title(self) -> str:
        return table_title(self.schema, self.name) if self.schema else self.name


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something that a proof does not cover, and why (invariant 7)."""

    database: str
    what: str
    reason: str


# What comes back with the files, and no drill looks at
NEVER_CHECKED = NotChecked(
    "every database",
    "passwords, server configuration files, replication slots, planner statistics, what tablespaces link to",
    "no drill compares them",
)
DAMAGED = "damaged: "  # how the reason begins why the source cannot read something that it stores
OBJECTS = "sequences, indexes, functions, roles, privileges and other objects"


def damage_in(not_checked: Iterable[NotChecked]) -> str:
    """What the source itself cannot read, as it is damaged; the first, and how many more. Empty when all could be."""
    found = [item for item in not_checked if item.reason.startswith(DAMAGED)]
    if not found:
        return ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    reason = found[0].reason.removeprefix(DAMAGED)
    return f"the source cannot read {found[0].what} of database {found[0].database}: {reason}{more}"


@dataclass(frozen=True, slots=True)
class DatabaseFence:
    """One database at its cut.

    Args:
        database: its name.
        snapshot: of the fence.
        cut: the exact cut, or None.
        reason: why there is none.
        tables: what was counted.
        listed: how many tables it has, those included that were left out, and its large objects as one; None in
            the fences of older versions, and where it was not looked at.
    """

    database: str
    snapshot: Snapshot
    cut: LSN | None
    reason: str
    tables: tuple[TableContent, ...] = ()
    listed: int | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """All databases of a cluster, each fenced.

    Args:
        identifier: its key in the repository.
        at: when, by the source's clock.
        timeline: of the source.
        end_lsn: WAL up to here is archived and holds a commit after every cut.
        bootstrap_role: a superuser that may log in, best the one with OID 10: it reads the restored copy.
        candidates: fences tried.
        exact_candidates: how many of them had an exact cut.
        held_seconds: how long the source's snapshots were held; the longest, where there were several groups.
        count_seconds: how much of it counting and fingerprinting its tables took; 0 in the fences of older versions.
        objects: where what is no row of a table is kept; None in the fences of older versions.
        several_cuts: why the databases do not share one cut; empty when they do.
    """

    identifier: str
    cluster: str
    system_identifier: int
    at: datetime
    timeline: int
    server_version: int
    segment_size: int
    end_lsn: LSN
    bootstrap_role: str
    databases: tuple[DatabaseFence, ...]
    not_checked: tuple[NotChecked, ...] = ()
    candidates: int = 0
    exact_candidates: int = 0
    held_seconds: float = 0.0
    software: dict[str, str] = field(default_factory=dict)
    objects: StoredObject | None = None
    count_seconds: float = 0.0
    several_cuts: str = ""

    @property
    def exact(self) -> bool:
        return all(database.cut is not None for database in self.databases)

    @property
    def why_not_exact(self) -> str:
        """Each database without an exact cut, and why it has none; empty when all have one."""
        return "; ".join(f"{d.database}: {d.reason}" for d in self.databases if d.cut is None)

    @property
    def cut(self) -> LSN | None:
        """The last cut: where a drill's recovery ends."""
        return max((d.cut for d in self.databases if d.cut is not None), default=None)

    @property
    def rows(self) -> int:
        return sum(table.fingerprint.rows for d in self.databases for table in d.tables)

    def as_dict(self) -> dict[str, Any]:
        tree = asdict(self)
        tree["system_identifier"] = str(self.system_identifier)  # over 2^53: a JSON number would lose digits
        tree["at"], tree["end_lsn"] = self.at.isoformat(), str(self.end_lsn)
        for database, values in zip(self.databases, tree["databases"], strict=True):
            values["snapshot"] = str(database.snapshot)
            values["cut"] = None if database.cut is None else str(database.cut)
        return tree

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Fence:
        """Read a fence as the repository holds it.

        Raises:
            ObjectDamaged: a value is missing or cannot be read.
        """
        try:
            values = {**tree, "at": moment(tree["at"]), "end_lsn": LSN.parse(tree["end_lsn"])}
            values["system_identifier"] = int(tree["system_identifier"])
            values["databases"] = tuple(_database(item) for item in tree["databases"])
            values["objects"] = StoredObject(**tree["objects"]) if tree.get("objects") else None
            values["not_checked"] = tuple(NotChecked(**item) for item in tree["not_checked"])
            return shaped(cls(**values))
        except (AttributeError, KeyError, TypeError, ValueError, PgproofError) as error:
            name = tree.get("identifier", "?") if isinstance(tree, dict) else "?"
            raise ObjectDamaged(f'fence "{name}" cannot be read', f"{error!r}.") from error


def _database(tree: dict[str, Any]) -> DatabaseFence:
    tables = tuple(
        TableContent(**{**t, "columns": tuple(t["columns"]), "fingerprint": Fingerprint(**t["fingerprint"])})
        for t in tree["tables"]
    )
    cut = LSN.parse(tree["cut"]) if tree["cut"] else None
    return DatabaseFence(
        tree["database"], Snapshot.parse(tree["snapshot"]), cut, tree["reason"], tables, tree.get("listed")
    )


def write_fence(archive: Archive, fence: Fence) -> None:
    """Store a fence."""
    archive.write_json(f"{archive.layout.fences}{fence.identifier}.json", fence.as_dict())


def read_fence(archive: Archive, identifier: str) -> Fence:
    """Read a stored fence.

    Raises:
        ObjectMissing: there is none of this identifier.
    """
    try:
        return Fence.from_dict(archive.read_json(f"{archive.layout.fences}{identifier}.json"))
    except ObjectMissing as error:
        raise ObjectMissing(f'fence "{identifier}" does not exist', error.fact) from error
