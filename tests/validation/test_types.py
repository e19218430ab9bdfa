"""One drill a major version over every kind of type, table and setting: equal, or named with the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgproof.validation.checks.page_checksums import OFF
from pgproof.validation.fences.fence import LARGE_OBJECTS, NEVER_CHECKED, WHOLE_DATABASE, NotChecked
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import Drill, drill, sessions

SCHEMA = (Path(__file__).parent / "types.sql").read_text("utf-8")
ODD_DATABASE = 'O\'Neill \\ 100% "db"'
EXTENSIONS = {
    "hstore": 'b=>"1, 2", a=>NULL',
    "citext": "Mixed Case",
    "ltree": "a.b",
    "cube": "(1, 2), (3, 4)",
}
# what would change how values print, on each side another
SOURCE_SETTINGS = {
    "datestyle": "'German'",
    "intervalstyle": "'iso_8601'",
    "extra_float_digits": "-10",
    "bytea_output": "'escape'",
    "timezone": "'Asia/Kathmandu'",
    "search_path": "'public'",
    "quote_all_identifiers": "on",
    "xmlbinary": "'hex'",
    "row_security": "on",
    "lc_monetary": "'POSIX'",
    "statement_timeout": "'5min'",
    "default_transaction_read_only": "on",
}
COPY_SETTINGS = {
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "'sql_standard'",
    "extra_float_digits": "0",
    "timezone": "'America/Sao_Paulo'",
    "search_path": "'\"a.b\"'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "transform_null_equals": "on",
}


def wide() -> str:
    columns = ", ".join(f"c{number} int DEFAULT {number}" for number in range(1600))
    return f"CREATE TABLE wide ({columns}); INSERT INTO wide (c1) VALUES (NULL), (7);"


@dataclass
class Typed:
    source: Source
    drill: Drill
    extensions: set[str]


def add_extensions(source: Source) -> set[str]:
    """A table for the type of each extension that this build has, and XML where it knows it; their names."""
    available = {name for (name,) in source.sql("SELECT name FROM pg_available_extensions")}
    made = set()
    for name, value in EXTENSIONS.items():
        if name in available:
            source.sql(f"CREATE EXTENSION {name}; CREATE TABLE of_{name} (a {name}, b {name}[])")
            source.sql(f"INSERT INTO of_{name} VALUES ('{value}', ARRAY['{value}', NULL]::{name}[])")
            made.add(f"of_{name}")
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):
        source.sql(
            """INSERT INTO documents VALUES ('<?xml version="1.0"?><a b="ü">&lt;</a>', ARRAY['x'::xml])"""
        )
    return made


@pytest.fixture(scope="module", params=[15, 17, 18], ids=lambda major: f"pg{major}")
def typed(request: pytest.FixtureRequest) -> Iterator[Typed]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        source.write_config(
            'drill.exclude_tables = ["postgres.public.excluded"]\n'
            'drill.sample_above = "512kB"\ndrill.sample_percent = 30\n'
        )
        source.sql(SCHEMA)
        source.sql(wide())
        extensions = add_extensions(source)
        if source.major >= 18:
            source.sql("CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL)")
            source.sql("INSERT INTO computed VALUES (1), (2)")
        source.sql("CREATE DATABASE closed STRATEGY file_copy")  # much less WAL than the default
        source.sql("ALTER DATABASE closed ALLOW_CONNECTIONS false")
        source.sql('CREATE DATABASE "O\'Neill \\ 100% ""db""" STRATEGY file_copy')
        with psycopg.connect(make_conninfo(source.dsn(), dbname=ODD_DATABASE)) as connection:
            connection.execute("CREATE TABLE one AS SELECT 1 AS a")
        source.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0 STRATEGY file_copy")
        with psycopg.connect(source.dsn("latin"), client_encoding="UTF8") as connection:
            connection.execute("CREATE TABLE fünf AS SELECT 'Übergröße' AS ä")
        source.sql(
            "CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0 STRATEGY file_copy"
        )
        source.sql("CREATE TABLE one AS SELECT E'\\377'::text AS a", database="plain")
        with source.connect() as connection:
            for role, values in (("pgproof", SOURCE_SETTINGS), ("postgres", COPY_SETTINGS)):
                for name, value in values.items():
                    connection.execute(f"ALTER ROLE {role} SET {name} = {value}".encode())
        source.backup()
        yield Typed(source, drill(source), extensions)


TABLES = {
    *("numbers", "times", "texts", "nets", "made", "names_of", "documents", "generated", "dropped", "zero"),
    *("empty", "toasted", "wide", "t", "parent", "child", "parted_one", "refreshed", '"a.b".c', 'a."b.c"'),
    """Odd "schema" 100%.per % cent %s %(x)s {} '" ; --""",
    "big",
    LARGE_OBJECTS,
}


def test_every_type_and_every_table_is_equal(typed: Typed) -> None:
    found = {table.table.removeprefix("public."): table for table in typed.drill.comparison.tables}
    different = [table for table in found.values() if not table.equal]
    assert different == []
    wanted = (
        TABLES | typed.extensions | {"one", "fünf"} | ({"computed"} if typed.source.major >= 18 else set())
    )
    assert set(found) == wanted
    assert {name: found[name].source_rows for name in ("zero", "empty", "parent", "child", "wide")} == {
        "zero": 2,
        "empty": 0,
        "parent": 1,  # its own rows, not its children's
        "child": 2,
        "wide": 2,
    }
    assert typed.drill.proof.proven


def test_every_database_is_compared(typed: Typed) -> None:
    assert {table.database for table in typed.drill.comparison.tables} == {
        "postgres",
        "latin",
        "plain",
        ODD_DATABASE,
    }


def test_what_is_not_checked_is_named_with_the_reason(typed: Typed) -> None:
    off = NotChecked("every database", "check checksums", OFF)
    assert set(typed.drill.proof.not_checked) == {
        *([off] if typed.source.major < 18 else []),
        NEVER_CHECKED,
        NotChecked("closed", WHOLE_DATABASE, "it allows no connections"),
        NotChecked("postgres", "public.big", "sampled: 30 % of its blocks were compared"),
        NotChecked("postgres", "public.excluded", "excluded by drill.exclude_tables"),
        NotChecked(
            "postgres", "public.lost", "unlogged: it comes back empty after recovery, without its 0 bytes"
        ),
        NotChecked(
            "postgres",
            "public.not_refreshed",
            'materialized view "not_refreshed" has not been populated',
        ),
        NotChecked("postgres", "public.remote", "foreign table: its rows are elsewhere"),
        NotChecked(
            "postgres",
            "public.secret",
            'query would be affected by row-level security policy for table "secret"',
        ),
    }


def test_a_sample_has_the_same_rows_on_both_sides(typed: Typed) -> None:
    (big,) = [table for table in typed.drill.comparison.tables if table.table == "public.big"]
    rows = typed.source.sql("SELECT count(*) FROM public.big")[0][0]
    assert big.sampled
    assert 0.05 * rows < big.source_rows < 0.7 * rows
    assert (big.source_rows, big.source_hash) == (big.restored_rows, big.restored_hash)
    others = [table for table in typed.drill.comparison.tables if table.sampled and table is not big]
    assert others == []


def test_the_source_is_left_alone(typed: Typed) -> None:
    assert sessions(typed.source) == []
