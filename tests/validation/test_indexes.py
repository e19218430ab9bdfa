"""Indexes that amcheck cannot compare with tables: what is lost is found, and nothing that is sound is accused."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.config import DrillConfig
from pgproof.validation.checks import asking, indexes
from pgproof.validation.checks.check import CheckResult
from tests.servers.postgres import Source, installed, running_source

PAGE = 8192
ZOO = Path(__file__).with_name("index_zoo.sql")
EXTENSIONS = ("bloom", "btree_gin", "btree_gist")
# A row of this has a key for an index of each kind; every index here is made of it
ROW = "g, point(g, g), ARRAY[g, g % 10], int4range(g, g + 1), NULL, to_tsvector('simple', 'a' || g), 'text ' || g"
KINDS = {
    "hash": "hash (id)",
    "gist": "gist (place)",
    "gist_range": "gist (period)",
    "gist_null": "gist (nothing)",
    "gist_expression": "gist ((place[0] + 1))",
    "spgist": "spgist (place)",
    "spgist_text": "spgist (note)",
    "gin": "gin (list)",
    "gin_words": "gin (words)",
    "gin_columns": "gin (id, list)",
    "gin_partial": "gin (list) WHERE id > 10",
    "brin": "brin (id) WITH (pages_per_range = 1)",
    "brin_columns": "brin (note, id) WITH (pages_per_range = 1)",
    "brin_bloom": "brin (id int4_bloom_ops) WITH (pages_per_range = 1)",
    "brin_multi": "brin (id int4_minmax_multi_ops) WITH (pages_per_range = 1)",
    "brin_inclusion": "brin (period) WITH (pages_per_range = 1)",
    "bloom": "bloom (id)",
}


@pytest.fixture(scope="module", params=[15, 17, 18])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """Of the copy's role: what is checked is a server of its own."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param, archive_mode="off", autovacuum="off") as made:
        for extension in EXTENSIONS:
            made.sql(f"CREATE EXTENSION {extension}")
        yield made


@pytest.fixture
def table(source: Source) -> Iterator[Source]:
    source.sql(make_table("t", 2000))
    yield source
    source.sql("DROP TABLE t")


@pytest.fixture(scope="module")
def lacking(source: Source) -> tuple[CheckResult, dict[str, str], CheckResult]:
    """Tables of their own for all kinds: checked, the place of a row that each kind's index lacks, and checked again.

    The row was inserted while the index was not told of inserts.
    """
    source.sql("CREATE DATABASE lacking")
    with psycopg.connect(source.dsn("lacking"), autocommit=True) as connection:
        for extension in EXTENSIONS:
            connection.execute(f"CREATE EXTENSION {extension}".encode())
        for kind, definition in KINDS.items():
            connection.execute(make_table(f"of_{kind}", 600).encode())
            indexes = f"""
                CREATE INDEX {kind} ON of_{kind} USING {definition};
                CREATE INDEX other_{kind} ON of_{kind} (id)"""
            connection.execute(indexes.encode())
        connection.execute("CREATE INDEX another ON of_gist USING gist (place)")
        sound = check(source, "lacking")
        tell = "UPDATE pg_index SET indisready = %s WHERE indexrelid = ANY (%s::text[]::regclass[])"
        connection.execute(tell, (False, list(KINDS)))
        places = {}
        for kind in KINDS:
            insert = f"INSERT INTO of_{kind} SELECT {ROW} FROM (VALUES (900000)) AS v(g) RETURNING ctid::text"
            ((places[kind],),) = connection.execute(insert.encode()).fetchall()
        connection.execute(tell, (True, list(KINDS)))
    return sound, places, check(source, "lacking")


def make_table(name: str, rows: int) -> str:
    columns = (
        "id int, place point, list int[], period int4range, nothing int4range, words tsvector, note text"
    )
    return f"""
        CREATE TABLE {name} ({columns}) WITH (fillfactor = 80);
        INSERT INTO {name} SELECT {ROW} FROM generate_series(1, {rows}) g"""


def check(source: Source, database: str = "postgres", **settings: Any) -> CheckResult:
    """Check, and see that the catalog is as it was."""
    before = catalog(source, database)
    found = indexes.check_indexes(DrillConfig(**settings), source.dsn(database), database)
    source.server.wait_ready()
    assert catalog(source, database) == before
    return found


def catalog(source: Source, database: str) -> list[Any]:
    query = "SELECT indexrelid, indisvalid, indisready, indislive FROM pg_index"
    of_users = "JOIN pg_class t ON t.oid = indrelid WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    left = "SELECT relname FROM pg_class WHERE relname ~ 'pgproof' AND relpersistence <> 't'"
    return [source.sql(query, database=database) for query in (f"{query} {of_users}", left)]


def reasons(found: CheckResult) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for item in found.not_checked:
        told.setdefault(item.what, []).append(item.reason)
    return told


def hidden_from(source: Source, index: str, column: str, statement: str) -> list[tuple[Any, ...]]:
    """Do something that an index does not get to know."""
    update = f"UPDATE pg_index SET {column} = %s WHERE indexrelid = '{index}'::regclass"
    source.sql(update, False)
    rows = source.sql(statement)
    source.sql(update, True)
    return rows


def edit(source: Source, index: str, change: Callable[[bytearray], None]) -> None:
    """Change an index's file while the server is down."""
    path = source.data / str(source.sql(f"SELECT pg_relation_filepath('{index}')")[0][0])
    source.sql("CHECKPOINT")
    source.server.stop("fast")
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    source.server.start()
    source.server.wait_ready()


# ---- what is sound


def test_sound_indexes_of_all_kinds_with_hard_values_are_accused_of_nothing(source: Source) -> None:
    """NaN, infinity, empty ranges and arrays, NULL, words with quotes, rows updated in place and moved, and deleted."""
    source.sql("CREATE DATABASE zoo")
    command = [source.bin / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", ZOO, source.dsn("zoo")]
    subprocess.run(command, check=True, capture_output=True)
    found = indexes.check_indexes(DrillConfig(), source.dsn("zoo"), "zoo")
    assert found.findings == ()
    told = reasons(found)
    nan = "its answers depend on the order that rows came in: a key has NaN"
    strange = "rows, whose values do not find themselves"
    of_nan = {title for title, texts in told.items() if texts == [nan]}
    of_words = {title for title, texts in told.items() if texts[0].endswith(strange)}
    # where a NaN hides a page depends on the shape of the tree
    assert '"we ird"."gist p"' in of_nan
    assert all(title.split()[1].startswith(('ird"."gist', 'ird"."brin')) for title in of_nan)
    assert of_words == {'"we ird"."gist tv"', '"we ird"."gin tv"', '"we ird"."gin t, ia, tv"'}
    assert told.keys() - of_nan - of_words == {'"we ird"."expr fails"'}
    assert told['"we ird"."expr fails"'] == [
        "it could not be asked: no, pgproof lookup"
    ]  # not as a superuser
    assert found.checked > 120


def test_what_is_invalid_and_what_is_no_heap(table: Source) -> None:
    table.sql("CREATE INDEX lost ON t USING hash (id)")
    table.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'lost'::regclass")
    found = check(table)
    assert (found.ok, found.checked) == (None, 0)
    assert reasons(found) == {"public.lost": ["an index that is invalid, in the source as well"]}


# ---- what is lost


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_an_index_lacks(
    lacking: tuple[CheckResult, dict[str, str], CheckResult], kind: str
) -> None:
    sound, places, found = lacking
    assert sound.findings == ()
    told = [finding for finding in found.findings if finding.startswith(f"public.{kind}: ")]
    assert told == [f"public.{kind}: row {places[kind]} is not found by its own value"]
    assert len(found.findings) == len(KINDS)
    assert found.not_checked == ()


def test_indexes_of_several_tables_are_asked_at_once(table: Source) -> None:
    """Each that answers wrongly has a fresh index of its own to be compared with."""
    rows = f"SELECT {ROW} FROM (VALUES (900000)) AS v(g)"
    table.sql(
        "CREATE TABLE u AS TABLE t; CREATE INDEX i ON t USING hash (id); CREATE INDEX k ON u USING hash (id)"
    )
    table.sql("UPDATE pg_index SET indisready = false WHERE indexrelid = 'k'::regclass")
    hidden_from(table, "i", "indisready", f"INSERT INTO t {rows}; INSERT INTO u {rows}")
    table.sql("UPDATE pg_index SET indisready = true WHERE indexrelid = 'k'::regclass")
    found = check(table, workers=4)
    assert [finding.partition(":")[0] for finding in found.findings] == ["public.i", "public.k"]
    assert found.not_checked == ()
    table.sql("DROP TABLE u")


@pytest.mark.parametrize("kind", ["gist", "spgist"])
def test_an_entry_that_belongs_to_another_row(table: Source, kind: str) -> None:
    """A row was deleted and its place taken, and the index was not told that it was removed."""
    table.sql(
        f"INSERT INTO t SELECT {ROW} FROM (VALUES (7), (7)) AS v(g); CREATE INDEX i ON t USING {KINDS[kind]}"
    )
    place = table.sql("SELECT max(ctid)::text FROM t WHERE id = 7")[0][0]
    hidden_from(table, "i", "indislive", f"DELETE FROM t WHERE ctid = '{place}'")
    table.sql("UPDATE pg_index SET indislive = false WHERE indexrelid = 'i'::regclass")
    table.sql("VACUUM t")
    table.sql("UPDATE pg_index SET indislive = true WHERE indexrelid = 'i'::regclass")
    table.sql("UPDATE pg_class SET relhasindex = true WHERE relname = 't'")
    insert = f"INSERT INTO t SELECT {ROW} FROM (VALUES (800000)) AS v(g) RETURNING ctid::text"
    assert table.sql(insert) == [(place,)]
    found = check(table)
    assert found.findings == (f"public.i: row {place} is found by a value that it has not",)
    table.sql("DELETE FROM t WHERE id = 7")  # nobody asks for its value any more
    assert check(table).findings == (f"public.i: row {place} is in it twice",)


def test_a_value_that_an_index_keeps_otherwise(table: Source) -> None:
    """A GiST index keeps a point as a box; ~= looks at one corner, <@ at both."""
    if table.sql("SHOW data_checksums") == [("on",)]:
        pytest.skip("its checksums tell first")
    table.sql("CREATE INDEX i ON t USING gist (place)")

    def flip(content: bytearray) -> None:
        start = len(content) - PAGE  # a leaf
        entry = int.from_bytes(content[start + 24 : start + 26], "little") & 0x7FFF
        content[start + entry + 8 + 6] ^= 0x08

    edit(table, "i", flip)
    (finding,) = check(table).findings
    assert finding.startswith("public.i: row (")
    assert finding.endswith(") is in it with another value")


def test_an_index_that_cannot_be_read(table: Source) -> None:
    table.sql("CREATE INDEX i ON t USING gist (place)")

    def zero(content: bytearray) -> None:
        content[PAGE : PAGE + 24] = b"\x55" * 24

    edit(table, "i", zero)
    (finding,) = check(table).findings
    assert finding.startswith("public.i: it cannot be read: invalid page in block 1 of relation")


def test_a_lookup_without_an_end(table: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every overflow page of a hash index goes on with itself (HashPageOpaqueData.hasho_nextblkno)."""
    if table.sql("SHOW data_checksums") == [("on",)]:
        pytest.skip("its checksums tell first")
    table.sql("CREATE INDEX i ON t USING hash ((id % 2))")

    def loop(content: bytearray) -> None:
        for block in range(len(content) // PAGE):
            end = (block + 1) * PAGE
            if content[end - 4] & 0x0F == 1:  # LH_OVERFLOW_PAGE
                content[end - 12 : end - 8] = block.to_bytes(4, "little")

    monkeypatch.setattr(asking, "LONG", 2.0)
    monkeypatch.setattr(asking, "_GRACE", 2.0)
    edit(table, "i", loop)
    (finding,) = check(table).findings
    assert finding == "public.i: a lookup does not end, nor can it be stopped"
    table.server.wait_ready()
    assert table.sql("SELECT FROM pg_stat_activity WHERE usename = 'pgproof lookup'") == []


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
def test_a_lookup_that_ends_the_server_or_stops(
    table: Source, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    table.sql("CREATE INDEX i ON t USING hash (id)")
    require = asking.Asking._require_plan
    hit: list[int] = []

    def harm(self: asking.Asking, query: Any, wanted: set[str]) -> None:
        require(self, query, wanted)
        hit.append(self._session.info.backend_pid)
        os.kill(hit[-1], number)

    monkeypatch.setattr(asking.Asking, "_require_plan", harm)
    monkeypatch.setattr(asking, "LONG", 1.0)
    monkeypatch.setattr(asking, "_GRACE", 0.5)
    if number == signal.SIGSTOP:  # nothing ends a process that is stopped
        monkeypatch.setattr(indexes, "_RECOVERY", 0.0)
    found = indexes.check_indexes(DrillConfig(), table.dsn(), "postgres")
    if number == signal.SIGSTOP:
        os.kill(hit[-1], signal.SIGCONT)
        assert found.findings[0] == "public.i: a lookup does not end, nor can it be stopped"
    else:
        assert found.findings[0].startswith("public.i: the copy's server ended while this was checked: ")
        table.server.wait_ready()
    assert len(found.findings) == 1


# ---- what is told


def test_a_function_that_is_not_immutable_accuses_no_index(table: Source) -> None:
    body = "SELECT current_setting('TimeZone') || $1"
    table.sql(f"CREATE FUNCTION there(int) RETURNS text IMMUTABLE LANGUAGE sql AS $$ {body} $$")
    with psycopg.connect(table.dsn(), autocommit=True) as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        connection.execute("CREATE INDEX i ON t USING hash (there(id))")
    found = check(table)
    assert found.findings == ()
    reason = (
        "its answers are wrong, or function public.there(integer) answers otherwise here than on the source"
    )
    assert reasons(found) == {"public.i": [reason]}
    table.sql("DROP INDEX i; DROP FUNCTION there")


def test_what_time_and_size_leave_out(table: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    table.sql("CREATE INDEX i ON t USING hash (id); ANALYZE t")
    monkeypatch.setattr(asking, "MOST_ROWS", 500)
    found = check(table)
    assert found.findings == ()
    assert reasons(found) == {"public.i": ["rows of 75 % of its table's blocks: more than 500 are not read"]}
    monkeypatch.setattr(asking, "MOST_ROWS", 5000)
    monkeypatch.setattr(asking, "_BATCH", 0.0)  # one key at a time
    told = reasons(check(table, index_timeout=1))["public.i"]
    assert len(told) == 1
    assert told[0].endswith(" of 2,000 different keys were asked for when its 1 s were over")


def test_what_was_not_read_from_end_to_end(table: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    table.sql("CREATE INDEX i ON t USING gist (place)")
    answer = asking.Asking._answer

    def late(self: asking.Asking, lookups: Any, seconds: float) -> Any:
        if lookups.pattern == "twice":
            self._deadline = 0.0
            return None
        return answer(self, lookups, seconds)

    monkeypatch.setattr(asking.Asking, "_answer", late)
    found = check(table)
    assert reasons(found) == {"public.i": ["it was not read from end to end when its 300 s were over"]}


def test_an_index_that_no_value_can_be_asked_of(table: Source) -> None:
    """An operator class that finds none of its values by themselves."""
    table.sql("CREATE OPERATOR CLASS lists FOR TYPE int4 USING hash AS FUNCTION 1 hashint4(int4)")
    table.sql("CREATE INDEX i ON t USING hash (id lists)")
    found = check(table)
    assert reasons(found) == {"public.i": ["a hash index: no operator of its class finds a value by itself"]}
    table.sql("DROP OPERATOR CLASS lists USING hash CASCADE")
