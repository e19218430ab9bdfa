"""A fingerprint is a table's row count and an order-independent hash of its content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

# Every setting that changes how a value prints; both sides are read under the same
SETTINGS = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "timezone": "UTC",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "row_security": "off",  # an error rather than silently fewer rows
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
    "lock_timeout": "10s",
}

_TABLES = """
SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.oid::bigint,
       c.relfilenode::bigint, pg_table_size(c.oid),
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm', 'f') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_)'
 ORDER BY 1, 2"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as its database's catalog shows it; leaf partitions are tables, their parents hold nothing."""

    schema: str
    name: str
    kind: str
    persistence: str
    oid: int
    filenode: int
    size: int
    columns: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a table holds: rows, and the sum of a 64-bit hash of every row, as decimal text."""

    rows: int
    hash: str
    sampled: bool = False


def pin_settings(connection: psycopg.Connection, statement_timeout: int) -> None:
    """Make values print the same on both sides, for this session.

    Args:
        connection: outside a transaction.
        statement_timeout: seconds.
    """
    for name, value in SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    connection.execute("SELECT set_config('statement_timeout', %s, false)", (f"{statement_timeout}s",))


def list_tables(connection: psycopg.Connection) -> list[Table]:
    """Every table, materialized view and foreign table that is not PostgreSQL's own."""
    rows = connection.execute(_TABLES).fetchall()
    return [Table(*(*row[:7], tuple(row[7]))) for row in rows]


def fingerprint_query(table: Table, sample: float | None) -> sql.Composed:
    """The query that fingerprints a table.

    The row's text has the columns by name, so that a column added meanwhile does not count.

    Args:
        table: to read.
        sample: per cent of its blocks, chosen by hash of the block number, so the same on both sides;
            None reads all.
    """
    columns = sql.SQL(", ").join(sql.Identifier("t", column) for column in table.columns)
    source = sql.SQL("ONLY {} t").format(sql.Identifier(table.schema, table.name))
    if table.kind == "m":
        source = sql.SQL("{} t").format(sql.Identifier(table.schema, table.name))
    if sample is not None:
        source += sql.SQL(" TABLESAMPLE SYSTEM ({}) REPEATABLE (7)").format(sql.Literal(sample))
    return sql.SQL(
        'SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text COLLATE "C", 0)::numeric), 0)::text '
        "FROM {source}"
    ).format(columns=columns, source=source)


def fingerprint(connection: psycopg.Connection, table: Table, sample: float | None = None) -> Fingerprint:
    """Count and hash a table under the connection's snapshot."""
    row: Any = connection.execute(fingerprint_query(table, sample)).fetchone()
    return Fingerprint(row[0], row[1], sample is not None)


def current_filenode(connection: psycopg.Connection, table: Table) -> int | None:
    """The file a table has now, whatever the snapshot: another one means it was rewritten or truncated."""
    row: Any = connection.execute("SELECT pg_relation_filenode(%s::oid)::bigint", (table.oid,)).fetchone()
    return None if row is None else row[0]


def fingerprint_large_objects(connection: psycopg.Connection) -> Fingerprint:
    """Count and hash every large object of a database.

    Needs ``lo_compat_privileges``, or ownership of each; raises psycopg's InsufficientPrivilege otherwise.
    """
    row: Any = connection.execute(
        """SELECT count(*), coalesce(sum(hashtextextended(
                      oid::text || ':' || encode(sha256(lo_get(oid)), 'hex') COLLATE "C", 0)::numeric), 0)::text
             FROM pg_largeobject_metadata"""
    ).fetchone()
    return Fingerprint(row[0], row[1])


def read_large_objects_freely(connection: psycopg.Connection) -> None:
    """Let this session read every large object, where the role may set that; no fault where it may not."""
    row: Any = connection.execute(
        "SELECT has_parameter_privilege(current_user, 'lo_compat_privileges', 'set')"
    ).fetchone()
    if row[0]:
        connection.execute("SET lo_compat_privileges = on")
