"""Everything of a database that is no row of a table: equal when nothing was done, named and located when it was.

A copy cannot be changed before it is compared. So two fences are taken with the sabotage between them: the copy is
recovered to the second, and compared with what the first one says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from pgproof.commands.console import make_console
from pgproof.commands.drill import show_objects
from pgproof.errors import NotProven
from pgproof.validation.catalogs.identities import KINDS
from pgproof.validation.catalogs.object_recount import recount_objects
from pgproof.validation.catalogs.objects import HeldObjects
from pgproof.validation.checks.page_checksums import OFF
from pgproof.validation.comparing import compare_restored
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import make_proof
from pgproof.validation.fences import fencing
from pgproof.validation.fences.fence import NEVER_CHECKED, OBJECTS, NotChecked
from pgproof.validation.proof import Proof, read_proof, write_proof
from tests.servers.postgres import Source, installed, now, running_source
from tests.validation.drilling import drill, fence_of, meanwhile, restored_copy

MAJORS = [15, 17, 18]
NO_CHECKSUMS = NotChecked("every database", "check checksums", OFF)
# Something of every kind that a build without contrib's libraries knows
SCHEMA = """
CREATE SCHEMA app;
CREATE ROLE owner_of NOLOGIN; CREATE ROLE clerk LOGIN CONNECTION LIMIT 5 PASSWORD 'do-not-keep-me'; CREATE ROLE guest;
GRANT owner_of TO clerk WITH ADMIN OPTION;
ALTER ROLE clerk SET work_mem = '8MB'; ALTER DATABASE postgres SET search_path = app, public;
ALTER ROLE clerk IN DATABASE postgres SET statement_timeout = '1h';
CREATE TYPE app.mood AS ENUM ('sad', 'glad');
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TABLE app.orders (id serial PRIMARY KEY, note text DEFAULT 'none', much app.positive, how app.mood);
CREATE TABLE app.lines (id int, order_id int, CONSTRAINT of_an_order FOREIGN KEY (order_id) REFERENCES app.orders);
ALTER TABLE app.lines ADD CONSTRAINT not_negative CHECK (id >= 0);
CREATE INDEX by_note ON app.orders (lower(note));
CREATE TABLE app.parted (k int) PARTITION BY LIST (k);
CREATE TABLE app.one PARTITION OF app.parted FOR VALUES IN (1);
CREATE VIEW app.loud AS SELECT id, upper(note) AS note FROM app.orders;
CREATE FUNCTION app.total(a int) RETURNS int LANGUAGE sql AS $$
SELECT a
  + 1 $$;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION app.noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TRIGGER touching BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE POLICY own ON app.lines USING (id > 0);
CREATE RULE quiet AS ON DELETE TO app.lines DO INSTEAD NOTHING;
CREATE STATISTICS app.together ON id, note FROM app.orders;
CREATE PUBLICATION outward FOR TABLE app.orders;
CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing OPTIONS (host 'a');
CREATE USER MAPPING FOR clerk SERVER elsewhere OPTIONS (password 'do-not-keep-me');
CREATE FOREIGN TABLE app.remote (a int) SERVER elsewhere;
CREATE SEQUENCE app.down INCREMENT -3 MAXVALUE 1000 START 1000; CREATE SEQUENCE app.idle;
CREATE SEQUENCE app.round MAXVALUE 50 CYCLE;
GRANT SELECT (note) ON app.orders TO guest; GRANT SELECT ON app.orders TO guest WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO guest;
COMMENT ON TABLE app.orders IS 'what was ordered';
INSERT INTO app.orders (note) SELECT 'n' || g FROM generate_series(1, 100) g;
SELECT nextval('app.down'), nextval('app.round') FROM generate_series(1, 70);
SELECT lo_from_bytea(4711, 'x');
"""
SABOTAGE = """
DROP INDEX app.by_note;
CREATE OR REPLACE FUNCTION app.total(a int) RETURNS int LANGUAGE sql AS $$
SELECT a
  + 2 $$;
REVOKE SELECT ON app.orders FROM guest;
REVOKE EXECUTE ON FUNCTION pg_catalog.random() FROM PUBLIC;
REVOKE owner_of FROM clerk;
ALTER TABLE app.orders ALTER note SET DEFAULT 'some';
ALTER TABLE app.orders DISABLE TRIGGER touching;
ALTER EXTENSION plpgsql ADD FUNCTION app.total(int);
UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'plpgsql';
UPDATE pg_constraint SET convalidated = false WHERE conname = 'not_negative';
ALTER DATABASE postgres SET search_path = public;
ALTER ROLE clerk CREATEDB;
ALTER POLICY own ON app.lines USING (id > 1);
CREATE OR REPLACE VIEW app.loud AS SELECT id, lower(note) AS note FROM app.orders;
COMMENT ON TABLE app.orders IS NULL;
ALTER TYPE app.mood RENAME VALUE 'sad' TO 'blue';
GRANT SELECT ON LARGE OBJECT 4711 TO guest;
SELECT setval('app.orders_id_seq', 7);
SELECT setval('app.down', 1000);
SELECT setval('app.idle', 1000);
"""
# Kind, identity, what, the source's value, the copy's; a pattern where a value is long
NAMED = [
    ("relations", "index app.by_note", "", "present", "missing"),
    (
        "indexes",
        "app.by_note",
        "",
        "CREATE INDEX by_note ON app.orders USING btree (lower(note))",
        "missing",
    ),
    ("functions", "app.total(int4)", "prosrc", "\nSELECT a\n  + 1 ", "\nSELECT a\n  + 2 "),
    ("functions", "pg_catalog.random()", "", "missing", "present"),
    ("memberships", "clerk in owner_of by postgres", "", "present", "missing"),
    ("defaults", "app.orders.note", "definition", "'none'::text", "'some'::text"),
    ("triggers", "touching on app.orders", "tgenabled", "O", "D"),
    ("extensions", "plpgsql", "extversion", "1.0", "0.9"),
    ("constraints", "not_negative on app.lines", "convalidated", "true", "false"),
    (
        "settings of roles and databases",
        "role every role in database postgres",
        "setconfig",
        '{"search_path=app, public"}',
        "{search_path=public}",
    ),
    ("roles", "clerk", "rolcreatedb", "false", "true"),
    ("policies", "own on app.lines", "definition", "(id > 0)", "(id > 1)"),
    ("comments and labels", "app.orders", "", "present", "missing"),
    ("types", "app.mood 'sad'", "enumlabel", "sad", "blue"),
    ("sequences", "app.orders_id_seq", "position", "100", "7, set back: it would give out values again"),
    ("sequences", "app.down", "position", "793", "1000, set back: it would give out values again"),
    (
        "sequences",
        "app.idle",
        "position",
        "1 (not called)",
        "1000, further than the source can have been, by 968",
    ),
]


@dataclass
class Sabotaged:
    source: Source
    comparison: Comparison
    proof: Proof

    def found(self) -> list[tuple[str, ...]]:
        return [
            (kind.kind, d.identity, d.what, d.source, d.restored)
            for kind in self.comparison.objects
            for d in kind.differences
        ]


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param, allow_system_table_mods="on") as made:
        made.sql(SCHEMA)
        made.sql("CREATE EVENT TRIGGER noting ON ddl_command_end EXECUTE FUNCTION app.noted()")
        made.sql("CREATE DATABASE second STRATEGY file_copy")
        made.backup()
        yield made


@pytest.fixture(scope="module")
def sabotaged(source: Source) -> Sabotaged:
    before = drill(source)
    assert before.proof.verdict == "proven", before.proof.summary
    remote = NotChecked("postgres", "app.remote", "foreign table: its rows are elsewhere")
    cycles = "it cycles: any of its values can follow any other"
    wheel = NotChecked("postgres", "position of sequence app.round", cycles)
    expected = (remote, wheel, *([NO_CHECKSUMS] if source.major < 18 else []), NEVER_CHECKED)
    assert before.proof.not_checked == expected
    source.sql(SABOTAGE)
    after = replace(fence_of(source), objects=before.fence.objects)
    with restored_copy(source, after) as restored:
        comparison = compare_restored(source.cluster, after, restored)
    proof = make_proof(source.archive, after, restored.label, now, restored=restored, comparison=comparison)
    return Sabotaged(source, comparison, proof)


def test_every_kind_is_compared(sabotaged: Sabotaged) -> None:
    """The source has something of every kind but those that need another server."""
    kinds = {kind.kind for kind in sabotaged.comparison.objects}
    assert set(KINDS) - kinds == {"subscriptions", "replication origins"}
    assert kinds <= set(KINDS), "a catalog without a kind"
    databases = {kind.database for kind in sabotaged.comparison.objects}
    assert databases == {"postgres", "second", "(cluster)"}


@pytest.mark.parametrize("wanted", NAMED, ids=lambda wanted: f"{wanted[1]} {wanted[2]}")
def test_a_difference_is_named_with_both_values(sabotaged: Sabotaged, wanted: tuple[str, ...]) -> None:
    assert wanted in sabotaged.found()


def test_a_revoked_privilege_is_named(sabotaged: Sabotaged) -> None:
    (found,) = [f for f in sabotaged.found() if f[1] == "table app.orders" and f[2] == "relacl"]
    assert "guest=SELECT*/postgres" in found[3]
    assert "guest=SELECT*/postgres" not in found[4]


def test_a_changed_view_is_shown_line_by_line(sabotaged: Sabotaged) -> None:
    (views,) = [
        k for k in sabotaged.comparison.objects if k.kind == "views and rules" and k.database == "postgres"
    ]
    (view,) = [
        d for d in views.differences if d.identity == '"_RETURN" on app.loud' and d.what == "definition"
    ]
    removed = [line for line in view.diff.splitlines() if line[:1] == "-"]
    added = [line for line in view.diff.splitlines() if line[:1] == "+"]
    assert (len(removed), len(added)) == (2, 2)  # each with its title
    assert "upper(" in removed[1]
    assert "lower(" in added[1]


def test_a_large_object_of_another_owner_or_privilege_is_counted(sabotaged: Sabotaged) -> None:
    (found,) = [f for f in sabotaged.found() if f[0] == "large objects"]
    assert found[1] == "rows of pg_largeobject_metadata"
    assert found[3].startswith("1 rows with hash ")


def test_what_was_left_alone_is_equal(sabotaged: Sabotaged) -> None:
    second = [kind for kind in sabotaged.comparison.objects if kind.database == "second"]
    assert second
    assert all(kind.equal for kind in second)
    kinds = {kind.kind for kind in sabotaged.comparison.objects if not kind.equal}
    assert not kinds & {"schemas", "publications", "statistics objects", "foreign data", "tablespaces"}


def test_the_proof_says_it_and_reads_back(sabotaged: Sabotaged) -> None:
    proof = sabotaged.proof
    assert proof.verdict == "not equal"
    assert proof.summary.startswith(
        "postgres: relations: index app.by_note: missing from the restored cluster"
    )
    archive = sabotaged.source.archive
    write_proof(archive, proof)
    assert read_proof(archive, proof.identifier) == proof


def test_no_password_is_kept(sabotaged: Sabotaged) -> None:
    """Neither a password nor its hash: of a role, or of a user mapping."""
    archive = sabotaged.source.archive
    kept = 0
    for info in archive.store.list(archive.layout.fences):
        if info.key.endswith(".zst"):
            text = b"".join(archive.open(info.key))
            assert b"do-not-keep-me" not in text
            assert b"SCRAM-SHA-256" not in text
            kept += 1
    assert kept > 0


def test_the_page_shows_one_line_a_kind_and_every_difference(
    sabotaged: Sabotaged, capsys: pytest.CaptureFixture[str]
) -> None:
    show_objects(make_console(), sabotaged.proof)
    lines = capsys.readouterr().out.splitlines()
    found = {kind: [line.split() for line in lines if line.startswith(f"{kind} ")] for kind in KINDS}
    assert {kind for kind, shown in found.items() if len(shown) > 1} == set()
    assert found["schemas"][0][-1] == "equal"
    assert found["indexes"][0][-2:] == ["1", "DIFFERENT"]
    for line in (
        "  postgres: triggers: touching on app.orders: tgenabled: O became D",
        "  postgres: extensions: plpgsql: extversion: 1.0 became 0.9",
        "  postgres: indexes: app.by_note: missing from the restored cluster",
        "  (cluster): memberships: clerk in owner_of by postgres: missing from the restored cluster",
        "      -  + 1 ",
        "      +  + 2 ",
    ):
        assert line in lines


# ---- while the source is fenced


MEANWHILE = """
ALTER TABLE app.orders ADD later int DEFAULT 7; ALTER TABLE app.lines RENAME TO lanes; DROP INDEX app.by_note;
DROP VIEW app.loud; DROP FUNCTION app.total(int); ALTER ROLE guest RENAME TO visitor; ALTER ROLE clerk CREATEROLE;
ALTER TYPE app.mood RENAME VALUE 'sad' TO 'blue'; CREATE SCHEMA new; CREATE TABLE new.t (a serial);
VACUUM; ANALYZE
"""


@pytest.mark.parametrize("major", MAJORS, ids=lambda major: f"pg{major}")
def test_definitions_that_change_while_fenced_are_no_difference(
    major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major) as made:
        made.sql(SCHEMA)
        made.backup()

        def change() -> None:
            for statement in MEANWHILE.split(";"):
                made.sql(statement)
            made.sql("SELECT nextval('app.down') FROM generate_series(1, 100)")

        meanwhile(monkeypatch, change)
        found = drill(made)
        assert [str(d) for kind in found.comparison.objects for d in kind.differences] == []
        assert sum(kind.source for kind in found.comparison.objects) > 5000
        assert all(kind.source == kind.restored for kind in found.comparison.objects)


# ---- what is not there, or cannot be read


def test_a_fence_of_an_older_version_says_that_objects_were_not_compared(shared: Source) -> None:
    found = drill(shared, replace(fence_of(shared), objects=None))
    assert found.proof.proven
    assert found.proof.objects == ()
    reason = "the fence does not say what there was of them"
    assert found.proof.not_checked == (NotChecked("postgres", OBJECTS, reason), NO_CHECKSUMS, NEVER_CHECKED)


def test_another_collation_version_is_named_and_proves_nothing_wrong(
    shared: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "collation_versions", lambda connection: {"public.german": "153.14"})
    found = drill(shared)
    assert found.proof.proven
    assert found.not_checked == {
        "order of text in indexes, collation public.german": (
            "the source's machine has version 153.14, this one none; where the cluster is restored onto such a "
            "machine, those indexes need REINDEX"
        )
    }


def test_a_role_that_may_not_read_a_catalog(shared: Source) -> None:
    """pg_user_mapping is only for superusers and pg_read_all_data."""
    shared.sql("REVOKE pg_read_all_data FROM pgproof; GRANT SELECT ON t TO pgproof")
    try:
        found = drill(shared)
    finally:
        shared.sql("GRANT pg_read_all_data TO pgproof")
    assert found.proof.proven
    catalogs = {what: why for what, why in found.not_checked.items() if what.startswith("catalog")}
    assert catalogs == {
        "catalog pg_user_mapping": "permission denied for oid, umuser, umserver; GRANT pg_read_all_data reads it"
    }


def test_damaged_objects_of_a_fence_say_nothing_of_the_backup(shared: Source) -> None:
    fence = fence_of(shared)
    assert fence.objects is not None
    path = shared.repository_path / fence.objects.key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(NotProven) as caught, restored_copy(shared, fence):
        pass
    assert caught.value.fact == f'what fence "{fence.identifier}" says of objects cannot be read'
    assert fence.objects.key in caught.value.detail
    assert caught.value.hint == "pgproof drill main takes a new fence"
    assert list((shared.root / "scratch").iterdir()) == []
    proof = make_proof(shared.archive, fence, "label", now, failure=caught.value)
    assert proof.verdict == "not exact"


def test_a_database_that_the_copy_lacks_is_one_difference(shared: Source) -> None:
    """Also when it has no table that could be missing."""
    fence = fence_of(shared)
    with restored_copy(shared, fence) as restored:
        held = HeldObjects(restored.scratch.objects).of("postgres")
        gone = replace(fence.databases[0], database="gone")
        found = recount_objects(shared.cluster.drill, gone, held, shared.dsn("gone"))
    assert [str(d) for kind in found.rows for d in kind.differences] == [
        "gone: missing from the restored cluster"
    ]
