"""A fingerprint changes with every change of content, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgproof.validation.fences.fingerprint import (
    PIECE,
    Fingerprint,
    current_definition,
    fingerprint,
    fingerprint_large_objects,
    list_tables,
    pin_settings,
    table_size,
    table_title,
)
from tests.servers.postgres import Source

Connection = psycopg.Connection[Any]

TABLE = """
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TYPE pair AS (x int, y colour);
CREATE TABLE w (id int, a text, b text, n numeric, f float8, t timestamptz, c colour, p pair, z bytea);
INSERT INTO w SELECT g, 'a' || g, 'b' || g, g / 3.0, g / 3.0, '2026-01-01 00:00+00'::timestamptz + g * interval '1 s',
                     'red', ROW(g, 'green')::pair, sha256(g::text::bytea) FROM generate_series(1, 50) g;
INSERT INTO w SELECT * FROM w WHERE id = 7;
"""


@pytest.fixture
def connection(shared: Source) -> Iterator[Connection]:
    """A transaction that is undone."""
    with shared.connect() as made:
        pin_settings(made, 60)
        made.execute("BEGIN")
        made.execute("SET LOCAL search_path = public")
        made.execute(TABLE)
        yield made
        made.execute("ROLLBACK")


def of(connection: Connection, name: str = "w", *, pieces: bool = False) -> Fingerprint:
    (table,) = [table for table in list_tables(connection) if table.title == f"public.{name}"]
    return fingerprint(connection, table, pieces=pieces)


CHANGES = [
    "UPDATE w SET a = 'x' WHERE id = 1",
    "UPDATE w SET a = a || ' ' WHERE id = 1",
    "UPDATE w SET a = NULL WHERE id = 1",
    "UPDATE w SET n = n + 1e-12 WHERE id = 1",
    "UPDATE w SET n = round(n, 5) WHERE id = 3",  # 1.0000000000000000 and 1.00000
    "UPDATE w SET f = f + 1e-15 WHERE id = 1",
    "UPDATE w SET f = '-0' WHERE id = 1",
    "UPDATE w SET t = t + interval '1 microsecond' WHERE id = 1",
    "UPDATE w SET c = 'green' WHERE id = 1",
    "UPDATE w SET p.y = NULL WHERE id = 1",
    "UPDATE w SET z = set_bit(z, 255, 1 - get_bit(z, 255)) WHERE id = 1",
    "DELETE FROM w WHERE id = 1",
    "DELETE FROM w WHERE ctid = (SELECT min(ctid) FROM w WHERE id = 7)",  # one of two that are alike
    "INSERT INTO w SELECT * FROM w WHERE id = 7",
    "INSERT INTO w SELECT * FROM w",
    "INSERT INTO w DEFAULT VALUES",
    "UPDATE w SET a = b, b = a WHERE id = 1",
    "UPDATE w SET a = o.a FROM w o WHERE (w.id, o.id) IN ((1, 2), (2, 1))",  # a swap between two rows
    "UPDATE w SET a = o.a, b = o.b FROM w o WHERE (w.id, o.id) IN ((1, 2), (2, 1))",
    "UPDATE w SET a = 'a2' WHERE id = 1; UPDATE w SET a = 'a1' WHERE id = 2",
    "UPDATE w SET a = b, b = NULL WHERE id = 1",
    "TRUNCATE w",
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_with_content(connection: Connection, change: str) -> None:
    """As one text of each row, and each value by itself."""
    before = of(connection), of(connection, pieces=True)
    connection.execute(change)  # type: ignore[call-overload]
    assert of(connection) != before[0]
    assert of(connection, pieces=True) != before[1]


@pytest.mark.parametrize(
    "same",
    [
        "UPDATE w SET a = a",  # all rows in another place
        "CREATE TABLE o AS SELECT * FROM w ORDER BY a DESC; TRUNCATE w; INSERT INTO w SELECT * FROM o",
        "CREATE INDEX ON w (a); CLUSTER w USING w_a_idx",
        "ALTER TABLE w ALTER a TYPE varchar",
        "ALTER TABLE w ADD CHECK (id > 0)",
        "ANALYZE w",
    ],
)
def test_is_the_same_for_the_same_rows(connection: Connection, same: str) -> None:
    before = of(connection)
    connection.execute(same)  # type: ignore[call-overload]
    assert of(connection) == before


LONG = """
CREATE DOMAIN note AS text;
CREATE TABLE l (id int, a text, b varchar, c note, z bytea, j json, k jsonb);
INSERT INTO l SELECT g, s, s || '1', s || '2', s::bytea, to_json(s), jsonb_build_object('x', s)
  FROM generate_series(1, 20) g CROSS JOIN LATERAL (SELECT repeat(md5(g::text), 200) AS s) long;
INSERT INTO l VALUES (100);
INSERT INTO l VALUES (101, '', '', '', '', '""', '""');
"""
LONG_CHANGES = [
    *(f"UPDATE l SET {column} = {column} || ' ' WHERE id = 1" for column in "abc"),
    "UPDATE l SET a = overlay(a PLACING '~' FROM 6000) WHERE id = 1",
    "UPDATE l SET z = set_bit(z, 40000, 1 - get_bit(z, 40000)) WHERE id = 1",
    "UPDATE l SET z = z || '\\x00' WHERE id = 1",
    "UPDATE l SET z = NULL WHERE id = 101",
    "UPDATE l SET j = (j::text || ' ')::json WHERE id = 1",
    "UPDATE l SET j = NULL WHERE id = 101",
    "UPDATE l SET k = k || jsonb_build_object('y', 1.0) WHERE id = 1",
    "UPDATE l SET k = NULL WHERE id = 101",
    "UPDATE l SET a = c, c = a WHERE id = 1",
    "UPDATE l SET a = b, b = a WHERE id = 1",
    "UPDATE l SET a = NULL WHERE id = 1",
    "UPDATE l SET a = left(a, 100) WHERE id = 1",
    "UPDATE l SET a = left(a, 101) WHERE id = 1",
    "UPDATE l SET a = o.a FROM l o WHERE (l.id, o.id) IN ((1, 2), (2, 1))",
]


@pytest.mark.parametrize("change", LONG_CHANGES)
def test_changes_with_long_content(connection: Connection, change: str) -> None:
    connection.execute(LONG)  # type: ignore[call-overload]
    before = of(connection, "l")
    changed = connection.execute(change)  # type: ignore[call-overload]
    assert changed.rowcount > 0
    assert of(connection, "l") != before


def test_is_the_same_however_a_long_value_is_kept(connection: Connection) -> None:
    connection.execute(LONG)  # type: ignore[call-overload]
    before = of(connection, "l")
    connection.execute("ALTER TABLE l ALTER a SET STORAGE external, ALTER z SET STORAGE plain")
    connection.execute("UPDATE l SET a = left(a, -1) || right(a, 1), z = substr(z, 1) || '\\x'")
    assert of(connection, "l") == before


def test_values_too_large_for_one_text_are_read(connection: Connection) -> None:
    """A row's text doubles quotes: two values of 270 MB would be over 1 GB, which no text can have."""
    connection.execute("CREATE TABLE large (a text, b text)")
    connection.execute("INSERT INTO large SELECT v, v FROM repeat('\"', 270000000) v")
    assert of(connection, "large").rows == 1


ROWS_ALIKE = ["(NULL)", "('')", "(' ')", "('\"')", "('NULL')", "('()')", "(',')", "('\\')"]


def test_null_empty_and_quotes_are_all_different(connection: Connection) -> None:
    found = []
    for number, row in enumerate(ROWS_ALIKE):
        connection.execute(f"CREATE TABLE n{number} (a text); INSERT INTO n{number} VALUES {row}".encode())
        found.append(of(connection, f"n{number}").hash)
    connection.execute("CREATE TABLE two (a text, b text); INSERT INTO two VALUES (NULL, '')")
    connection.execute("CREATE TABLE other (a text, b text); INSERT INTO other VALUES ('', NULL)")
    connection.execute("CREATE TABLE comma (a text, b text); INSERT INTO comma VALUES ('a', 'b,c')")
    connection.execute("CREATE TABLE moved (a text, b text); INSERT INTO moved VALUES ('a,b', 'c')")
    found += [of(connection, name).hash for name in ("two", "other", "comma", "moved")]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TYPE colour RENAME VALUE 'green' TO 'blue'",
        "ALTER TYPE pair ADD ATTRIBUTE z int",
        "ALTER TABLE w RENAME a TO aa",
        "ALTER TABLE w RENAME TO ww",
        "CREATE SCHEMA elsewhere; ALTER TABLE w SET SCHEMA elsewhere",
        "ALTER SCHEMA public RENAME TO private",
        "ALTER TABLE w DROP COLUMN a",
        "SET LOCAL TimeZone = 'UTC'; ALTER TABLE w ALTER t TYPE timestamp",  # without a rewrite, printed otherwise
        "ALTER TABLE w ALTER a TYPE int USING 1",
        "ALTER TABLE w ADD COLUMN d float8 DEFAULT random()",
        "ALTER TABLE w SET UNLOGGED",
        "REINDEX TABLE w; CREATE INDEX ON w (a); CLUSTER w USING w_a_idx",
        "DROP TABLE w",
        "DROP TABLE w; CREATE TABLE w (a int)",
    ],
)
def test_a_definition_changes_with_what_decides_how_rows_are_read(
    connection: Connection, change: str
) -> None:
    (table,) = [table for table in list_tables(connection) if table.name == "w"]
    assert current_definition(connection, table) == table.definition
    connection.execute(change)  # type: ignore[call-overload]
    assert current_definition(connection, table) != table.definition


@pytest.mark.parametrize(
    "harmless",
    [
        "ALTER TABLE w ADD COLUMN d int DEFAULT 7",
        "ALTER TABLE w ADD COLUMN d colour",
        "ALTER TABLE w ADD COLUMN d int; ALTER TABLE w DROP COLUMN d",
        "ALTER TABLE w ALTER a SET NOT NULL",
        "CREATE INDEX ON w (a)",
        "INSERT INTO w SELECT * FROM w; ANALYZE w",
        "CREATE TYPE colours AS ENUM ('x')",
        "COMMENT ON TABLE w IS 'x'",
        "CREATE VIEW v AS SELECT * FROM w",
    ],
)
def test_a_definition_stays_with_what_does_not(connection: Connection, harmless: str) -> None:
    (table,) = [table for table in list_tables(connection) if table.name == "w"]
    before = fingerprint(connection, table)
    connection.execute(harmless)  # type: ignore[call-overload]
    assert current_definition(connection, table) == table.definition
    if "INSERT" not in harmless:
        assert fingerprint(connection, table) == before


def test_names_of_other_objects_are_read_as_their_oid(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE refs (a regclass, b regclass[]); INSERT INTO refs VALUES ('w', ARRAY['w', 'refs']::regclass[])"
    )
    before = of(connection, "refs")
    connection.execute("ALTER TABLE w RENAME TO renamed")
    assert of(connection, "refs") == before
    connection.execute("UPDATE refs SET a = 'refs'")
    assert of(connection, "refs") != before


def test_listing_and_definition_wait_for_no_lock(shared: Source, connection: Connection) -> None:
    shared.sql("CREATE TABLE IF NOT EXISTS kept (a int)")
    with shared.connect() as other:
        other.execute("SET lock_timeout = '1ms'")
        connection.execute("LOCK TABLE kept IN ACCESS EXCLUSIVE MODE")
        (table,) = [table for table in list_tables(other) if table.name == "kept"]
        assert current_definition(other, table) == table.definition
        with pytest.raises(psycopg.errors.LockNotAvailable):
            table_size(other, table)


def test_size(connection: Connection) -> None:
    (table,) = [table for table in list_tables(connection) if table.name == "w"]
    assert table_size(connection, table) >= 8192
    connection.execute("DROP TABLE w")
    assert table_size(connection, table) == 0


def test_large_objects_change_with_content_and_number(connection: Connection) -> None:
    found = [fingerprint_large_objects(connection)]
    for statement in (
        "SELECT lo_from_bytea(70001, 'x')",
        "SELECT lo_put(70001, 0, 'y')",
        "SELECT lo_put(70001, 1, '\\x00')",
        "SELECT lo_from_bytea(70002, '')",
        "SELECT lo_unlink(70001)",
        "SELECT lo_unlink(70002); SELECT lo_from_bytea(70003, '')",
    ):
        connection.execute(statement.encode())
        found.append(fingerprint_large_objects(connection))
    assert len({item.hash for item in found}) == len(found)
    assert [item.rows - found[0].rows for item in found] == [0, 1, 1, 1, 2, 1, 1]


def test_every_piece_of_a_large_object_counts(connection: Connection) -> None:
    """The last one may be empty; what was never written reads as zeros."""
    connection.execute("SELECT lo_create(70001)")
    found = []
    for at, what in (
        (PIECE - 1, "a"),
        (PIECE, "b"),
        (2 * PIECE - 1, "c"),
        (PIECE + 7, "d"),
        (2 * PIECE + 1, "e"),
    ):
        connection.execute("SELECT lo_put(70001, %s, %s::text::bytea)", (at, what))
        found.append(fingerprint_large_objects(connection).hash)
    assert len(set(found)) == len(found)
    connection.execute("SELECT lo_put(70001, %s, '\\x00')", (PIECE + 7,))
    found.append(fingerprint_large_objects(connection).hash)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("schema", "name", "title"),
    [
        ("public", "t", "public.t"),
        ("a.b", "c", '"a.b".c'),
        ("a", "b.c", 'a."b.c"'),
        ("a", 'b."c', 'a."b.""c"'),
        ("a", 'q"', 'a.q"'),
    ],
)
def test_a_title_names_one_table_only(schema: str, name: str, title: str) -> None:
    assert table_title(schema, name) == title


def test_tables_of_users_are_told_by_their_oids(connection: Connection) -> None:
    """A superuser makes tables in information_schema, and moves others to pg_catalog; extensions keep data there."""
    connection.execute("CREATE TABLE information_schema.mine (a int)")
    connection.execute("ALTER TABLE w SET SCHEMA pg_catalog")
    connection.execute("CREATE TEMP TABLE passing (a int)")
    titles = {table.title for table in list_tables(connection)}
    elsewhere = {title for title in titles if not title.startswith("public.")}
    assert elsewhere == {"information_schema.mine", "pg_catalog.w"}
