"""Drills of sources whose roles and databases are set up strangely, or by somebody who means harm."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import MAJORS
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import Drill, drill

# What the owner of a database may do: functions and operators that stand before PostgreSQL's own. As the role of the
# source they raise; as the superuser that reads the copy they would leave a mark.
EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.ran() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF current_setting('archive_mode') = 'off' THEN
        EXECUTE $c$COPY (SELECT 1) TO PROGRAM 'touch {marker}'$c$;
    ELSIF session_user = 'pgproof' THEN
        RAISE EXCEPTION 'a function of a user ran as pgproof';
    END IF;
    RETURN true;
END $$;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS
    'SELECT evil.ran(); SELECT pg_catalog.set_config($1, $2, $3)';
CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS
    'SELECT evil.ran(); SELECT pg_catalog.pg_is_in_recovery()';
CREATE FUNCTION evil.pg_relation_filepath(oid) RETURNS text LANGUAGE sql AS
    'SELECT evil.ran(); SELECT pg_catalog.pg_relation_filepath($1)';
CREATE FUNCTION evil.same(name, text) RETURNS boolean LANGUAGE sql AS
    'SELECT evil.ran(); SELECT $1::text OPERATOR(pg_catalog.=) $2';
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = name, RIGHTARG = text);
CREATE FUNCTION evil.same(name, name) RETURNS boolean LANGUAGE sql AS
    'SELECT evil.ran(); SELECT $1::text OPERATOR(pg_catalog.=) $2::text';
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = name, RIGHTARG = name);
CREATE TABLE t AS SELECT g, g * 0.1::float8 AS f, now() AS at, interval '1 day' * g AS i, 'x'::bytea AS b
    FROM generate_series(1, 100) g;
"""
SETTINGS = """
ALTER ROLE pgproof SET statement_timeout = '100ms';
ALTER ROLE pgproof SET lock_timeout = '100ms';
ALTER ROLE pgproof SET idle_in_transaction_session_timeout = '300ms';
ALTER ROLE pgproof SET idle_session_timeout = '2s';
ALTER ROLE pgproof SET default_transaction_read_only = on;
ALTER ROLE pgproof SET default_transaction_isolation = 'serializable';
ALTER ROLE pgproof SET default_transaction_deferrable = on;
ALTER ROLE pgproof SET row_security = off;
ALTER ROLE pgproof SET standard_conforming_strings = off;
ALTER ROLE pgproof SET DateStyle = 'German';
ALTER ROLE pgproof SET IntervalStyle = 'sql_standard';
ALTER ROLE pgproof SET extra_float_digits = -15;
ALTER ROLE pgproof SET bytea_output = 'escape';
ALTER ROLE pgproof SET TimeZone = 'Asia/Kolkata';
ALTER ROLE pgproof SET client_encoding = 'LATIN1';
ALTER ROLE pgproof SET quote_all_identifiers = on;
ALTER ROLE pgproof SET array_nulls = off;
ALTER ROLE pgproof SET transform_null_equals = on;
ALTER ROLE pgproof SET enable_seqscan = off;
ALTER ROLE pgproof SET plan_cache_mode = 'force_generic_plan';
ALTER ROLE postgres SET statement_timeout = '100ms';
ALTER ROLE postgres SET idle_in_transaction_session_timeout = '100ms';
ALTER ROLE postgres SET standard_conforming_strings = off;
"""


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def harmful(request: pytest.FixtureRequest) -> Iterator[tuple[Source, Drill]]:
    """A source whose databases search a schema of their owners first, and its drill, with a check of one's own."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        source.sql("CREATE DATABASE mine")
        for database in ("postgres", "mine"):
            source.sql(EVIL.format(marker=source.root / "marker"), database=database)
            source.sql(f"ALTER DATABASE {database} SET search_path = evil, pg_catalog")
        source.backup()
        own = '[[clusters.main.checks]]\nname = "mine"\ndatabase = "mine"\nsql = "SELECT g FROM public.t"\n'
        source.write_config(extra=own)
        yield source, drill(source)


def test_functions_of_users_never_run_in_the_sessions_of_a_drill(harmful: tuple[Source, Drill]) -> None:
    source, found = harmful
    assert not (source.root / "marker").exists()
    assert found.proof.proven, found.proof.summary
    assert answer(source, "doctor", "main")[0] == 0


def test_a_check_with_qualified_names_runs_no_function_of_users(harmful: tuple[Source, Drill]) -> None:
    source, found = harmful
    assert [check.ok for check in found.comparison.checks if check.name == "mine"] == [True]
    assert not (source.root / "marker").exists()


def test_settings_of_roles_change_nothing(any_source: Source) -> None:
    any_source.sql(EVIL.format(marker="x"))
    any_source.backup()
    with any_source.connect() as connection:
        connection.execute(SETTINGS)
        if any_source.major >= 17:
            connection.execute("ALTER ROLE pgproof SET transaction_timeout = '100ms'")
    found = drill(any_source)
    assert found.proof.proven, found.proof.summary
    assert found.equal == {"t"}


NEW_IN_17 = """
CREATE TABLE parts (id bigint GENERATED ALWAYS AS IDENTITY, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts (at) SELECT date '2026-01-01' + g FROM generate_series(0, 99) g;
CREATE ROLE keeper;
GRANT MAINTAIN ON parts TO keeper;
"""
NEW_IN_18 = """
CREATE EXTENSION btree_gist;
CREATE TABLE virtual (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, t text DEFAULT uuidv7()::text);
INSERT INTO virtual (a) SELECT g FROM generate_series(1, 100) g;
CREATE TABLE rooms (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS));
INSERT INTO rooms VALUES (1, '[2026-01-01,2026-02-01)'), (1, '[2026-02-01,2026-03-01)');
CREATE TABLE stays (room int, during daterange, FOREIGN KEY (room, PERIOD during) REFERENCES rooms (id, PERIOD during));
INSERT INTO stays VALUES (1, '[2026-01-05,2026-02-05)');
CREATE TABLE loose (a int, b int CHECK (b > 0) NOT ENFORCED);
INSERT INTO loose VALUES (NULL, -1);
ALTER TABLE loose ADD CONSTRAINT a_there NOT NULL a NOT VALID;
"""


@pytest.mark.parametrize("major", [17, 18])
def test_what_is_new_in_a_version_is_equal(major: int) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major, wal_level="logical") as source:
        source.sql(
            "CREATE DATABASE builtin TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
        )
        source.sql("CREATE DATABASE japanese TEMPLATE template0 ENCODING 'EUC_JP' LOCALE 'C'")
        source.sql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        for database in ("builtin", "japanese"):
            with psycopg.connect(source.dsn(database), client_encoding="utf8") as connection:
                connection.execute("CREATE TABLE t (v text PRIMARY KEY)")
                connection.execute("INSERT INTO t VALUES ('日本'), (repeat('語', 100))")
        source.sql(NEW_IN_17 + (NEW_IN_18 if major >= 18 else ""))
        source.backup()
        source.sql("UPDATE t SET v = v || 'x'", database="japanese")
        source.sql("INSERT INTO parts (at) VALUES ('2026-12-31')")
        found = drill(source)
    assert found.proof.proven, found.proof.summary
    wanted = {"parts_1", "t"} | ({"virtual", "rooms", "stays", "loose"} if major >= 18 else set())
    assert found.equal == wanted
    assert not any(item.startswith("catalog ") for item in found.not_checked)


def test_a_trigger_on_login_that_refuses_is_told(source: Source) -> None:
    source.sql("CREATE TABLE t AS SELECT 1 a")
    source.backup()
    source.sql(
        "CREATE TABLE logins (at timestamptz, who name);"
        "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN INSERT INTO public.logins VALUES (now(), session_user); END';"
        "CREATE EVENT TRIGGER l ON login EXECUTE FUNCTION note(); ALTER EVENT TRIGGER l ENABLE ALWAYS"
    )
    assert drill(source).proof.proven  # our own logins commit while we fence
    assert source.sql("SELECT count(*) > 5 FROM logins WHERE who = 'pgproof'") == [(True,)]
    source.sql(
        "CREATE OR REPLACE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF session_user = 'pgproof' THEN RAISE EXCEPTION 'closed at night'; END IF; END $$"
    )
    code, _, err = answer(source, "drill", "main")
    assert code > 1
    assert "closed at night" in err
