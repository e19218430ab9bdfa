"""Incremental backups: a chain restores to the source's rows, and a chain with a hole is never begun."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from pgproof.backups.base_backup import choose_parent
from pgproof.backups.catalog import Catalog, read_catalog
from pgproof.config import ClusterConfig
from pgproof.errors import NoBackup, ServerNotReady
from tests.drills.damage import answer, assert_command_refused, assert_refused
from tests.retention.archives import entry
from tests.servers.postgres import Source, installed, now, running_source
from tests.wal.listings import source as facts_of


@pytest.fixture(params=[17, 18], ids=["pg17", "pg18"])
def summarizing(request: pytest.FixtureRequest) -> Iterator[Source]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param, summarize_wal="on") as source:
        yield source


def rows(source: Source) -> object:
    return source.sql("SELECT count(*), sum(hashtext(t::text)::bigint) FROM t")


def test_chain(summarizing: Source) -> None:
    source = summarizing
    old, new = source.root / "old", source.root / "new"
    old.mkdir()
    source.sql(f"CREATE TABLESPACE shelf LOCATION '{old}'")
    source.sql("CREATE TABLE t (g int, s text) TABLESPACE shelf")
    source.sql("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g")
    full = source.backup()
    chain = [full]
    for number in (1, 2):
        source.sql("UPDATE t SET s = 'changed' WHERE g %% 1000 = %s", number)
        chain.append(source.backup(incremental=True))
        time.sleep(1.05 * (number == 1))  # a label has seconds
    catalog = read_catalog(source.archive)
    assert catalog.chain(chain[2].label) == tuple(chain)
    assert [record.parent for record in chain] == [None, full.label, chain[1].label]
    assert [record.kind for record in chain] == ["full", "incremental", "incremental"]
    assert chain[1].raw_size < full.raw_size / 2
    expected = rows(source)

    data = source.root / "restored"
    done = source.run("restore", "main", "--to", str(data), "--tablespace", f"{old}={new}", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["backup"] == chain[2].label
    assert "combine 3 backups with pg_combinebackup" in plan["steps"]
    raw = [record.raw_size + sum(volume.raw_size for volume in record.volumes) for record in chain]
    assert plan["room"] == sum(raw)  # each part, and then the whole
    assert not (data / ".pgproof-chain").exists()
    with source.copy(data) as connection:
        query = b"SELECT count(*), sum(hashtext(t::text)::bigint) FROM t"
        assert connection.execute(query).fetchall() == expected
        location = connection.execute(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'shelf'"
        ).fetchone()
        assert location == (str(new),)

    archive = source.archive
    (source.repository_path / archive.layout.backup_record(chain[1].label)).unlink()
    data = source.root / "again"
    options = ["restore", "main", "--to", str(data), "--tablespace", f"{old}={source.root}/again-shelf"]
    assert_command_refused(
        source,
        [*options, "--backup", chain[2].label],
        41,
        f'backup "{chain[2].label}" cannot be restored\n'
        f'DETAIL: It builds on "{chain[1].label}", which does not exist.\n'
        "HINT: pgproof list NAME shows the others",
    )
    assert not data.exists()
    code, out, _ = answer(source, *options, "--dry-run", "--json")
    assert (code, json.loads(out)["backup"]) == (0, full.label)  # another one serves
    following = source.backup(incremental=True)
    assert following.parent == full.label  # and the next builds on what is whole


def test_server_that_does_not_summarize(source: Source) -> None:
    assert_refused(
        source,
        ["backup", "main", "--incremental"],
        22,
        'cluster "main" does not summarize WAL\n'
        "DETAIL: Incremental backups are made from WAL summaries.\n"
        "HINT: psql -c 'ALTER SYSTEM SET summarize_wal = on' -c 'SELECT pg_reload_conf()'",
    )
    source.set(summarize_wal="on")
    assert_refused(
        source,
        ["backup", "main", "--incremental"],
        41,
        'cluster "main" has no backup to build an incremental one on\n'
        "DETAIL: None is on timeline 1 of PostgreSQL 17.\n"
        "HINT: pgproof backup main",
    )


def test_server_that_is_too_old() -> None:
    facts = replace(facts_of(5), version=160009)
    with pytest.raises(ServerNotReady) as caught:
        choose_parent(ClusterConfig(name="shop", dsn=""), facts, Catalog(()))
    assert str(caught.value) == (
        'cluster "shop" cannot make incremental backups\n'
        "DETAIL: It is PostgreSQL 16; they need 17.\n"
        "HINT: pgproof backup shop"
    )


def test_parent_is_the_newest_that_serves() -> None:
    facts = replace(facts_of(9), settings={"summarize_wal": "on"})
    cluster = ClusterConfig(name="shop", dsn="")
    hours = [now() + timedelta(hours=number) for number in range(5)]
    first = entry("first", hours[0], 1)
    failed = entry("failed", hours[1], 2, failed="2 tables differ")
    other = entry("other timeline", hours[2], 3, timeline=2)
    broken = entry("broken", hours[3], 4, parent="lost")
    whole, hole = Catalog((first,)), Catalog((broken,))
    assert (whole.is_whole("first"), hole.is_whole("broken"), hole.is_whole("unknown")) == (
        True,
        False,
        False,
    )
    chosen = choose_parent(cluster, facts, Catalog((first, failed, other, broken)))
    assert chosen.label == "first"
    with pytest.raises(NoBackup):
        choose_parent(cluster, facts, Catalog((failed, other, broken)))
