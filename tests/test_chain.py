"""The main job on every supported major version: back up, prove, lose, restore; the engine alone."""

from __future__ import annotations

from pgproof.backups.catalog import read_catalog
from pgproof.restore.plan import RestoreRequest
from pgproof.restore.procedure import make_plan, run_plan
from pgproof.restore.target import RecoveryTarget
from pgproof.validation.as_restored import restore_as_user
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import make_proof, restore_scratch
from pgproof.validation.evidence import store_evidence
from pgproof.validation.fences.fence import write_fence
from pgproof.validation.fences.fencing import take_fence
from tests.servers.postgres import Source, now
from tests.validation.writers import TABLES, writers

TYPES = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE plain (id int PRIMARY KEY, j jsonb, t timestamptz, n numeric, b bytea, s text, m mood, a int[]);
INSERT INTO plain SELECT g, jsonb_build_object('ü', g), now(), g / 7.0, sha256(g::text::bytea), 'naïve ☂ ' || g,
       'sad', ARRAY[g, NULL] FROM generate_series(1, 5000) g;
CREATE TABLE "Odd ""n"" ame" ("Select" text, "a b" money);
INSERT INTO "Odd ""n"" ame" VALUES ('x', '1.50'), ('x', '1.50'), (NULL, NULL);
CREATE TABLE parted (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (1000);
INSERT INTO parted SELECT g, 'p' FROM generate_series(0, 999) g;
CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM parted;
CREATE UNLOGGED TABLE lost (a int);
INSERT INTO lost VALUES (1);
SELECT lo_from_bytea(0, 'large');
"""


def test_backup_drill_and_restore(any_source: Source) -> None:
    source = any_source
    source.write_config(cluster="drill.as_restored = 1")
    source.sql(TYPES + TABLES)
    source.sql("CREATE DATABASE second")
    source.sql("CREATE TABLE other AS SELECT g FROM generate_series(1, 100) g", database="second")
    with writers(source, connections=2) as load:
        record = source.backup()
        archive = source.archive
        with load.at_full_speed():
            fence = take_fence(source.cluster, lambda system: archive, now)
        write_fence(archive, fence)
        tried = restore_as_user(source.config, source.cluster, archive, fence, record.label, now)
        restored = restore_scratch(source.cluster, archive, fence)
        comparison = compare_restored(source.cluster, fence, restored)
    restored.scratch.remove()

    assert (tried.findings, tried.not_checked, tried.measured) == ((), (), True)
    assert min(restored.phases[name] for name in ("extract", "fetch", "start", "replay", "count")) > 0
    assert restored.software["restored"].startswith(f"PostgreSQL {source.major}.")
    assert comparison.equal, comparison.summary()
    names = {(table.database, table.table) for table in comparison.tables}
    assert names == {
        ("postgres", "public.plain"),
        ("postgres", 'public.Odd "n" ame'),
        ("postgres", "public.parted_low"),
        ("postgres", "public.parted_high"),
        ("postgres", "public.sums"),
        ("postgres", "public.accounts"),
        ("postgres", "public.history"),
        ("postgres", "public.queue"),
        ("postgres", "(large objects)"),
        ("second", "public.other"),
    }
    assert [(item.what, item.reason) for item in fence.not_checked] == [
        ("public.lost", "unlogged: it comes back empty after recovery, without its 8,192 bytes")
    ]
    parts = {"restored": restored, "comparison": comparison, "as_restored": tried}
    proof = make_proof(archive, fence, record.label, now, **parts)
    assert (proof.proven, proof.rto_way) == (True, "as a user restores")
    store_evidence(archive, proof, None)
    assert read_catalog(archive).entry(record.label).state == "proven"

    row = source.sql("SELECT clock_timestamp(), count(*), sum(n) FROM plain")[0]
    source.sql("SELECT pg_sleep(0.05)")
    source.sql("DROP TABLE plain")
    source.archive_now()
    target = RecoveryTarget.build(time=row[0].isoformat())
    request = RestoreRequest(source.root / "restored", target, target_action="promote")
    plan = make_plan(source.config, source.cluster, archive, request, now())
    run_plan(source.config_path, source.cluster, archive, plan, now)
    with source.copy(source.root / "restored") as connection:
        assert connection.execute("SELECT count(*), sum(n) FROM plain").fetchone() == row[1:]
        assert connection.execute("SHOW archive_mode").fetchone() == ("off",)
