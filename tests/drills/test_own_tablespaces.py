"""A tablespace that was created after the backup: the source's own directory is never touched by what is restored."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import list_wal
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import drill
from tests.wal.borders import SIZE, Maker

ROWS = 3000


@pytest.fixture(scope="module", params=(15, 17, 18), ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source that got a tablespace after its backup; so did one that is gone again, at the same path."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param, autovacuum="off") as made:
        for name in ("backups", "wal"):
            (made.root / name).mkdir()
        give_to_server(made.root / "wal")
        made.set(archive_command=f"cp %p {made.root}/wal/%f && {made.archive_command.removeprefix('exec ')}")
        made.write_config(
            extra=f'[clusters.main.directory]\nbackups = "{made.root}/backups"\nwal = "{made.root}/wal"\n',
        )
        program = [made.bin / "pg_basebackup", "-D", made.root / "backups" / "monday", "-d", made.dsn()]
        subprocess.run([*program, "-c", "fast"], check=True, capture_output=True)
        made.backup()
        tablespace(made, "gone", "space")
        made.sql("CREATE TABLE lost TABLESPACE gone AS SELECT 1 AS g")
        made.sql("DROP TABLE lost")
        made.sql("DROP TABLESPACE gone")
        made.sql("SELECT pg_create_restore_point('before')")
        tablespace(made, "live", "space")
        made.sql(
            f"CREATE TABLE orders TABLESPACE live AS SELECT g, 'old' v FROM generate_series(1, {ROWS}) g"
        )
        made.sql("CREATE DATABASE other TABLESPACE live")
        made.sql("CREATE TABLE moved AS SELECT g FROM generate_series(1, 100) g")
        made.sql("ALTER TABLE moved SET TABLESPACE live")
        made.sql("VACUUM FREEZE")  # nothing that reads the tables writes to them then
        made.sql("SELECT pg_create_restore_point('after')")
        made.archive_now()
        yield made


def tablespace(source: Source, name: str, directory: str) -> None:
    place = source.root / directory
    place.mkdir(exist_ok=True)
    give_to_server(place)
    source.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")


def files(source: Source) -> dict[str, str]:
    """What the live server has in its tablespace, once it wrote it out."""
    source.sql("CHECKPOINT")
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((source.root / "space").rglob("*"))
        if path.is_file()
        and path.name != "pg_internal.init"  # the live server writes it when somebody connects
    }


def oid(source: Source) -> int:
    return int(source.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'live'")[0][0])


@pytest.mark.parametrize("words", [(), ("--from", "directory")], ids=["own", "directory"])
def test_a_drill_keeps_to_itself(source: Source, words: tuple[str, ...], without_expectations: None) -> None:
    before = files(source)
    code, out, err = answer(source, "drill", "main", "--json", *words)
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("proven", 0, ""), proof["summary"]
    counted = {table["table"]: table["restored_rows"] for table in proof["tables"]}
    assert (counted["public.orders"], counted["public.moved"]) == (ROWS, 100)
    named = f'tablespace {oid(source)} was created after the backup, in "{source.root}/space": '
    assert [text.startswith(named) for text in proof["warnings"]] == [True]
    assert files(source) == before


@pytest.mark.parametrize("target", [(), ("--target-name", "after")], ids=["end", "target"])
def test_a_restored_cluster_keeps_to_itself(source: Source, target: tuple[str, ...]) -> None:
    before = files(source)
    data = source.root / f"restored-{len(target)}"
    done = answer(source, "restore", "main", "--to", str(data), "--target-action", "promote", *target)
    assert done[0] == 0, done
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (ROWS,)
        link = data / "pg_tblspc" / str(oid(source))
        assert link.resolve() == data / "tablespaces" / str(oid(source))
        connection.execute("TRUNCATE orders")
        connection.execute("CHECKPOINT")
    assert files(source) == before
    assert source.sql("SELECT count(*) FROM orders") == [(ROWS,)]
    names = [path.name for path in (data / "pg_tblspc").iterdir()]
    assert names == [str(oid(source))]  # the one that was dropped is gone


def test_nothing_is_made_for_what_comes_after_the_target(source: Source) -> None:
    data = source.root / "restored-before"
    words = ("--target-name", "before", "--target-action", "promote")
    done = answer(source, "restore", "main", "--to", str(data), *words)
    assert done[0] == 0, done
    with source.copy(data) as connection:
        found = connection.execute("SELECT spcname FROM pg_tablespace WHERE oid >= 16384").fetchall()
    assert found == []
    assert list((data / "pg_tblspc").iterdir()) == []


def test_a_standby_beside_its_source_keeps_to_itself(source: Source) -> None:
    data = source.root / "standby"
    done = answer(source, "restore", "main", "--to", str(data), "--standby")
    assert done[0] == 0, done
    before = files(source)
    standby = source.start_copy(data, "standby", wal_retrieve_retry_interval="200ms")
    try:
        link = data / "pg_tblspc" / str(oid(source))
        standby.wait(link.exists, 60, "to follow")
        standby.wait_ready()
        assert link.resolve() == data / "tablespaces" / link.name
    finally:
        standby.stop("fast")
    assert files(source) == before


def test_the_plan_names_them_and_puts_them_where_it_is_told(source: Source) -> None:
    data, place, number = source.root / "restored-mapped", source.root / "mapped", oid(source)
    words = ("restore", "main", "--to", str(data), "--json")
    code, out, _ = answer(source, *words, "--dry-run")
    steps = [step for step in json.loads(out)["steps"] if "tablespace" in step]
    assert (code, len(steps)) == (0, 1)
    assert steps[0].startswith(
        f"keep tablespace {number} in {data}/tablespaces/{number}: recovery creates it at"
    )
    assert steps[0].endswith(f'and the source has it in "{source.root}/space"')
    code, out, err = answer(source, *words, "--tablespace", f"{source.root}/elsewhere={place}")
    assert f"Recovery creates: {source.root}/space." in err
    assert (code, data.exists()) == (43, False)
    before = files(source)
    done = answer(source, *words, "--tablespace", f"{source.root}/space={place}")
    assert done[0] == 0, done
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (ROWS,)
        assert (data / "pg_tblspc" / str(number)).resolve() == place
        connection.execute("TRUNCATE orders")
        connection.execute("CHECKPOINT")
    assert files(source) == before
    assert not (data / "tablespaces" / str(number)).exists()


def test_the_path_need_not_exist_on_this_machine(source: Source) -> None:
    space, data = source.root / "space", source.root / "restored-away"
    done = answer(source, "restore", "main", "--to", str(data))
    assert done[0] == 0, done
    with source.away():
        space.rename(source.root / "aside")
        try:
            with source.copy(data) as connection:
                assert connection.execute("SELECT count(*) FROM orders").fetchone() == (ROWS,)
        finally:
            (source.root / "aside").rename(space)
    assert not space.is_symlink()


def test_the_live_server_keeps_what_it_commits_during_a_drill(source: Source) -> None:
    """As it was found: the copy wrote its older pages over committed rows that were on the disk already."""

    def pay(database: str, dsn: str) -> None:
        if database == "postgres":  # the copy has replayed, and has written nothing yet
            source.sql("UPDATE orders SET v = 'paid' WHERE g <= 1000")
            source.sql("VACUUM orders")
            source.sql("CHECKPOINT")

    found = drill(source, on_database=pay)
    assert found.proof.proven, found.proof.summary
    source.restart()
    query = "SELECT v, count(*), count(DISTINCT g) FROM orders GROUP BY v ORDER BY v"
    assert source.sql(query) == [("old", ROWS - 1000, ROWS - 1000), ("paid", 1000, 1000)]


def test_a_standby_waits_for_the_other_half_of_a_record() -> None:
    """The record begins in a segment whose next one is not archived yet: it is replayed later, and contained."""
    with running_source(17, autovacuum="off", checkpoint_timeout="1h", wal_keep_size="1GB") as source:
        source.backup()
        made = Maker(source).at(40, border=SIZE)
        source.sql("CREATE TABLE t AS SELECT 1 AS g")
        source.archive_now()
        number, aside = made.segment.number, source.root / "later"
        later = [source.stored(s.name) for s in archived(source) if s.number > number]
        aside.mkdir()
        for path in later:
            path.rename(aside / path.name)
        data = source.root / "standby"
        done = answer(source, "restore", "main", "--to", str(data), "--standby")
        assert done[0] == 0, done
        standby = source.start_copy(data, "standby", wal_retrieve_retry_interval="200ms")
        try:
            standby.wait_ready()
            standby.wait(lambda: f"at {made.record.lsn}: " in standby.log.read_text(), 60, "to wait")
            for path in later:
                (aside / path.name).rename(path)
            place = data / "tablespaces" / str(made.record.oid)
            standby.wait(lambda: place.is_dir() and any(place.iterdir()), 60, "to go on")
            assert (data / "pg_tblspc" / place.name).resolve() == place
        finally:
            standby.stop("fast")


def archived(source: Source) -> list[WalSegment]:
    return [
        WalSegment(1, number, SIZE) for number in sorted(list_wal(source.archive, SIZE).numbers.get(1, ()))
    ]
