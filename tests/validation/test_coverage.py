"""A drill without a single table to compare: proven where the source has none, never because something was skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgproof.backups.catalog import NOT_EQUAL, NOT_EXACT, PROVEN
from pgproof.validation.catalogs.object_comparison import ObjectComparison
from pgproof.validation.comparison import Comparison
from pgproof.validation.coverage import expected_tables, gap_in
from pgproof.validation.fences.fence import OBJECTS, Fence, NotChecked
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source
from tests.validation.drilling import drill, fence_of
from tests.validation.values import compared, content, database, fence


@pytest.fixture(scope="module")
def bare() -> Iterator[Source]:
    """A source of PostgreSQL 17 without any table, and with one backup."""
    with running_source(17) as source:
        source.sql("CREATE DATABASE second")
        source.sql("CREATE SEQUENCE numbers; CREATE ROLE somebody")
        source.backup()
        yield source


def test_a_cluster_without_tables_is_proven(bare: Source) -> None:
    found = drill(bare)
    assert found.proof.verdict == PROVEN
    assert found.proof.summary.startswith("no tables, and ")
    assert found.proof.summary.endswith(" rows of system catalogs are equal")
    assert [d.listed for d in found.fence.databases] == [0, 0]
    assert found.proof.tables == ()
    kinds = {(kind["database"], kind["kind"]) for kind in found.proof.objects}
    assert {("(cluster)", "roles"), ("postgres", "sequences"), ("second", "relations")} <= kinds


def test_the_command_says_it_and_great_expectations_agree(bare: Source) -> None:
    code, out, err = answer(bare, "drill", "main")
    assert code == 0, out + err
    assert "PROVEN: no tables, and " in out
    assert "Great Expectations: 7 of 7 expectations met" in out
    assert answer(bare, "list", "main", "--json")[1].count('"state": "proven"') == 1


SKIPPED = [
    ("CREATE UNLOGGED TABLE lost AS SELECT 1 a", "DROP TABLE lost", "",
     "postgres: public.lost: unlogged: it comes back empty after recovery"),
    ("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
     "CREATE FOREIGN TABLE far (a int) SERVER files OPTIONS (filename '/dev/null')",
     "DROP EXTENSION file_fdw CASCADE", "", "postgres: public.far: foreign table: its rows are elsewhere"),
    ("CREATE TABLE t AS SELECT 1 a", "DROP TABLE t", 'drill.exclude_tables = ["postgres.public.t"]',
     "postgres: public.t: excluded by drill.exclude_tables"),
    ("CREATE TABLE t AS SELECT 1 a; ALTER TABLE t ENABLE ROW LEVEL SECURITY", "DROP TABLE t", "",
     "postgres: public.t: query would be affected by row-level security policy"),
    ("SELECT lo_from_bytea(4711, 'x'); REVOKE SET ON PARAMETER lo_compat_privileges FROM pgproof",
     "SELECT lo_unlink(4711); GRANT SET ON PARAMETER lo_compat_privileges TO pgproof", "",
     "postgres: (large objects): permission denied"),
    ("ALTER DATABASE second ALLOW_CONNECTIONS false", "ALTER DATABASE second ALLOW_CONNECTIONS true", "",
     "second: (whole database): it allows no connections"),
    ("REVOKE pg_read_all_data FROM pgproof", "GRANT pg_read_all_data TO pgproof", "",
     "postgres: catalog "),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "setting", "reason"), SKIPPED, ids=range(len(SKIPPED)))
def test_what_was_skipped_is_never_proven(
    bare: Source, before: str, after: str, setting: str, reason: str
) -> None:
    bare.sql(before)
    bare.write_config(setting)
    try:
        found = drill(bare, checked=False)
    finally:
        bare.write_config()
        bare.sql(after)
    assert found.proof.verdict == NOT_EXACT
    assert found.proof.summary.startswith(f"nothing was compared: {reason}")


def test_a_table_that_only_the_copy_has_is_a_difference(bare: Source) -> None:
    bare.sql("CREATE TABLE ghost AS SELECT 1 a")
    try:
        fence = fence_of(bare)
        without = tuple(replace(d, tables=(), listed=0) for d in fence.databases)
        found = drill(bare, replace(fence, databases=without), checked=False)
    finally:
        bare.sql("DROP TABLE ghost")
    assert found.proof.verdict == NOT_EQUAL
    assert found.proof.summary == "postgres: public.ghost: not in the source; the restored cluster has 1 rows"


def test_what_is_not_checked_besides_tables_is_no_table_less(bare: Source) -> None:
    bare.sql("CREATE TABLE t AS SELECT 1 a; CREATE SEQUENCE circle MAXVALUE 3 CYCLE")
    try:
        _, out, _ = answer(bare, "drill", "main", "--json")
    finally:
        bare.sql("DROP TABLE t; DROP SEQUENCE circle")
    proof = json.loads(out)
    assert (proof["verdict"], proof["expectations"]["summary"]) == (PROVEN, "7 of 7 expectations met")
    assert "position of sequence public.circle" in {item["what"] for item in proof["not_checked"]}


# ---- as values

KINDS = (ObjectComparison("(cluster)", "roles", 3, 3), ObjectComparison("shop", "relations", 9, 9))
EMPTY = Comparison((), objects=KINDS)


def bare_fence(listed: int | None = 0, *not_checked: NotChecked) -> Fence:
    return replace(fence(replace(database("shop"), listed=listed)), not_checked=not_checked)


GAPS = [
    (bare_fence(), EMPTY, ""),
    (bare_fence(), Comparison((compared(),)), ""),
    (bare_fence(), None, "nothing was compared"),
    (bare_fence(), Comparison(()), "nothing was compared"),
    (bare_fence(), Comparison((), objects=KINDS[:1]), "nothing was compared"),
    (bare_fence(), Comparison((), objects=KINDS[1:]), "nothing was compared"),
    (bare_fence(None), EMPTY, "nothing was compared"),
    (bare_fence(2), EMPTY, "nothing was compared"),
    (replace(bare_fence(), databases=()), EMPTY, "nothing was compared"),
    (bare_fence(2, NotChecked("shop", "a", "x"), NotChecked("shop", "b", "y")), EMPTY,
     "nothing was compared: shop: a: x (and 1 more)"),
    (bare_fence(0, NotChecked("shop", "position of sequence s", "it cycles")), EMPTY, ""),
    (bare_fence(0, NotChecked("shop", "catalog pg_proc", "z")), EMPTY,
     "nothing was compared: shop: catalog pg_proc: z"),
    (bare_fence(), replace(EMPTY, not_checked=(NotChecked("shop", OBJECTS, "z"),)),
     f"nothing was compared: shop: {OBJECTS}: z"),
]  # fmt: skip


@pytest.mark.parametrize(("at_fence", "found", "gap"), GAPS, ids=range(len(GAPS)))
def test_gap(at_fence: Fence, found: Comparison | None, gap: str) -> None:
    assert gap_in(at_fence, found) == gap


def test_a_table_that_the_copy_had_locked_is_not_waited_for() -> None:
    at_fence = fence(database("shop", "0/5000028", content("t"), content("u")))
    locked = NotChecked("shop", "public.u", "locked in the copy")
    other = NotChecked("shop", "position of sequence public.t", "it cycles")
    assert expected_tables(at_fence, Comparison((), (locked, other))) == 1
