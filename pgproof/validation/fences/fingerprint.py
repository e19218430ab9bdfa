"""A fingerprint is a table's row count and an order-independent hash of its content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgproof.postgres.connection import set_all
from pgproof.postgres.versions import TRANSACTION_TIMEOUT

# Every setting that changes how a value prints; both sides are read under the same
SETTINGS = {
    "client_encoding": "UTF8",  # of names; a database in SQL_ASCII would give bytes
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
    # a snapshot waits in an idle transaction for the archive, and for the tables of other databases
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}

PIECE = 64 << 20  # bytes of a large object that are read at once
# Whatever decides how a table's rows are read and printed: its file, its names, its columns, and the user-defined
# types below them. What is below FirstNormalObjectId (16384) is PostgreSQL's own and never changes. Columns beyond
# a number are left out, as one that was added later is not read.
_TABLES = """
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.oid::bigint,
       hashtextextended(ROW(n.nspname, c.relname, c.relkind, c.relfilenode, columns.definition,
                            types.labels, types.attributes)::text COLLATE "C", 0)::text,
       c.relnatts, columns.names, columns.forms, columns.senders
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS names,
              coalesce(array_agg(CASE WHEN t.oid >= 16384 THEN 'value'
                                      WHEN t.typname ~ '^reg' THEN 'oid'
                                      WHEN t.typname ~ '^_reg' THEN 'oid[]'
                                      WHEN t.typname IN ('text', 'varchar') THEN 'text'
                                      WHEN t.typname = 'bytea' THEN 'bytea'
                                      WHEN t.typname IN ('json', 'jsonb', 'xml') THEN 'document'
                                      ELSE 'value' END ORDER BY a.attnum), '{}') AS forms,
              coalesce(array_agg(CASE WHEN g.lanname IN ('c', 'internal') THEN format('%%I.%%I', f_n.nspname, f.proname)
                                      ELSE '' END ORDER BY a.attnum), '{}') AS senders,
              array_agg(ROW(a.attnum, a.attname, a.atttypid, d.adbin::text) ORDER BY a.attnum)::text AS definition
         FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_type s ON s.oid = a.atttypid
         JOIN pg_catalog.pg_type t ON t.oid = CASE s.typbasetype WHEN 0 THEN s.oid ELSE s.typbasetype END
         LEFT JOIN pg_catalog.pg_proc f ON f.oid = s.typsend
         LEFT JOIN pg_catalog.pg_namespace f_n ON f_n.oid = f.pronamespace
         LEFT JOIN pg_catalog.pg_language g ON g.oid = f.prolang
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                                          AND a.attgenerated = 'v'
        WHERE a.attrelid = c.oid AND a.attnum BETWEEN 1 AND %(width)s AND NOT a.attisdropped) columns
 CROSS JOIN LATERAL (
       WITH RECURSIVE used(oid) AS (
              SELECT a.atttypid FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = c.oid AND a.attnum BETWEEN 1 AND %(width)s AND NOT a.attisdropped
                 AND a.atttypid >= 16384
               UNION
              SELECT part.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid
               CROSS JOIN LATERAL (
                     SELECT t.typelem UNION ALL SELECT t.typbasetype UNION ALL
                     SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                     UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                                WHERE a.attrelid = t.typrelid AND a.attnum > 0) part(oid)
               WHERE part.oid >= 16384)
       SELECT (SELECT array_agg(ROW(e.oid, e.enumlabel) ORDER BY e.oid)::text
                 FROM pg_catalog.pg_enum e JOIN used ON used.oid = e.enumtypid) AS labels,
              (SELECT array_agg(ROW(t.oid, a.attnum, a.atttypid) ORDER BY t.oid, a.attnum)::text
                 FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0) AS attributes) types
"""
# The first piece, and where that is full the hashes of all further ones (lo_get reads 1 GB at most). OFFSET 0: a piece
# is read once, and kept no longer than its hash takes
_LARGE_OBJECTS = f"""
SELECT count(*), coalesce(sum(hashtextextended(concat(o.oid, ':', encode(sha256(o.head), 'hex'),
                     CASE WHEN octet_length(o.head) = {PIECE} THEN (
                          WITH RECURSIVE piece(number, hash, size) AS (
                                 SELECT 1, sha256(read.piece), octet_length(read.piece)
                                   FROM (SELECT lo_get(o.oid, {PIECE}, {PIECE}) AS piece OFFSET 0) AS read
                                  UNION ALL
                                 SELECT number + 1, sha256(read.piece), octet_length(read.piece)
                                   FROM piece CROSS JOIN LATERAL (
                                        SELECT lo_get(o.oid, (number + 1) * {PIECE}::bigint, {PIECE}) AS piece
                                        OFFSET 0) AS read
                                  WHERE size = {PIECE})
                          SELECT string_agg(encode(hash, 'hex'), '' ORDER BY number) FROM piece) END) COLLATE "C",
                  0)::numeric), 0)::text
  FROM (SELECT oid, lo_get(oid, 0, {PIECE}) AS head FROM pg_catalog.pg_largeobject_metadata OFFSET 0) AS o"""
_WIDEST = 32767  # an attribute number has 16 bits
# How the text of a row has a column. record_out looks at every byte and doubles some, and a text ends at 1 GB: so a
# long value is there as its hash, which is several times as fast, and whatever a column can hold can be read. Some
# types are there as the numbers that they mean, as their text depends on the names of other objects.
_LONG = 100  # bytes; the length is known without reading a TOASTed value (octet_length, toast_raw_datum_size)
_FORMS = {
    "value": "{column}",
    "oid": "{column}::oid",
    "oid[]": "{column}::oid[]",
    "text": f"CASE WHEN octet_length({{column}}) > {_LONG} "
    'THEN hashtextextended({column} COLLATE "C", 0)::text ELSE {column}::text END',
    "bytea": f"CASE WHEN octet_length({{column}}) > {_LONG} THEN sha256({{column}}) ELSE {{column}}::bytea END",
    "document": 'hashtextextended({column}::text COLLATE "C", 0)',
}
# Where the text of a value or of a row would be longer than 1 GB: each value by itself, as it is sent in binary form,
# which is about as long as it is stored
_PIECE = "sha256({sender}({column}))"
_UNSENT = 'hashtextextended({column}::text COLLATE "C", 0)'  # of a type that has no binary form
# PostgreSQL's own are told by their OIDs: a superuser may make a table in its schemas or move one there, and
# extensions keep data there. Only a server in single-user mode gives a user's table an OID below 16384.
_USERS_TABLES = """
 WHERE c.relkind IN ('r', 'm', 'f') AND c.relpersistence <> 't'
   AND (c.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema'))
 ORDER BY 1, 2"""


def table_title(schema: str, name: str) -> str:
    """A table's name for people; a part that has a dot is quoted, so that two tables never share a title."""
    parts = ('"' + part.replace('"', '""') + '"' if "." in part else part for part in (schema, name))
    return ".".join(parts)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as its database's catalog shows it; leaf partitions are tables, their parents hold nothing.

    Args:
        definition: hash of everything in the catalog that decides how its rows are read and printed.
        width: the number of its last column.
        columns: in their order, without dropped ones.
        forms: of each column, how the text of a row has it.
        senders: of each column, the function that gives its binary form; empty where its type has none.
    """

    schema: str
    name: str
    kind: str
    persistence: str
    oid: int
    definition: str
    width: int
    columns: tuple[str, ...]
    forms: tuple[str, ...]
    senders: tuple[str, ...]

    @property
    def title(self) -> str:
        return table_title(self.schema, self.name)


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
    settings = SETTINGS | {"statement_timeout": f"{statement_timeout}s"}
    if connection.info.server_version // 10000 >= TRANSACTION_TIMEOUT:
        settings["transaction_timeout"] = "0"
    set_all(connection, settings)


def list_tables(connection: psycopg.Connection) -> list[Table]:
    """Every table, materialized view and foreign table that is not PostgreSQL's own; locks none of them."""
    rows = connection.execute(f"{_TABLES}{_USERS_TABLES}".encode(), {"width": _WIDEST}).fetchall()
    return [Table(*row[:7], *(tuple(of_each) for of_each in row[7:])) for row in rows]


def fingerprint_query(table: Table, sample: float | None, *, pieces: bool = False) -> sql.Composed:
    """The query that fingerprints a table.

    The row's text has the columns by name, so that a column added meanwhile does not count.

    Args:
        table: to read.
        sample: per cent of its blocks, chosen by hash of the block number, so the same on both sides;
            None reads all.
        pieces: read each value by itself: no text of a value or a row is made that could be too long.
    """
    columns = sql.SQL(", ").join(
        sql.SQL(_piece(form, sender) if pieces else _FORMS[form]).format(
            column=sql.Identifier("t", column), sender=sql.SQL(sender)
        )
        for column, form, sender in zip(table.columns, table.forms, table.senders, strict=True)
    )
    source = sql.SQL("ONLY {} t").format(sql.Identifier(table.schema, table.name))
    if table.kind == "m":
        source = sql.SQL("{} t").format(sql.Identifier(table.schema, table.name))
    if sample is not None:
        source += sql.SQL(" TABLESAMPLE SYSTEM ({}) REPEATABLE (7)").format(sql.Literal(sample))
    return sql.SQL(
        'SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text COLLATE "C", 0)::numeric), 0)::text '
        "FROM {source}"
    ).format(columns=columns, source=source)


def _piece(form: str, sender: str) -> str:
    if form != "value":
        return _FORMS[form]
    return _PIECE if sender else _UNSENT


def fingerprint(
    connection: psycopg.Connection, table: Table, sample: float | None = None, *, pieces: bool = False
) -> Fingerprint:
    """Count and hash a table under the connection's snapshot."""
    row: Any = connection.execute(fingerprint_query(table, sample, pieces=pieces)).fetchone()
    return Fingerprint(row[0], row[1], sample is not None)


def current_definition(connection: psycopg.Connection, table: Table) -> str | None:
    """The definition a table has now; another one means that it was altered, rewritten, renamed or dropped.

    Args:
        connection: outside a transaction, so that the newest catalog is seen.
        table: on which another connection holds a lock by having read it.
    """
    wanted = {"width": table.width, "oid": table.oid}
    row: Any = connection.execute(f"{_TABLES} WHERE c.oid = %(oid)s::oid".encode(), wanted).fetchone()
    return None if row is None else row[5]


def table_size(connection: psycopg.Connection, table: Table) -> int:
    """The bytes a table takes; 0 when it is gone."""
    row: Any = connection.execute("SELECT pg_catalog.pg_table_size(%s::oid)", (table.oid,)).fetchone()
    return row[0] or 0


def fingerprint_large_objects(connection: psycopg.Connection) -> Fingerprint:
    """Count and hash every large object of a database, each in pieces, as it may have up to 4 TB.

    Needs ``lo_compat_privileges``, or ownership of each; raises psycopg's InsufficientPrivilege otherwise.
    """
    row: Any = connection.execute(_LARGE_OBJECTS.encode()).fetchone()
    return Fingerprint(row[0], row[1])


def read_large_objects_freely(connection: psycopg.Connection) -> None:
    """Let this session read every large object, where the role may set that; no fault where it may not."""
    row: Any = connection.execute(
        "SELECT has_parameter_privilege(current_user, 'lo_compat_privileges', 'set')"
    ).fetchone()
    if row[0]:
        connection.execute("SET lo_compat_privileges = on")
