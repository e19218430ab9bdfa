"""A comparison of objects sets the copy's system catalogs, at the cut, beside what the source had at the fence."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgproof.postgres.programs import lines_of
from pgproof.validation.catalogs.identities import KINDS, kind_of
from pgproof.validation.catalogs.objects import CLUSTER, CatalogContent, CatalogRow

MISSING, PRESENT = "missing", "present"
_MOST = 50  # differences that a proof keeps of one kind; it counts all
_LONGEST = 400  # characters of a value
_LONGEST_DIFF = 3000
_OWN = "PostgreSQL's own"
_INVALID = "-2"  # DATCONNLIMIT_INVALID_DB: DROP DATABASE writes it in place, under no snapshot


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between the source and the copy.

    Args:
        identity: of the object.
        what: the column of its catalog, ``definition``, ``position`` of a sequence; empty for all of it.
        source: the source's value, cut when it is long.
        restored: the copy's.
        diff: of long values, line by line.
    """

    identity: str
    what: str
    source: str
    restored: str
    diff: str = ""

    def __str__(self) -> str:
        if self.restored == MISSING and not self.what:
            return f"{self.identity}: missing from the restored cluster"
        if self.source == MISSING and not self.what:
            return f"{self.identity}: not in the source"
        return f"{self.identity}: {self.what}: {_one_line(self.source)} became {_one_line(self.restored)}"


@dataclass(frozen=True, slots=True)
class ObjectComparison:
    """All objects of one kind in one database, compared.

    Args:
        database: its name, or ``(cluster)``.
        kind: one of ``pgproof.validation.catalogs.identities.KINDS``.
        source, restored: how many each side has.
        different: how many differences there are.
        differences: the first of them.
    """

    database: str
    kind: str
    source: int
    restored: int
    different: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def equal(self) -> bool:
        return not self.different

    def as_record(self) -> dict[str, Any]:
        return {**asdict(self), "differences": [asdict(d) for d in self.differences], "equal": self.equal}


def unequal(identity: str, what: str, source: str, restored: str) -> Difference:
    """A difference of two values; long ones with their diff."""
    diff = ""
    if max(len(source), len(restored)) > _LONGEST or "\n" in source or "\n" in restored:
        lines = difflib.unified_diff(
            lines_of(source), lines_of(restored), "source", "restored", lineterm="", n=1
        )
        diff = _cut("\n".join(lines), _LONGEST_DIFF)
    return Difference(identity, what, _cut(source, _LONGEST), _cut(restored, _LONGEST), diff)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _one_line(text: str) -> str:
    return _cut(" ".join(text.split()) or "''", 120)


def different_keys(source: CatalogContent, restored: CatalogContent) -> list[str]:
    """The keys of rows that are not the same on both sides."""
    keys = source.rows.keys() | restored.rows.keys()
    nothing = CatalogRow("", "")
    return sorted(
        key for key in keys if source.rows.get(key, nothing).values != restored.rows.get(key, nothing).values
    )


def compare_catalog(source: CatalogContent, restored: CatalogContent) -> list[Difference]:
    """Every difference of one catalog; definitions explain them, as far as both sides have one."""
    columns = [name for name, _ in source.catalog.columns]
    found: list[Difference] = []
    for left, right in _pairs(source, restored):
        if left is not None and right is not None:
            found += _changed(columns, left, right)
        elif left is not None:
            found.append(Difference(left.identity, "", _cut(left.definition, _LONGEST) or PRESENT, MISSING))
        elif right is not None:
            found.append(Difference(right.identity, "", MISSING, _cut(right.definition, _LONGEST) or PRESENT))
    if (source.rest, source.rest_hash) != (restored.rest, restored.rest_hash):
        rows = [f"{side.rest} rows with hash {side.rest_hash}" for side in (source, restored)]
        whose = "rows" if source.catalog.summed else _OWN
        found.append(Difference(f"{whose} of {source.catalog.name}", "rows", *rows))
    return found


def _pairs(
    source: CatalogContent, restored: CatalogContent
) -> Iterator[tuple[CatalogRow | None, CatalogRow | None]]:
    """The rows that differ, both sides of each; one that was made anew has another OID and the same name."""
    keys = different_keys(source, restored)
    anew = {restored.rows[key].identity: key for key in keys if key not in source.rows}
    paired = set()
    for key in keys:
        left, right = source.rows.get(key), restored.rows.get(key)
        if left is not None and right is None and left.identity in anew:
            twin = anew.pop(left.identity)
            paired.add(twin)
            right = restored.rows[twin]
        if left is not None:
            yield left, right
    yield from ((None, restored.rows[key]) for key in keys if key not in source.rows and key not in paired)


def _changed(columns: Sequence[str], left: CatalogRow, right: CatalogRow) -> Iterator[Difference]:
    if left.definition != right.definition and left.definition and right.definition:
        yield unequal(left.identity, "definition", left.definition, right.definition)
    for column, a, b in zip(columns, json.loads(left.values), json.loads(right.values), strict=True):
        if a != b and not (column == "datconnlimit" and _INVALID in (a, b)):
            yield unequal(left.identity, column, _shown(a), _shown(b))


def _shown(value: str | None) -> str:
    return "NULL" if value is None else value


@dataclass(frozen=True, slots=True)
class Compared:
    """One catalog, or the states of all sequences, compared: counts of both sides, and what differs."""

    name: str
    shared: bool
    source: int
    restored: int
    differences: tuple[Difference, ...] = ()


def by_kind(database: str, compared: Iterable[Compared]) -> list[ObjectComparison]:
    """One line for each kind that has objects or differences, in the order of ``KINDS``; the cluster's apart."""
    lines: dict[tuple[bool, str], list[Compared]] = {}
    for one in compared:
        lines.setdefault((one.shared, kind_of(one.name)), []).append(one)
    order = {kind: number for number, kind in enumerate(KINDS)}
    found = []
    for (shared, kind), parts in sorted(
        lines.items(), key=lambda item: (item[0][0], order.get(item[0][1], 99))
    ):
        # what is missing as a whole explains most of the rest
        differences = sorted((d for part in parts for d in part.differences), key=lambda d: bool(d.what))
        counts = sum(part.source for part in parts), sum(part.restored for part in parts)
        if any(counts) or differences:
            where = CLUSTER if shared else database
            found.append(ObjectComparison(where, kind, *counts, len(differences), tuple(differences[:_MOST])))
    return found


def kind_lines(objects: Iterable[dict[str, Any]]) -> list[tuple[str, str, str, int]]:
    """Kind, rows of the source and of the copy, and how many differences: one line a kind, over all databases.

    Args:
        objects: of the proof.
    """
    sums: dict[str, list[int]] = {}
    for kind in objects:
        line = sums.setdefault(kind["kind"], [0, 0, 0])
        for number, name in enumerate(("source", "restored", "different")):
            line[number] += kind[name]
    return [(name, f"{a:,}", f"{b:,}", different) for name, (a, b, different) in sums.items()]


def difference_lines(objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Every difference that a proof keeps, in lines.

    Args:
        objects: of the proof.
    """
    for kind in objects:
        for item in kind["differences"]:
            found = Difference(**item)
            yield f"{kind['database']}: {kind['kind']}: {found}"
            yield from (f"    {line}" for line in lines_of(found.diff))
        if (more := kind["different"] - len(kind["differences"])) > 0:
            yield f"{kind['database']}: {kind['kind']}: {more:,} more differences"
