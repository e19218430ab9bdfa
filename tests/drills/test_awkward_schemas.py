"""Schemas on which a verdict could be wrong: what is sound is not accused, and what is changed does not stay unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgproof.postgres.connection import connect
from pgproof.validation.catalogs.settings import answering_settings
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.fences.fence import LARGE_OBJECTS
from pgproof.validation.proof import Proof
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import fence_of, restored_copy

# Functions that call themselves immutable and read a setting, as schemas of the world have them
FUNCTIONS = """
CREATE SCHEMA app;
CREATE FUNCTION app.day(timestamptz) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT $1::date';
CREATE FUNCTION app.due(text) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT $1::date';
CREATE FUNCTION app.shown(float8) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1::text';
CREATE TABLE visits AS
    SELECT g AS id, timestamptz '2026-01-01 00:30+00' + g * interval '1 hour' AS at FROM generate_series(1, 1000) g;
CREATE INDEX visits_day ON visits (app.day(at));
CREATE INDEX visits_late ON visits (id) WHERE app.day(at) > date '2026-01-20';
CREATE INDEX visits_hash ON visits USING hash (app.day(at));
CREATE TABLE notes AS
    SELECT g AS id, '03/' || g || '/2026' AS due, g / 3.0::float8 AS f FROM generate_series(1, 12) g;
CREATE INDEX notes_due ON notes (app.due(due));
CREATE INDEX notes_shown ON notes (app.shown(f));
"""
# A superuser makes tables anywhere, and extensions keep data in such places
OWN = """
CREATE TABLE information_schema.mine AS SELECT g AS id, md5(g::text) AS note FROM generate_series(1, 1000) g;
CREATE TABLE registry AS SELECT g AS id, md5(g::text) AS note FROM generate_series(1, 1000) g;
ALTER TABLE registry SET SCHEMA pg_catalog;
"""
# A sound row whose text would be longer than 1 GB: a bit is a character; and large objects of several pieces
LONG = """
CREATE TABLE bits AS SELECT 0::bit(83886080)::varbit AS v;
UPDATE bits SET v = v || v; UPDATE bits SET v = v || v; UPDATE bits SET v = v || v; UPDATE bits SET v = v || v;
SELECT lo_create(7); SELECT lo_put(7, 70 << 20, 'end');
"""
OWN_CHECKS = """
[[clusters.main.checks]]
name = "local days"
database = "zoned"
sql = "SELECT current_setting('TimeZone') || count(*) FROM visits WHERE at::date = '02/01/2026'"
expect = "America/Caracas24"
"""
ZONES = {"postgres": "Asia/Kolkata", "zoned": "America/Caracas"}


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    """Settings that change answers, of the server, a database, and the role that reads the copy; a dropped database."""
    with running_source(
        15, TimeZone=ZONES["postgres"], DateStyle="ISO, DMY", extra_float_digits="-5"
    ) as made:
        made.sql("CREATE DATABASE zoned")
        made.sql(f"ALTER DATABASE zoned SET TimeZone = '{ZONES['zoned']}'")
        for database, zone in ZONES.items():
            made.sql(f"SET TimeZone = '{zone}'; {FUNCTIONS}", database=database)
        made.sql("ALTER ROLE postgres SET TimeZone = 'Japan'; ALTER ROLE postgres SET DateStyle = 'German'")
        made.sql(
            "SET TimeZone = 'Japan'; CREATE INDEX visits_of_a_role ON visits (app.day(at), id)",
            database="zoned",
        )
        made.sql(OWN + LONG)
        made.sql("CREATE DATABASE gone")
        made.sql("CHECKPOINT")
        made.backup()
        made.sql("DROP DATABASE gone")
        for number in range(1, 7):
            made.sql(f"INSERT INTO notes VALUES ({number}, '0{number}/01/2026', 1)", database="zoned")
        made.write_config(cluster="drill.targets = 3", extra=OWN_CHECKS)
        yield made


def prove(source: Source, seed: int, damage: Callable[[Restored], object] = lambda restored: None) -> Proof:
    """The proof of a drill whose copy is damaged before it is recovered."""
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        damage(restored)
        comparison = compare_restored(source.cluster, fence, restored, seed=seed)
    return make_proof(source.archive, fence, restored.label, now, restored=restored, comparison=comparison)


def not_checked(proof: Proof, *databases: str) -> dict[str, str]:
    return {item.what: item.reason for item in proof.not_checked if item.database in databases}


# ---- nothing is wrong


@pytest.mark.parametrize("seed", [2, 3])
def test_nothing_is_accused(source: Source, seed: int) -> None:
    """With these seeds recovery stops between the DROP DATABASE and the next checkpoint, and replays it again."""
    proof = prove(source, seed)
    assert proof.proven, proof.summary
    assert {check["ok"] for check in proof.checks if check["name"] in ("local days", "amcheck", "log")} == {
        True
    }
    assert [target["ok"] for target in proof.targets] == [True] * 3
    equal = {(table["database"], table["table"]) for table in proof.tables}
    own = {"information_schema.mine", "pg_catalog.registry", "public.bits", LARGE_OBJECTS}
    assert equal == {(d, f"public.{t}") for d in ZONES for t in ("visits", "notes")} | {
        ("postgres", t) for t in own
    }
    assert not_checked(proof, *ZONES) == {}


# ---- something is


def flipped(source: Source, relation: str) -> Callable[[Restored], object]:
    """A bit of a value in the last row of a relation's first page."""
    path = str(source.sql(f"SELECT pg_relation_filepath('{relation}')")[0][0])

    def flip(restored: Restored) -> None:
        file = restored.scratch.data / path
        content = bytearray(file.read_bytes())
        content[8191 - 8] ^= 1  # the first row of a page lies at its end
        file.write_bytes(content)

    return flip


@pytest.mark.parametrize("relation", ["information_schema.mine", "pg_catalog.registry"])
def test_a_value_of_a_table_in_a_schema_of_postgresql(source: Source, relation: str) -> None:
    proof = prove(source, 1, flipped(source, relation))
    assert (proof.verdict, proof.summary.split(": ")[:2]) == ("not equal", ["postgres", relation])


def test_settings_of_our_own_role_are_not_those_of_others(source: Source) -> None:
    source.sql("ALTER ROLE pgproof SET TimeZone = 'Japan'; ALTER ROLE pgproof SET extra_float_digits = 3")
    try:
        with connect(source.cluster, "postgres") as connection:
            here = answering_settings(connection)
        with connect(source.cluster, "zoned") as connection:
            zoned = answering_settings(connection)
    finally:
        source.sql("ALTER ROLE pgproof RESET ALL")
    assert (here["DateStyle"], zoned["DateStyle"]) == ("ISO, DMY", "ISO, DMY")
    assert "extra_float_digits" not in here  # what the server has is not known
    assert "TimeZone" not in here
    assert zoned["TimeZone"] == ZONES["zoned"]
    assert here["search_path"] == '"$user", public'


def test_an_index_that_a_session_filled_under_its_own_time_zone(source: Source) -> None:
    """Its rows can be judged nowhere; that it is sound besides, can."""
    source.sql(
        "SET TimeZone = 'Pacific/Apia'; CREATE TABLE odd AS TABLE visits; CREATE INDEX odd_day ON odd (app.day(at))",
        database="zoned",
    )
    proof = prove(source, 1)
    source.sql("DROP TABLE odd", database="zoned")
    assert proof.proven, proof.summary
    reasons = not_checked(proof, "zoned")
    assert set(reasons) == {"public.odd_day"}
    assert (
        'lacks matching index tuple within index "odd_day", or function app.day(' in reasons["public.odd_day"]
    )
    assert reasons["public.odd_day"].endswith(" answers otherwise here than on the source")
