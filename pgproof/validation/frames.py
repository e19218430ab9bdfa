"""A frame is one part of a drill's result as a pandas data frame; it is stored as Parquet beside the proof.

Every frame has its columns and types whether or not it has rows, so that the frames of many drills can be put one
below the other. pandas and pyarrow are on a worker, not on a database host: both are imported inside the functions.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from pgproof.postgres.names import shown

TABLES = {
    "database": "str",
    "table": "str",
    "source_rows": "int64",  # -1 is missing: no null, which would make a float of every count
    "restored_rows": "int64",
    "source_hash": "str",  # decimal numbers that fit into no integer
    "restored_hash": "str",
    "sampled": "bool",
    "note": "str",
    "equal": "bool",
}
OBJECTS = {
    "database": "str",
    "kind": "str",
    "source": "int64",
    "restored": "int64",
    "different": "int64",
    "equal": "bool",
}
DIFFERENCES = {
    "database": "str",
    "kind": "str",
    "identity": "str",
    "what": "str",
    "source": "str",
    "restored": "str",
    "diff": "str",
}
CHECKS = {
    "name": "str",
    "database": "str",
    "result": "str",
    "checked": "int64",
    "seconds": "float64",
    "findings": "str",
}
CUTS = {"database": "str", "lsn": "str"}
TARGETS = {
    "kind": "str",
    "value": "str",
    "inclusive": "bool",
    "timeline": "int64",
    "place": "str",
    "last_expected": "str",  # LSNs, as PostgreSQL prints them; empty where none was found
    "last_found": "str",
    "next_expected": "str",
    "next_found": "str",
    "canaries": "int64",
    "result": "str",
    "finding": "str",
    "seconds": "float64",
}
COLUMNS = {
    "tables": TABLES,
    "objects": OBJECTS,
    "differences": DIFFERENCES,
    "checks": CHECKS,
    "cuts": CUTS,
    "targets": TARGETS,
}


def available() -> bool:
    """Whether pandas and pyarrow are installed here; a database host has the engine alone."""
    from importlib.util import find_spec

    return find_spec("pandas") is not None and find_spec("pyarrow") is not None


def frames_of(
    tables: Iterable[Mapping[str, Any]],
    objects: Iterable[Mapping[str, Any]],
    checks: Iterable[Mapping[str, Any]],
    cuts: Mapping[str, str],
    targets: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The frames of a result, by name.

    Args:
        tables, objects, checks, targets: records as the proof has them.
        cuts: database to the LSN that it was compared at.

    Returns:
        ``tables``, ``objects``, ``differences`` (one row for each difference that the proof names), ``checks``,
        ``cuts``, and ``targets`` (the recovery targets that were tried).
    """
    objects = list(objects)
    return {
        "tables": frame(TABLES, tables),
        "objects": frame(OBJECTS, objects),
        "differences": frame(
            DIFFERENCES,
            (
                {**found, "database": kind["database"], "kind": kind["kind"]}
                for kind in objects
                for found in kind["differences"]
            ),
        ),
        "checks": frame(CHECKS, map(_check, checks)),
        "cuts": frame(CUTS, ({"database": database, "lsn": lsn} for database, lsn in cuts.items())),
        "targets": frame(TARGETS, map(_target, targets)),
    }


def to_parquet(frame: Any) -> bytes:
    """A frame as the bytes of a Parquet file: compressed with zstd, and with no index column."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, engine="pyarrow", compression="zstd", index=False)
    return buffer.getvalue()


def frame(columns: Mapping[str, str], records: Iterable[Mapping[str, Any]]) -> Any:
    """Records as a frame that has these columns and types, whether or not there are any."""
    import pandas

    lines = list(records)
    return pandas.DataFrame(
        {
            name: pandas.Series([_cell(line[name]) for line in lines], dtype=kind)
            for name, kind in columns.items()
        }
    )


def _cell(value: Any) -> Any:
    """A value as Parquet can hold it: text there is UTF-8, and a name may have other bytes."""
    return shown(value) if isinstance(value, str) else value


def _check(record: Mapping[str, Any]) -> dict[str, Any]:
    results = {None: "not possible", True: "ok", False: "found"}
    return {**record, "result": results[record["ok"]], "findings": "\n".join(record["findings"])}


def _target(record: Mapping[str, Any]) -> dict[str, Any]:
    results = {None: "not tried", True: "ok", False: "missed"}
    commits = ("last_expected", "last_found", "next_expected", "next_found")
    places = {name: record[name]["lsn"] if record[name] else "" for name in commits}
    return {**record, **places, "result": results[record["ok"]]}
