"""Objects are everything in a database that is no row of a table: what the source had of them at the fence.

They are read from the system catalogs, and stored beside the fence through the repository's codec: they hold the text
of functions and views.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pgproof.errors import ObjectDamaged
from pgproof.repository.repository import Archive, StoredObject
from pgproof.timelines.lsn import LSN
from pgproof.validation.catalogs.sequences import SequenceState
from pgproof.validation.catalogs.system_catalogs import SystemCatalog

CLUSTER = "(cluster)"  # stands for a database where roles and the like are meant
_CHUNK = 1 << 20
_CATALOGS = ',"catalogs":['
_AT_ONCE = 1000  # rows that are written by one call


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

    def as_dict(self) -> dict[str, str]:
        """For JSON; there are thousands, and ``asdict`` copies each part of each."""
        return {"identity": self.identity, "values": self.values, "definition": self.definition}


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
        catalogs: the database's own, and the cluster's in one of the databases; read one by one, as those of a
            database with very many tables are large.
        sequences_lsn: WAL up to here says what ``before`` says.
        before: the sequences just before the snapshot.
        after: the sequences after the cut.
        collations: name to the version that the source's machine has.
        settings: those that change answers, by name; empty in the fences of older versions.
    """

    catalogs: Iterable[CatalogContent]
    sequences_lsn: LSN
    before: tuple[SequenceState, ...] = ()
    after: tuple[SequenceState, ...] = ()
    collations: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def head(self) -> dict[str, Any]:
        """All but the catalogs, for JSON."""
        return {
            "sequences_lsn": str(self.sequences_lsn),
            "before": [asdict(state) for state in self.before],
            "after": [asdict(state) for state in self.after],
            "collations": self.collations,
            "settings": self.settings,
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any], catalogs: Iterable[CatalogContent]) -> DatabaseObjects:
        return cls(
            catalogs,
            LSN.parse(tree["sequences_lsn"]),
            tuple(SequenceState(**item) for item in tree["before"]),
            tuple(SequenceState(**item) for item in tree["after"]),
            dict(tree["collations"]),
            dict(tree.get("settings", {})),
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


class ObjectSpool:
    """What a fence says of objects, written down while it is read: in memory there is one catalog at a time.

    It is one JSON object, with every catalog on a line of its own, so that it can be read catalog by catalog too.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="pgproof-objects-")
        self.databases = 0

    def add(self, database: str, objects: DatabaseObjects) -> None:
        """Write the objects of one more database."""
        head = _json({database: objects.head()})[:-2]
        self._write(f"{',' if self.databases else '{'}{head[1:]}{_CATALOGS}")
        self.databases += 1
        for number, content in enumerate(objects.catalogs):
            self._write(",\n" if number else "\n")
            self._add(content)
        self._write("\n]}\n")

    def _add(self, content: CatalogContent) -> None:
        self._write(f'{{"catalog":{_json(content.catalog.as_dict())},"rows":{{')
        keys = list(content.rows)
        for start in range(0, len(keys), _AT_ONCE):
            rows = {key: content.rows[key].as_dict() for key in keys[start : start + _AT_ONCE]}
            self._write(("," if start else "") + _json(rows)[1:-1])
        self._write(f'}},"rest":{content.rest},"rest_hash":{_json(content.rest_hash)}}}')

    def _write(self, text: str) -> None:
        self._file.write(text.encode(errors="backslashreplace"))  # as of names: an escape of JSON

    def store(self, archive: Archive, fence: str) -> StoredObject:
        """Store all of it, before the fence itself.

        Args:
            archive: of the source.
            fence: its identifier.
        """
        self._write("}\n" if self.databases else "{}\n")
        self._file.seek(0)
        key = f"{archive.layout.fences}{fence}-objects.json"
        with self._file:
            return archive.write(key, iter(lambda: self._file.read(_CHUNK), b""), create=True)


def _json(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


class HeldObjects:
    """The objects of a fence in a file, read as they are asked for.

    Args:
        path: of the file; where there is none, nothing is known of any database.

    Raises:
        ObjectDamaged: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self._objects: dict[str, DatabaseObjects] = {}
        if path.exists():
            with open(path, "rb") as file, _readable():
                for line in iter(file.readline, b""):
                    self._look_at(line, file.tell())

    def _look_at(self, line: bytes, end: int) -> None:
        if line.endswith(_CATALOGS.encode() + b"\n"):
            ((name, tree),) = json.loads(b"{" + line[1:] + b"]}}").items()
            self._objects[name], self._places[name] = DatabaseObjects.from_dict(tree, ()), end
        elif line.startswith(b'{"') and not self._objects:  # all in one line, as older versions wrote it
            for name, tree in json.loads(line).items():
                catalogs = tuple(_content(item) for item in tree["catalogs"])
                self._objects[name] = DatabaseObjects.from_dict(tree, catalogs)

    def of(self, database: str) -> DatabaseObjects | None:
        """The objects of a database; None where nothing is known of them."""
        found = self._objects.get(database)
        if found is None or database not in self._places:
            return found
        return replace(found, catalogs=self._catalogs(self._places[database]))

    def _catalogs(self, place: int) -> Iterator[CatalogContent]:
        with open(self._path, "rb") as file, _readable():
            file.seek(place)
            while (line := file.readline()) and not line.startswith(b"]"):
                yield _content(json.loads(line.rstrip(b",\n")))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ObjectDamaged("the objects of a fence cannot be read", f"{error!r}.") from error
