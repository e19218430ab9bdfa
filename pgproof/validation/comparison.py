"""A comparison sets what the restored cluster holds beside what the source held at the fence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pgproof.validation.catalogs.object_comparison import ObjectComparison
from pgproof.validation.checks.check import CheckResult
from pgproof.validation.fences.fence import DatabaseFence, NotChecked, TableContent
from pgproof.validation.fences.fingerprint import Fingerprint
from pgproof.validation.targets.attempt import Targets
from pgproof.wording import counted

MOST_SHOWN = 100  # tables, and things that were not checked, on a page for a person
MISSING = -1  # rows of a table that is not there: never equal to a count, and an integer for pandas


@dataclass(frozen=True, slots=True)
class TableComparison:
    """One table on both sides; rows are MISSING and the hash is empty where it does not exist.

    Args:
        note: what is different besides, such as columns, or why the copy cannot be read; empty when nothing is.
    """

    database: str
    table: str
    source_rows: int
    restored_rows: int
    source_hash: str
    restored_hash: str
    sampled: bool = False
    note: str = ""

    @property
    def equal(self) -> bool:
        same = (self.source_rows, self.source_hash) == (self.restored_rows, self.restored_hash)
        return same and self.source_rows != MISSING and not self.note

    def difference(self) -> str:
        """What is different, in words; empty when equal."""
        if self.equal:
            return ""
        if self.restored_rows == MISSING:
            what = self.note or "missing from the restored cluster"
            return what + (f"; the source has {self.source_rows} rows" if self.source_rows != MISSING else "")
        if self.source_rows == MISSING:
            return f"not in the source; the restored cluster has {self.restored_rows} rows"
        parts = [self.note] if self.note else []
        if self.source_rows != self.restored_rows:
            parts.append(f"source has {self.source_rows} rows, restored has {self.restored_rows}")
        elif self.source_hash != self.restored_hash:
            parts.append(
                f"{self.source_rows} rows each, but hash {self.source_hash} became {self.restored_hash}"
            )
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tables of all databases, compared; and those that could not be, through no fault of the backup.

    Args:
        checks: what was looked at besides.
        objects: everything else of a database, one a kind.
        targets: the recovery targets that the copy was recovered to before.
    """

    tables: tuple[TableComparison, ...]
    not_checked: tuple[NotChecked, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    objects: tuple[ObjectComparison, ...] = ()
    targets: Targets = field(default_factory=Targets)

    @classmethod
    def joined(
        cls,
        parts: Iterable[Comparison],
        checks: Iterable[CheckResult] = (),
        targets: Targets | None = None,
    ) -> Comparison:
        """The comparisons of several databases as one, with what was checked besides."""
        parts = tuple(parts)
        return cls(
            tuple(row for part in parts for row in part.tables),
            tuple(item for part in parts for item in part.not_checked),
            tuple(checks),
            tuple(kind for part in parts for kind in part.objects),
            targets or Targets(),
        )

    @property
    def equal(self) -> bool:
        """Whether all that was compared is equal; whether that was enough, ``coverage`` says."""
        return not self.different and all(kind.equal for kind in self.objects)

    @property
    def rows(self) -> int:
        return sum(table.source_rows for table in self.tables if table.source_rows != MISSING)

    @property
    def different(self) -> tuple[TableComparison, ...]:
        return tuple(table for table in self.tables if not table.equal)

    def finding(self) -> str:
        """The first finding of a check, with its name and place; empty when there is none."""
        found = [(check, finding) for check in self.checks for finding in check.findings]
        more = f" (and {len(found) - 1} more findings)" if len(found) > 1 else ""
        return f"{found[0][0].name} of {found[0][0].database}: {found[0][1]}{more}" if found else ""

    def summary(self) -> str:
        """One line."""
        if not self.tables and not self.objects:
            return "nothing was compared"
        if self.equal:
            others = sum(kind.source for kind in self.objects)
            if not self.tables:
                return f"no tables, and {others:,} rows of system catalogs are equal"
            also = f", and {others:,} rows of system catalogs" if others else ""
            return f"{counted(len(self.tables), 'table')} with {self.rows:,} rows are equal{also}"
        if not self.different:
            return self._first_object()
        first = self.different[0]
        more = f" (and {len(self.different) - 1} more tables)" if len(self.different) > 1 else ""
        return f"{first.database}: {first.table}: {first.difference()}{more}"

    def _first_object(self) -> str:
        found = [kind for kind in self.objects if not kind.equal]
        count = sum(kind.different for kind in found) - 1
        more = f" (and {count} more differences)" if count else ""
        return f"{found[0].database}: {found[0].kind}: {found[0].differences[0]}{more}"

    def as_records(self) -> list[dict[str, Any]]:
        """Rows for a data frame or JSON, with the verdict of each."""
        return [{**asdict(table), "equal": table.equal} for table in self.tables]


def compare_database(
    source: DatabaseFence, restored: Iterable[TableContent], faults: Mapping[str, str] | None = None
) -> list[TableComparison]:
    """Compare one database: every table of either side is a row.

    Args:
        source: what the fence holds.
        restored: what the restored database holds.
        faults: title of a table that is there and cannot be read, to the reason.
    """
    faults = faults or {}
    theirs = {(content.schema, content.name): content for content in restored}
    ours = {(content.schema, content.name): content for content in source.tables}
    nothing = Fingerprint(MISSING, "")
    rows = []
    for key in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(key), theirs.get(key)
        title = (left or theirs[key]).title
        a = left.fingerprint if left else nothing
        b = right.fingerprint if right and title not in faults else nothing
        note = f"cannot be read in the restored cluster: {faults[title]}" if title in faults else ""
        if left and right and left.columns != right.columns:
            note = f"columns {', '.join(left.columns)} became {', '.join(right.columns)}"
        rows.append(
            TableComparison(
                source.database, title, a.rows, b.rows, a.hash, b.hash, a.sampled or b.sampled, note
            )
        )
    return rows


def most_telling(tables: Sequence[Mapping[str, Any]], most: int) -> tuple[list[Mapping[str, Any]], int]:
    """The tables for a page that a person reads, and how many are left out: the different ones, then the biggest.

    Args:
        tables: records of a proof.
        most: that are shown; all that there are keep their order.
    """
    if len(tables) <= most:
        return list(tables), 0
    ranked = sorted(tables, key=lambda table: (bool(table["equal"]), -int(table["source_rows"])))
    return ranked[:most], len(tables) - most
