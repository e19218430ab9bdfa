"""Reading: how fast a drill's fingerprint goes through a table, beside the two queries that others use for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg

from benchmarks.series import Contender, Section, take_turns
from benchmarks.shop import KINDS, Kind, Shop
from pgproof.validation.fences.fingerprint import Table, fingerprint, list_tables, pin_settings

FINGERPRINT, COUNT, MD5 = "pgproof's fingerprint", "count(*)", "md5(string_agg)"
_TEXT = 512 << 20  # bytes that string_agg may gather: a text ends at 1 GB
_LOOKED_AT = 1000  # rows, for how long the text of one is
_TIMEOUT = 900


def reading(shop: Shop, rounds: int) -> list[Section]:
    """One table for each kind of table."""
    with shop.source.connect() as connection:
        pin_settings(connection, _TIMEOUT)  # for all three, and without parallel workers
        connection.execute("SET work_mem = '256MB'")  # md5(string_agg) may sort
        tables = list_tables(connection)
        return [_section(connection, kind, _of(kind, tables), rounds) for kind in KINDS]


def _of(kind: Kind, tables: Sequence[Table]) -> list[Table]:
    """The table itself, or its partitions: a parent holds nothing."""
    return [table for table in tables if table.name == kind.name or table.name.startswith(f"{kind.name}_")]


def _section(connection: psycopg.Connection[Any], kind: Kind, tables: list[Table], rounds: int) -> Section:
    rows = _seen(connection, f"SELECT count(*) FROM public.{kind.name}")  # and the page cache is warm
    oids = [table.oid for table in tables]
    size = _seen(connection, "SELECT sum(pg_table_size(oid))::bigint FROM unnest(%s::oid[]) oid", oids)
    chunk = rows_of_one_text(connection, kind)

    def speed(read: Callable[[], object], _: int) -> float:
        began = time.perf_counter()
        read()
        return float(rows / (time.perf_counter() - began))

    contenders = [
        Contender(name, partial(speed, read))
        for name, read in (
            (FINGERPRINT, lambda: [fingerprint(connection, table) for table in tables]),
            (COUNT, lambda: connection.execute(f"SELECT count(*) FROM public.{kind.name}".encode())),
            (MD5, lambda: md5_of(connection, kind, rows, chunk)),
        )
    ]
    notes = [f"{rows:,} rows in {size / 1e6:,.0f} MB."]
    if chunk < rows:
        notes.append(f"{MD5} in chunks of {chunk:,} rows, as a text ends at 1 GB.")
    return Section(
        f"Reading a table, {kind.title}",
        "rows per second",
        True,
        COUNT,
        take_turns(kind.name, contenders, rounds),
        tuple(notes),
        further=(MD5,),
        also=("MB/s", size / rows / 1e6),
    )


def rows_of_one_text(connection: psycopg.Connection[Any], kind: Kind) -> int:
    """How many rows string_agg can gather in one text, from the text of the first ones."""
    query = f"SELECT avg(octet_length(t::text)) FROM (SELECT * FROM public.{kind.name} LIMIT {_LOOKED_AT}) t"
    return max(1, int(_TEXT / _seen(connection, query)))


def md5_of(connection: psycopg.Connection[Any], kind: Kind, rows: int, chunk: int) -> list[str]:
    """The MD5 of all rows in the order of their key, a chunk at a time."""
    query = f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM public.{kind.name} t WHERE id > %s AND id <= %s"
    if chunk >= rows:
        return [_seen(connection, query.partition(" WHERE")[0])]
    return [_seen(connection, query, start, start + chunk) for start in range(0, rows, chunk)]


def _seen(connection: psycopg.Connection[Any], query: str, *parameters: object) -> Any:
    row: Any = connection.execute(query.encode(), parameters or None).fetchone()
    return row[0]
