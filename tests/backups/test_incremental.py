"""Incremental backups: a chain restores to the source's rows, and a chain with a hole is never begun."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from pgproof.backups.catalog import BackupEntry, Catalog, read_catalog
from pgproof.backups.parent import choose_basis
from pgproof.backups.record import BackupRecord
from pgproof.config import ClusterConfig
from pgproof.errors import ServerNotReady
from pgproof.postgres.programs import account, run
from pgproof.restore.execute import place_files
from pgproof.restore.locate import WalReader
from pgproof.restore.plan import RestoreRequest, plan_restore
from pgproof.restore.visibility import STEP
from pgproof.wal.archive import list_wal
from tests.drills.damage import answer, assert_refused
from tests.retention.archives import entry, store_proof
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, now, running_source
from tests.wal.listings import source as facts_of
from tests.wal.test_receive_failover import sql, standby_of


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
    code, out, err = answer(
        source, "restore", "main", "--to", str(data), "--tablespace", f"{old}={new}", "--json"
    )
    assert code == 0, err
    plan = json.loads(out)
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
    assert_refused(
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


def test_rows_that_were_deleted_stay_so(summarizing: Source) -> None:
    """The block of a visibility map whose bit is cleared is in no WAL summary: the map of a chain was the parent's.

    An index-only scan of the restored cluster returned what was deleted, and its drill was NOT SOUND.
    """
    source = summarizing
    source.set(autovacuum="off")
    place = source.root / "shelf"
    place.mkdir()
    give_to_server(place)
    source.sql(f"CREATE TABLESPACE shelf LOCATION '{place}'")
    for table, where in (("t", "pg_default"), ("u", "shelf")):
        source.sql(
            f"CREATE TABLE {table} (g int PRIMARY KEY USING INDEX TABLESPACE {where}) TABLESPACE {where}"
        )
        source.sql(f"INSERT INTO {table} SELECT generate_series(1, 5000)")
        source.sql(f"VACUUM (FREEZE) {table}")
    source.backup()
    for table in ("t", "u"):
        source.sql(f"DELETE FROM {table} WHERE g <= 4000")
    time.sleep(1.05)  # a label has seconds
    assert source.backup(incremental=True).kind == "incremental"
    source.archive_now()

    data = source.root / "restored"
    options = ["--tablespace", f"{place}={source.root}/new-shelf"]
    code, out, err = answer(source, "restore", "main", "--to", str(data), *options, "--json")
    assert code == 0, err
    assert STEP in json.loads(out)["steps"]
    with source.copy(data) as connection:
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        for table in ("t", "u"):
            query = f"SELECT count(*) FROM {table} WHERE g > 0"
            plan = str(connection.execute(f"EXPLAIN {query}".encode()).fetchall())
            assert "Index Only Scan" in plan
            assert connection.execute(query.encode()).fetchone() == (1000,)

    code, out, err = answer(source, "drill", "main", "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "proven"), out + err


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
    code, out, _ = answer(source, "backup", "main", "--incremental")
    said = "a full backup was taken instead of an incremental one: there is no backup to build on"
    assert code == 0
    assert f"warning: {said}" in " ".join(out.split())


@pytest.fixture(scope="module")
def unchecked() -> Iterator[Source]:
    """A source without data checksums that has a full backup and one incremental backup."""
    with running_source(17, summarize_wal="on") as source:
        source.sql("CREATE TABLE t AS SELECT g, repeat('x', 200) AS s FROM generate_series(1, 2000) g")
        source.backup()
        yield source


def no_reader(major: int) -> WalReader:
    raise AssertionError("the end of the archive needs no record of WAL")


def switch_checksums(source: Source, to: str) -> None:
    with source.away():
        command = [source.bin / "pg_checksums", f"--{to}", "-D", source.data]
        done = run(command, timeout=60, owner=account(None))
    assert done.returncode == 0 or "already" in done.stderr


@contextmanager
def said_otherwise(source: Source, record: BackupRecord, **values: bool) -> Iterator[None]:
    """A record that says something else for the time of a block."""
    key = source.archive.layout.backup_record(record.label)
    source.archive.write_json(key, replace(record, **values).as_dict(), create=False)
    yield
    source.archive.write_json(key, record.as_dict(), create=False)


def test_chain_across_enabled_checksums(unchecked: Source) -> None:
    """Built on the old full backup, the restored cluster refuses every page that has not changed since."""
    source = unchecked
    full = read_catalog(source.archive).newest.record
    switch_checksums(source, "enable")
    with said_otherwise(source, full, data_checksums=True):
        broken = source.backup(incremental=True)  # as it was made before this was looked at
    assert (broken.parent, broken.data_checksums) == (full.label, True)

    fault = f"it builds on {full.label}, from before data checksums were enabled"
    code, out, _ = answer(source, "list", "main", "--json")
    assert [(b["state"], b["reason"]) for b in json.loads(out)["backups"]] == [
        ("complete", ""),
        ("failed", f"its chain failed: {fault}"),
    ]
    code, out, _ = answer(source, "verify", "main", "--json")
    assert (code, [backup["ok"] for backup in json.loads(out)["backups"]]) == (1, [True, False])
    data = source.root / "restored"
    assert_refused(
        source,
        ["restore", "main", "--to", str(data), "--backup", broken.label],
        41,
        f'backup "{broken.label}" cannot be restored\n'
        f"DETAIL: Reason: {fault}. The restored server would refuse every page that was not changed since.\n"
        "HINT: pgproof backup main begins a new chain; when this one is all that is left: "
        'docs/runbooks/restore-by-hand.md, "An incremental backup"',
    )
    code, out, _ = answer(source, "restore", "main", "--to", str(data), "--dry-run", "--json")
    assert (code, json.loads(out)["backup"]) == (0, full.label)  # and the WAL since then

    # what pg_combinebackup says of it, with exit code 0
    request = RestoreRequest(source.root / "by hand", label=full.label)
    plan = plan_restore(request, read_catalog(source.archive), partial(list_wal, source.archive), no_reader)
    combined = place_files(
        replace(plan, chain=(full, broken)), source.archive, source.bin, owner=account(None)
    )
    said = "pg_combinebackup: warning: only some backups have checksums enabled; pg_combinebackup: hint: "
    assert [warning[: len(said)] for warning in combined.warnings] == [said]

    following = source.backup(incremental=True)
    assert (following.parent, following.kind) == (None, "full")
    said = f"{broken.label}, the newest one, cannot be built on: its chain failed"
    assert following.warnings == (f"a full backup was taken instead of an incremental one: {said}",)
    assert source.backup(incremental=True).parent == following.label


def test_checksums_that_were_switched_off_do_no_harm(unchecked: Source) -> None:
    source = unchecked
    switch_checksums(source, "enable")
    full = source.backup()
    switch_checksums(source, "disable")
    with said_otherwise(source, full, data_checksums=False):
        newest = source.backup(incremental=True)
    data = source.root / "combined"
    code, out, _ = answer(source, "restore", "main", "--to", str(data), "--json")
    assert (code, json.loads(out)["backup"]) == (0, newest.label)
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (2000,)


def test_summaries_that_do_not_reach_back(source: Source) -> None:
    """A spell of wal_level = minimal ends the summaries: the server refuses the parent, and a full one is taken."""
    source.set(summarize_wal="on")
    full = source.backup()
    source.set(summarize_wal="off", wal_level="minimal", archive_mode="off", max_wal_senders="0")
    source.sql("CREATE TABLE t AS SELECT 1 AS a")
    source.set(summarize_wal="on", wal_level="replica", archive_mode="on", max_wal_senders="10")
    following = source.backup(incremental=True)
    (said,) = following.warnings
    assert following.parent is None
    assert f"the server does not build on {full.label}: " in said
    assert "summar" in said


def test_server_that_is_too_old() -> None:
    facts = replace(facts_of(5), version=160009)
    with pytest.raises(ServerNotReady) as caught:
        choose_basis(ClusterConfig(name="shop", dsn=""), facts, Catalog(()))
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
    doubtful = entry("doubtful", hours[4], 4, parent="failed")
    whole, hole = Catalog((first,)), Catalog((broken,))
    assert (whole.is_whole("first"), hole.is_whole("broken"), hole.is_whole("unknown")) == (
        True,
        False,
        False,
    )

    def basis(*entries: BackupEntry) -> tuple[str | None, str]:
        found = choose_basis(cluster, facts, Catalog(entries))
        return found.parent.label if found.parent else None, found.why_full

    assert basis(first, failed, other, broken, doubtful) == ("first", "")
    why = "the newest one, cannot be built on: "
    assert basis(failed, other) == (None, f"other timeline, {why}its timeline: 2, the server's: 1")
    assert basis(broken) == (None, f"broken, {why}a backup that it builds on is missing")
    assert basis(failed, doubtful) == (None, f"doubtful, {why}it builds on failed, whose last drill failed")
    facts = replace(facts, segment_size=16 << 20, settings={**facts.settings, "data_checksums": "on"})
    sizes = "its WAL segment size: 1048576, the server's: 16777216"
    assert basis(first) == (None, f"first, {why}{sizes}; its data checksums: off, the server's: on")


def test_a_full_backup_that_failed_its_drill_carries_no_chain(summarizing: Source, tmp_path: Path) -> None:
    """Neither a new backup builds on it, nor does a restore take what was built on it before a good older one."""
    source = summarizing
    source.sql("CREATE TABLE t (g int)")
    good = source.backup()
    time.sleep(1.05)
    bad = source.backup()
    built = source.backup(incremental=True)
    assert built.parent == bad.label
    store_proof(source.archive, bad.label, now(), "not equal")
    words = ["restore", "main", "--to", str(tmp_path / "r"), "--dry-run", "--json"]

    code, out, err = answer(source, *words)
    assert (code, json.loads(out)["backup"]) == (0, good.label), err
    time.sleep(1.05)
    following = source.backup(incremental=True)
    assert following.parent == good.label
    store_proof(source.archive, built.label, now(), "proven")
    code, out, err = answer(source, *words)
    assert (code, json.loads(out)["backup"]) == (0, built.label), err


@pytest.mark.parametrize("how", ["switched off and on", "kept too short"])
def test_summaries_that_are_gone(source: Source, how: str) -> None:
    """A full backup is taken and says why, and the next one is incremental again."""
    source.set(summarize_wal="on")
    full = source.backup()
    if how == "kept too short":  # as the server finds them when wal_summary_keep_time has run out
        query = "SELECT count(*) FROM pg_available_wal_summaries() WHERE end_lsn > %s::pg_lsn"
        source.sql("CREATE TABLE u AS SELECT 1 AS a")
        source.sql("CHECKPOINT")
        source.server.wait(lambda: source.sql(query, str(full.stop_lsn))[0][0] > 0, 60, "to summarize")
        for path in (source.data / "pg_wal" / "summaries").iterdir():
            os.utime(path, (0, 0))
        source.set(wal_summary_keep_time="1min")
        source.server.wait(lambda: old_summaries(source) == 0, 60, "to remove them")
    else:
        source.set(summarize_wal="off")
        source.sql("CREATE TABLE u AS SELECT 1 AS a")
        source.sql("CHECKPOINT")
        for path in (source.data / "pg_wal" / "summaries").iterdir():
            path.unlink()
        source.archive_now()
        source.set(summarize_wal="on")
    time.sleep(1)
    following = source.backup(incremental=True)
    (said,) = following.warnings
    assert following.parent is None
    assert f"the server does not build on {full.label}: WAL summaries are required" in said
    time.sleep(1)
    assert source.backup(incremental=True).parent == following.label


def old_summaries(source: Source) -> int:
    source.sql("CHECKPOINT")  # they are looked at when the redo point has moved
    paths = (source.data / "pg_wal" / "summaries").iterdir()
    return sum(path.stat().st_mtime < 1 for path in paths if path.exists())


def test_an_idle_standby_that_never_summarizes(source: Source) -> None:
    """Its summaries end at restartpoints, which an idle primary does not bring: after a time a full one is taken."""
    source.set(summarize_wal="on")
    source.backup()
    with standby_of(source) as standby:
        sql(standby, "ALTER SYSTEM SET summarize_wal = on")
        sql(standby, "SELECT pg_reload_conf()")
        log = source.root / "log-standby"

        def switch() -> None:
            """The primary finishes the segment that the full backup waits for."""
            standby.wait(
                lambda: "aborting backup due to backend exiting" in log.read_text(), 60, "to give up"
            )
            for _ in range(5):
                time.sleep(1)
                source.archive_now()

        source.write_config(
            dsn=f"host={standby.socket} user=pgproof dbname=postgres",
            cluster='backup.archive_timeout = "11s"',
        )
        with ThreadPoolExecutor(1) as pool:
            switched = pool.submit(switch)
            record = source.backup(incremental=True)
            switched.result()
    (said,) = record.warnings
    assert record.parent is None
    assert "the server does not build on" in said and "still waiting for WAL summarization through" in said
