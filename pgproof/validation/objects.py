"""Objects are everything in a database that is no row of a table: what the source had of them at the fence.

They are read from the system catalogs, and stored beside the fence through the repository's codec: they hold the text
of functions and views.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pgproof.errors import ObjectDamaged
from pgproof.repository.repository import Archive, StoredObject
from pgproof.validation.sequences import SequenceState
from pgproof.validation.system_catalogs import SystemCatalog
from pgproof.wal.lsn import LSN

CLUSTER = "(cluster)"  # stands for a database where roles and the like are meant
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One object, or a part of one.

    Args:
        identity: its name for people.
        values: its columns as a JSON list.
        definition: how it reads in SQL; explains a difference and is none.
    """

    identity: str
    values: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class CatalogContent:
    """What one catalog held.

    Args:
        catalog: which, and how it was read.
        rows: key to row.
        rest: how many other rows.
        rest_hash: sum of a hash of each of them.
    """

    catalog: SystemCatalog
    rows: dict[str, CatalogRow]
    rest: int
    rest_hash: str

    @property
    def count(self) -> int:
        return len(self.rows) + self.rest


@dataclass(frozen=True, slots=True)
class DatabaseObjects:
    """The objects of one database at its fence.

    Args:
        catalogs: the database's own, and the cluster's in one of the databases.
        sequences_lsn: WAL up to here says what ``before`` says.
        before: the sequences just before the snapshot.
        after: the sequences after the cut.
        collations: name to the version that the source's machine has.
    """

    catalogs: tuple[CatalogContent, ...]
    sequences_lsn: LSN
    before: tuple[SequenceState, ...] = ()
    after: tuple[SequenceState, ...] = ()
    collations: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sequences_lsn": str(self.sequences_lsn)}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> DatabaseObjects:
        return cls(
            tuple(_content(item) for item in tree["catalogs"]),
            LSN.parse(tree["sequences_lsn"]),
            tuple(SequenceState(**item) for item in tree["before"]),
            tuple(SequenceState(**item) for item in tree["after"]),
            dict(tree["collations"]),
        )


def _content(tree: dict[str, Any]) -> CatalogContent:
    columns = tuple((name, form) for name, form in tree["catalog"]["columns"])
    catalog = SystemCatalog(
        **{
            **tree["catalog"],
            "key": tuple(tree["catalog"]["key"]),
            "columns": columns,
            "refused": tuple(tree["catalog"]["refused"]),
        }
    )
    rows = {key: CatalogRow(**row) for key, row in tree["rows"].items()}
    return CatalogContent(catalog, rows, tree["rest"], tree["rest_hash"])


def write_objects(archive: Archive, fence: str, objects: dict[str, DatabaseObjects]) -> StoredObject:
    """Store the objects of a fence, before the fence itself.

    Args:
        archive: of the source.
        fence: its identifier.
        objects: by database.
    """
    text = json.dumps(
        {name: held.as_dict() for name, held in objects.items()}, ensure_ascii=False, separators=(",", ":")
    )
    key = f"{archive.layout.fences}{fence}-objects.json"
    return archive.write(key, _chunks(text.encode()), create=True)


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def read_objects(data: bytes) -> dict[str, DatabaseObjects]:
    """The objects of a fence, by database.

    Raises:
        ObjectDamaged: they cannot be read.
    """
    try:
        return {name: DatabaseObjects.from_dict(tree) for name, tree in json.loads(data).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ObjectDamaged("the objects of a fence cannot be read", f"{error!r}.") from error
