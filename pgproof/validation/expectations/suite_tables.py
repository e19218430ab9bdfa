"""What a generated suite expects of the cluster's own tables: rows, unique keys, and keys that are never null."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pgproof.config import ClusterConfig
from pgproof.errors import UsageError
from pgproof.postgres.connection import connect
from pgproof.validation.expectations.suite import Expected

MOST = 20  # tables of one database that a suite has when none is named: the biggest ones
_TABLES = """
SELECT n.nspname, c.relname,
       array(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
             WHERE k.place <= i.indnkeyatts ORDER BY k.place),
       array(SELECT DISTINCT a.attname::text FROM pg_catalog.pg_constraint f, unnest(f.conkey) k(number)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number AND a.attnotnull
             WHERE f.conrelid = c.oid AND f.contype = 'f' ORDER BY 1)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
  AND c.oid >= 16384
ORDER BY pg_catalog.pg_total_relation_size(c.oid) DESC, 1, 2
"""
_DATABASES = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
_HAS_ROWS = "SELECT EXISTS (SELECT FROM {})"


@dataclass(frozen=True)
class KeyedTable:
    """A table with a primary key.

    Args:
        key: columns of the primary key.
        references: columns of foreign keys that are declared NOT NULL.
        has_rows: whether the source has any now.
    """

    database: str
    schema: str
    name: str
    key: tuple[str, ...]
    references: tuple[str, ...] = ()
    has_rows: bool = False

    @property
    def title(self) -> str:
        return f"{self.schema}.{self.name}"

    def expectations(self) -> Iterator[Expected]:
        """What is expected of it; an empty table may stay empty."""

        def expected(kind: str, **kwargs: Any) -> Expected:
            return Expected(kind, kwargs, self.database, self.title, key=self.key)

        if self.has_rows:
            yield expected("expect_table_row_count_to_be_between", min_value=1)
        if len(self.key) == 1:
            yield expected("expect_column_values_to_be_unique", column=self.key[0])
        else:
            yield expected("expect_compound_columns_to_be_unique", column_list=list(self.key))
        for column in dict.fromkeys((*self.key, *self.references)):
            yield expected("expect_column_values_to_not_be_null", column=column)


def table_expectations(cluster: ClusterConfig, wanted: Sequence[str] = ()) -> list[Expected]:
    """The expectations of a cluster's tables, read from the source's catalogs.

    Args:
        cluster: to connect to.
        wanted: tables as ``database.schema.table``; none takes the biggest ones of each database.

    Raises:
        UsageError: a table that is wanted does not exist, or has no primary key.
        ServerUnreachable, PrivilegeMissing and others: from the connection.
    """
    with connect(cluster) as connection:
        databases = [row[0] for row in connection.execute(_DATABASES).fetchall()]
    tables = [table for database in databases for table in _tables(cluster, database, wanted)]
    known = {f"{table.database}.{table.title}" for table in tables}
    if lost := [name for name in wanted if name not in known]:
        raise UsageError(
            f'table "{lost[0]}" cannot be put into a suite',
            "No table of this name has a primary key.",
            "name it as database.schema.table",
        )
    return [expected for table in tables for expected in table.expectations()]


def _tables(cluster: ClusterConfig, database: str, wanted: Sequence[str]) -> list[KeyedTable]:
    found: list[KeyedTable] = []
    with connect(cluster, database) as connection:
        for schema, name, key, references in connection.execute(_TABLES.encode()).fetchall():
            title = f"{database}.{schema}.{name}"
            if title in wanted if wanted else len(found) < MOST:
                query = sql.SQL(_HAS_ROWS).format(sql.Identifier(schema, name))
                row: Any = connection.execute(query).fetchone()
                found.append(KeyedTable(database, schema, name, tuple(key), tuple(references), bool(row[0])))
    return found
