"""One row deleted, one value changed, one row added, on the restored side before it is compared: each is located.

A paused standby cannot be written to, so the copy is recovered to its cut, opened, changed by SQL, and then counted by
the code of the drill.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from pgproof.errors import NotProven
from pgproof.validation.checks.checking import open_for_writing
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.fences.cut import Snapshot
from pgproof.validation.fences.fence import DatabaseFence, Fence
from pgproof.validation.recount import recount
from pgproof.validation.replay import as_users_connect, recovered
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import fence_of, restored_copy

SCHEMA = """
CREATE TYPE pair AS (a int, b text);
CREATE TABLE plain AS SELECT g AS id, 'note ' || g AS note FROM generate_series(1, 500) g;
CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_2025 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE parted_2026 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parted SELECT g, date '2025-06-01' + g FROM generate_series(0, 399) g;
CREATE TABLE toasted (id int, big text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT g, repeat(md5(g::text), 1000) FROM generate_series(1, 20) g;
CREATE MATERIALIZED VIEW summed AS SELECT id % 7 AS rest, count(*) AS n FROM plain GROUP BY 1;
CREATE TABLE composed (id int, value pair, list pair[]);
INSERT INTO composed SELECT g, ROW(g, 'x')::pair, ARRAY[ROW(g, NULL::text)::pair] FROM generate_series(1, 50) g;
CREATE TABLE words (id int, word text, fixed char(8));
INSERT INTO words VALUES (1, NULL, 'a'), (2, '', 'b'), (3, 'Case', 'c'), (4, 'blank', 'd'), (5, 'é', 'e');
CREATE TABLE numbers (id int, exact numeric, loose float8, single float4);
INSERT INTO numbers VALUES (1, 1.0, 0.1, 0.1), (2, 'NaN', '-0', 'Infinity'), (3, 0, 1e308, 1);
CREATE TABLE times (id int, at timestamptz, span interval, whole timestamp);
INSERT INTO times VALUES (1, '2026-11-24 12:00:00.000001+00', '1 day', '2026-11-24');
CREATE TABLE bits (id int, flags bit(4), raw bytea, document jsonb, ranged int4range, tags text[]);
INSERT INTO bits VALUES (1, B'0101', '\\x00ff', '{"a": 1.0}', '[1,5)', '{a,NULL}');
CREATE TABLE twice (a int); INSERT INTO twice VALUES (1), (1), (2);
CREATE TABLE emptied AS SELECT g FROM generate_series(1, 100) g;
CREATE TABLE nothing (a int, b text);
SELECT lo_from_bytea(4711, 'a large object of some length');
"""
ROWS = "source has {} rows, restored has {}"
HASH = "{} rows each, but hash"
# what is done to the copy, and what is said of which tables; of all others nothing
SABOTAGE: list[tuple[str, dict[str, str]]] = [
    ("DELETE FROM plain WHERE id = 250", {"public.plain": ROWS.format(500, 499)}),
    ("UPDATE plain SET note = 'note 251' WHERE id = 250", {"public.plain": HASH.format(500)}),
    ("INSERT INTO plain VALUES (501, 'note 501')", {"public.plain": ROWS.format(500, 501)}),
    ("INSERT INTO nothing VALUES (NULL, NULL)", {"public.nothing": ROWS.format(0, 1)}),
    ("TRUNCATE emptied", {"public.emptied": ROWS.format(100, 0)}),
    ("DELETE FROM parted WHERE id = 3", {"public.parted_2025": ROWS.format(214, 213)}),
    ("UPDATE parted SET id = -1 WHERE at = '2026-03-01'", {"public.parted_2026": HASH.format(186)}),
    ("UPDATE parted SET at = '2026-03-01' WHERE id = 0",
     {"public.parted_2025": ROWS.format(214, 213), "public.parted_2026": ROWS.format(186, 187)}),
    ("UPDATE toasted SET big = overlay(big placing 'X' from 20000) WHERE id = 9", {"public.toasted": HASH.format(20)}),
    ("UPDATE plain SET id = 8 WHERE id = 7; REFRESH MATERIALIZED VIEW summed",
     {"public.summed": HASH.format(7), "public.plain": HASH.format(500)}),
    ("UPDATE composed SET value.b = 'y' WHERE id = 7", {"public.composed": HASH.format(50)}),
    ("UPDATE composed SET value = NULL WHERE id = 7", {"public.composed": HASH.format(50)}),
    ("UPDATE composed SET list[1].b = '' WHERE id = 7", {"public.composed": HASH.format(50)}),
    ("UPDATE words SET word = '' WHERE id = 1", {"public.words": HASH.format(5)}),
    ("UPDATE words SET word = NULL WHERE id = 2", {"public.words": HASH.format(5)}),
    ("UPDATE words SET word = 'case' WHERE id = 3", {"public.words": HASH.format(5)}),
    ("UPDATE words SET word = 'blank ' WHERE id = 4", {"public.words": HASH.format(5)}),
    ("UPDATE words SET word = U&'e\\0301' WHERE id = 5", {"public.words": HASH.format(5)}),
    ("UPDATE words SET fixed = 'A' WHERE id = 1", {"public.words": HASH.format(5)}),
    ("UPDATE numbers SET exact = 1.00 WHERE id = 1", {"public.numbers": HASH.format(3)}),
    ("UPDATE numbers SET loose = 0.10000000000000002 WHERE id = 1", {"public.numbers": HASH.format(3)}),
    ("UPDATE numbers SET loose = 0 WHERE id = 2", {"public.numbers": HASH.format(3)}),
    ("UPDATE numbers SET single = '0.10000001' WHERE id = 1", {"public.numbers": HASH.format(3)}),
    ("UPDATE times SET at = at + interval '1 microsecond'", {"public.times": HASH.format(1)}),
    ("UPDATE times SET at = at + interval '1 hour'", {"public.times": HASH.format(1)}),
    ("UPDATE times SET span = '24 hours'", {"public.times": HASH.format(1)}),
    ("UPDATE bits SET flags = B'0111'", {"public.bits": HASH.format(1)}),
    ("UPDATE bits SET raw = '\\x00fe'", {"public.bits": HASH.format(1)}),
    ("UPDATE bits SET document = '{\"a\": 1.00}'", {"public.bits": HASH.format(1)}),
    ("UPDATE bits SET ranged = '[1,6)'", {"public.bits": HASH.format(1)}),
    ("UPDATE bits SET tags = '{a,\"NULL\"}'", {"public.bits": HASH.format(1)}),
    ("UPDATE twice SET a = 2 WHERE ctid = (SELECT min(ctid) FROM twice)", {"public.twice": HASH.format(3)}),
    ("SELECT lo_put(4711, 3, 'L')", {"(large objects)": HASH.format(1)}),
    ("SELECT lo_unlink(4711)", {"(large objects)": ROWS.format(1, 0)}),
    ("SELECT lo_from_bytea(4712, '')", {"(large objects)": ROWS.format(1, 2)}),
    ("UPDATE plain SET note = CASE id WHEN 1 THEN 'note 2' ELSE 'note 1' END WHERE id IN (1, 2)",
     {"public.plain": HASH.format(500)}),
]  # fmt: skip


@dataclass
class Opened:
    """A copy at its cut that may be written to: each test gets a database of its own, copied from the recovered one.

    Args:
        source: of the fence.
        fence: what the source held.
        restored: of the copy, for the proof.
        dsn: of its server.
    """

    source: Source
    fence: Fence
    restored: Restored
    dsn: str

    @property
    def database(self) -> DatabaseFence:
        """The fence of the database, as if it had seen every transaction: else the sabotage's own is told first."""
        database = next(d for d in self.fence.databases if d.database == "postgres")
        return replace(database, snapshot=Snapshot(1 << 40, 1 << 40, frozenset()))

    def compare(self, sabotage: str) -> Comparison:
        """Sabotage a copy of the database, and compare it with the fence."""
        with psycopg.connect(f"{self.dsn} dbname=template1", autocommit=True) as connection:
            connection.execute("CREATE DATABASE sabotaged TEMPLATE postgres")
            dsn = f"{self.dsn} dbname=sabotaged"
            with psycopg.connect(as_users_connect(dsn), autocommit=True) as inner:
                inner.execute(sabotage.encode())
            try:
                found = recount(self.source.cluster.drill, self.database, dsn, set())
            finally:
                connection.execute("DROP DATABASE sabotaged")
        return Comparison(tuple(found.rows), tuple(found.not_checked))


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    with running_source(17) as source:
        source.sql(SCHEMA)
        source.backup()
        fence = fence_of(source)
        assert fence.cut is not None
        with (
            restored_copy(source, fence) as restored,
            recovered(
                restored.scratch, source.bin, fence.cut, restored.timeline, fence.bootstrap_role, None, 60
            ) as dsn,
        ):
            assert open_for_writing(f"{dsn} dbname=postgres") == ""
            yield Opened(source, fence, restored, dsn)


def test_a_copy_that_was_written_to_is_told_before_a_row_is_counted(opened: Opened) -> None:
    database = next(d for d in opened.fence.databases if d.database == "postgres")
    with psycopg.connect(f"{opened.dsn} dbname=template1", autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.written (a int)")
    with pytest.raises(NotProven) as caught:
        recount(opened.source.cluster.drill, database, f"{opened.dsn} dbname=postgres", set())
    assert re.fullmatch(
        r"transaction \d+ is committed in the copy and was not seen at the fence", caught.value.fact
    )


def test_the_opened_copy_is_equal_when_nothing_is_done(opened: Opened) -> None:
    comparison = opened.compare("SELECT 1")
    assert comparison.equal
    assert comparison.rows > 1000


@pytest.mark.parametrize(("sabotage", "said"), SABOTAGE, ids=[s[0][:60] for s in SABOTAGE])
def test_one_change_is_located(opened: Opened, sabotage: str, said: dict[str, str]) -> None:
    comparison = opened.compare(sabotage)
    found = {row.table: row.difference() for row in comparison.different}
    assert set(found) == set(said)
    for table, wanted in said.items():
        whole = re.escape(wanted) + (r" -?\d+ became -?\d+" if wanted.endswith("hash") else "")
        assert re.fullmatch(whole, found[table]), found[table]
    proof = make_proof(
        opened.source.archive,
        opened.fence,
        opened.restored.label,
        now,
        restored=opened.restored,
        comparison=comparison,
    )
    assert proof.verdict == "not equal"
    named = comparison.different[0]
    more = f" (and {len(said) - 1} more tables)" if len(said) > 1 else ""
    assert proof.summary == f"postgres: {named.table}: {named.difference()}{more}"
