"""A suite is the list of expectations of one cluster: Great Expectations' own JSON, made once, then its user's.

Each expectation says in its ``meta`` which rows it looks at: those of the comparison, those of a table in the restored
database (Great Expectations counts there, in SQL), or those of a query. The file keeps a digest of what was generated,
so that what the user changed is told from what a new generation would change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError, DestinationRefused

TABLES = "tables"  # the parameter that a drill fills in: how many tables the fence counted
_OURS = "pgproof"  # the key in each meta


@dataclass(frozen=True)
class Expected:
    """One expectation, and the rows that it looks at.

    Args:
        type: such as ``expect_column_values_to_not_be_null``.
        kwargs: its arguments.
        database: None for the comparison.
        table: in the database, ``schema.name``.
        query: in the database, instead of a table.
        key: columns that name an unexpected row.
    """

    type: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    database: str | None = None
    table: str | None = None
    query: str | None = None
    key: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where it looks, for people."""
        if self.database is None:
            return "comparison"
        return f"{self.database}.{self.table}" if self.table else f"{self.database}: {self.query}"

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in sorted(self.kwargs.items()))
        return f"{self.place}: {self.type}({arguments})"

    def as_dict(self) -> dict[str, Any]:
        """As Great Expectations keeps it."""
        place = {"database": self.database, "table": self.table, "query": self.query, "key": list(self.key)}
        ours: dict[str, Any] = {"rows": "comparison" if self.database is None else "table"}
        if self.query:
            ours["rows"] = "query"
        ours |= {name: value for name, value in place.items() if value}
        return {
            "type": self.type,
            "kwargs": dict(self.kwargs),
            "meta": {_OURS: ours},
            "severity": "critical",
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Expected:
        """Read one as Great Expectations keeps it; raises KeyError, TypeError or ValueError."""
        ours = (tree.get("meta") or {}).get(_OURS)
        if not isinstance(ours, dict) or ours.get("rows") not in ("comparison", "table", "query"):
            raise ValueError(f'{tree["type"]}: meta.{_OURS}.rows is "comparison", "table" or "query"')
        found = cls(
            str(tree["type"]),
            dict(tree.get("kwargs") or {}),
            ours.get("database"),
            ours.get("table"),
            ours.get("query"),
            tuple(ours.get("key") or ()),
        )
        if ours["rows"] == "comparison":
            return cls(found.type, found.kwargs)
        if not found.database or not ours.get(ours["rows"]):
            raise ValueError(f"{found.type}: meta.{_OURS} names a database and a {ours['rows']}")
        return found


def comparison_expectations() -> tuple[Expected, ...]:
    """What every comparison has to meet: all tables, each once, on both sides, the same."""
    pair = "expect_column_pair_values_to_be_equal"
    between = "expect_column_values_to_be_between"
    return (
        Expected("expect_table_row_count_to_equal", {"value": {"$PARAMETER": TABLES}}),
        Expected("expect_column_values_to_be_unique", {"column": "table"}),
        Expected(between, {"column": "source_rows", "min_value": 0}),
        Expected(between, {"column": "restored_rows", "min_value": 0}),
        Expected(pair, {"column_A": "source_rows", "column_B": "restored_rows"}),
        Expected(pair, {"column_A": "source_hash", "column_B": "restored_hash"}),
        Expected("expect_column_values_to_be_in_set", {"column": "note", "value_set": [""]}),
    )


def configured(cluster: ClusterConfig) -> tuple[Expected, ...]:
    """The expectations of pgproof.toml, as a suite has them."""
    return tuple(Expected(e.type, e.kwargs, e.database, e.table, e.query) for e in cluster.expectations)


def as_suite(name: str, expectations: Iterable[Expected]) -> dict[str, Any]:
    """The content of a suite's file.

    Args:
        name: of the cluster.
        expectations: in their order.
    """
    listed = [expected.as_dict() for expected in expectations]
    return {
        "name": f"{name}-restore",
        "expectations": listed,
        "meta": {_OURS: {"cluster": name, "generated": _digest(listed)}},
        "notes": "Made by pgproof expectations --write. It is yours now: change it, and keep it with pgproof.toml.",
    }


def read_suite(path: Path) -> tuple[Expected, ...] | None:
    """The expectations of a suite's file; None when there is no file.

    Raises:
        ConfigError: it cannot be read, or an expectation does not say which rows it looks at.
    """
    tree = _read(path)
    if tree is None:
        return None
    try:
        return tuple(Expected.from_dict(item) for item in tree["expectations"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'suite "{path}" cannot be used', f"{error}.") from error


def was_changed(path: Path) -> bool:
    """Whether a suite's file holds anything else than what was generated.

    Raises:
        ConfigError: it cannot be read.
    """
    tree = _read(path) or {}
    ours = (tree.get("meta") or {}).get(_OURS) or {}
    return bool(ours.get("generated") != _digest(tree.get("expectations")))


@dataclass(frozen=True)
class Changes:
    """How a suite's file differs from a new generation.

    Args:
        missing: generated, and not in the file.
        own: in the file, and not generated.
    """

    missing: tuple[Expected, ...]
    own: tuple[Expected, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.own)


def changes(file: Iterable[Expected], generated: Iterable[Expected]) -> Changes:
    """Compare a file with a new generation."""
    left, right = {str(e): e for e in file}, {str(e): e for e in generated}
    return Changes(
        tuple(e for text, e in right.items() if text not in left),
        tuple(e for text, e in left.items() if text not in right),
    )


def write_suite(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a suite's file: whole, or not at all.

    Args:
        path: of the file; the caller knows that nothing of the user's is lost.
        tree: from as_suite.

    Raises:
        DestinationRefused: it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise DestinationRefused(f'cannot write suite "{path}"', f"{error.strerror}.") from error


def _digest(expectations: Any) -> str:
    """Of the expectations alone, without the identifiers that Great Expectations adds when it saves a suite."""
    plain = [
        {name: item.get(name) for name in ("type", "kwargs", "meta", "severity")}
        for item in expectations or ()
        if isinstance(item, dict)
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f'cannot read suite "{path}"', f"{error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f'suite "{path}" is not JSON', f"{error}.") from error
    if not isinstance(tree, dict):
        raise ConfigError(f'suite "{path}" cannot be used', "It is no JSON object.")
    return tree
