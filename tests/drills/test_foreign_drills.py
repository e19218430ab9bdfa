"""Drills of backups that other tools took: the real tools, proven, and broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.validation import replay
from pgproof.validation.fences.fence import NEVER_CHECKED
from pgproof.validation.origins import foreign
from tests.drills.damage import answer, flip_bit, truncate
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, running_source
from tests.servers.tools import BarmanTool, DirectoryTool, PgBackRestTool, missing

NOTHING_ARCHIVED = "false"  # until the tool's command is set


@pytest.fixture
def foreign_source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source whose WAL never comes to our repository; unless told PostgreSQL 15, as pgBackRest 2.45 ends there."""
    major = getattr(request, "param", 15)
    if reason := installed(major):
        pytest.skip(reason)
    with running_source(major, archive_command=NOTHING_ARCHIVED) as source:
        fill(source)
        yield source


def fill(source: Source) -> None:
    source.sql("CREATE TABLE t AS SELECT g, repeat('x', 50) AS v FROM generate_series(1, 2000) g")


def add_tablespace(source: Source) -> Path:
    place = source.root / "space"
    place.mkdir()
    source.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    source.sql("CREATE TABLE in_space TABLESPACE fast AS SELECT g FROM generate_series(1, 500) g")
    return place


def add_later_tablespace(source: Source) -> Path:
    """One that no backup has: recovery creates it, and must not in the place of the live server."""
    place = source.root / "later"
    place.mkdir()
    give_to_server(place)
    source.sql(f"CREATE TABLESPACE later LOCATION '{place}'")
    source.sql("CREATE TABLE in_later TABLESPACE later AS SELECT g FROM generate_series(1, 300) g")
    source.sql("VACUUM FREEZE in_later")
    source.sql("CHECKPOINT")
    return place


def contents(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def drilled(source: Source, kind: str, *words: str) -> tuple[int, dict[str, Any]]:
    code, out, err = answer(source, "drill", "main", "--from", kind, "--json", *words)
    assert err == "", err
    return code, json.loads(out)


def assert_proven(source: Source, kind: str, label: str, *words: str) -> dict[str, Any]:
    code, proof = drilled(source, kind, *words)
    assert (proof["verdict"], code) == ("proven", 0), proof["summary"]
    assert proof["backup"] == label
    assert proof["origin"]["kind"] == kind
    assert proof["wal"][2] >= 1
    assert proof["cuts"]["postgres"]
    stored = source.archive.read_json(proof["key"])
    assert {**stored, "key": proof["key"]} == proof
    assert list((source.root / "scratch").iterdir()) == []
    return proof


def assert_refused(source: Source, words: list[str], code: int, message: str) -> None:
    """The drill ends with this exit code and this whole message, and leaves nothing in the scratch directory."""
    exit_code, out, err = answer(source, "drill", "main", *words, "--json")
    assert err == f"pgproof: {message}\n"
    assert (exit_code, json.loads(out)["exit_code"]) == (code, code)
    scratch = source.root / "scratch"
    assert not scratch.exists() or list(scratch.iterdir()) == []


needs_pgbackrest = pytest.mark.skipif(bool(missing("pgbackrest")), reason=missing("pgbackrest") or "-")
needs_barman = pytest.mark.skipif(bool(missing("barman", "rsync")), reason=missing("barman", "rsync") or "-")


# ---- pgBackRest


@needs_pgbackrest
def test_a_backup_of_pgbackrest_is_proven(foreign_source: Source) -> None:
    source = foreign_source
    place = add_tablespace(source)
    before = sorted(str(path) for path in place.rglob("*"))
    tool = PgBackRestTool(source)
    full = tool.backup()
    source.sql("INSERT INTO t SELECT g, 'later' FROM generate_series(1, 100) g")
    diff = tool.backup("diff")
    source.sql("INSERT INTO t SELECT g, 'latest' FROM generate_series(1, 100) g")
    later = add_later_tablespace(source)
    live = contents(later)
    proof = assert_proven(source, "pgbackrest", diff)
    assert proof["origin"] == {
        "kind": "pgbackrest",
        "title": 'pgBackRest "shop"',
        "version": tool.run("pgbackrest", "version").strip(),
    }
    counted = {table["table"]: table["restored_rows"] for table in proof["tables"]}
    assert counted["public.t"] == 2200
    assert (counted["public.in_space"], counted["public.in_later"]) == (500, 300)
    assert contents(later) == live
    reasons = {item["what"]: item["reason"] for item in proof["not_checked"]}
    assert reasons["files that no table reads"] == "pgbackrest kept no backup manifest"
    assert_proven(source, "pgbackrest", full, "--oldest")
    assert sorted(str(path) for path in place.rglob("*")) == before
    assert read_catalog(source.archive).entries == ()


@needs_pgbackrest
def test_pgbackrest_finds_a_damaged_file_of_its_own(foreign_source: Source) -> None:
    source = foreign_source
    tool = PgBackRestTool(source)
    label = tool.backup()
    (node,) = source.sql("SELECT pg_relation_filepath('t')")
    flip_bit(tool.home / "repository" / "backup" / "shop" / label / "pg_data" / f"{node[0]}.zst")
    code, proof = drilled(source, "pgbackrest")
    assert (code, proof["verdict"]) == (1, "not recovered")
    assert proof["summary"].startswith(f'backup "{label}" of pgBackRest "shop" is damaged DETAIL: ')
    assert (proof["fence"], proof["tables"], proof["cuts"]) == ("", [], {})
    assert list((source.root / "scratch").iterdir()) == []


@needs_pgbackrest
def test_wal_that_pgbackrest_lost_is_a_gap(foreign_source: Source) -> None:
    source = foreign_source
    tool = PgBackRestTool(source)
    label = tool.backup()
    source.sql("INSERT INTO t VALUES (0, 'in the gap')")
    name = source.archive_now()
    source.archive_now()
    tool.wal_file(name).unlink()
    code, proof = drilled(source, "pgbackrest")
    assert (code, proof["verdict"]) == (1, "not recovered")
    assert proof["summary"].startswith(
        f'WAL segment "{name}" is missing from the archive of pgBackRest "shop" DETAIL: It holds LSN '
    )
    assert f"needed from backup {label} to lsn" in proof["summary"]


@needs_pgbackrest
def test_wal_that_is_damaged_in_pgbackrest(foreign_source: Source) -> None:
    """It notices a lost end, and gives out a segment with a flipped bit, which replay then notices."""
    source = foreign_source
    tool = PgBackRestTool(source)
    tool.backup()
    source.sql("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 500) g")
    path = tool.wal_file(source.archive_now())
    content = path.read_bytes()
    truncate(path)
    code, proof = drilled(source, "pgbackrest")
    assert (code, proof["verdict"]) == (1, "not recovered")
    assert proof["summary"].startswith(
        f'WAL file "{path.name[:24]}" in the archive of pgBackRest "shop" is damaged DETAIL: '
    )
    path.write_bytes(content)
    flip_bit(path, len(content) // 3)
    code, proof = drilled(source, "pgbackrest")
    assert (code, proof["verdict"]) == (1, "not recovered")


@needs_pgbackrest
def test_a_cluster_that_pgbackrest_does_not_know(foreign_source: Source) -> None:
    source = foreign_source
    tool = PgBackRestTool(source)
    refused = 'pgBackRest "shop" has no backup that can be restored\nDETAIL: pgBackRest says: '
    assert_refused(source, ["--from", "pgbackrest"], 41, f"{refused}no valid backups.")
    source.write_config(extra=tool.sections().replace("shop", "shoo"))
    code, _, err = answer(source, "drill", "main", "--from", "pgbackrest")
    assert (code, err.splitlines()[0]) == (41, f"pgproof: {refused.splitlines()[0].replace('shop', 'shoo')}")


@needs_pgbackrest
def test_pgbackrest_that_cannot_be_asked(foreign_source: Source, tmp_path: Path) -> None:
    source = foreign_source
    source.write_config(
        extra='[clusters.main.pgbackrest]\nname = "shop"\nconfig = "/nowhere/pgbackrest.conf"\n'
    )
    code, out, err = answer(source, "drill", "main", "--from", "pgbackrest")
    assert (code, out) == (47, "")
    assert err.startswith(
        "pgproof: pgbackrest could not list its backups\nDETAIL: It ended with exit code 55: "
    )


@needs_pgbackrest
def test_another_cluster_of_pgbackrest_is_refused(foreign_source: Source) -> None:
    tool = PgBackRestTool(foreign_source)
    label = tool.backup()
    with running_source(15) as other:
        other.write_config(extra=tool.sections())
        system, theirs = (
            s.sql("SELECT system_identifier::text FROM pg_control_system()")[0][0]
            for s in (foreign_source, other)
        )
        assert_refused(
            other,
            ["--from", "pgbackrest"],
            24,
            f'backup "{label}" of pgBackRest "shop" belongs to another cluster\n'
            f"DETAIL: Its system identifier is {system}; the server's is {theirs}.\n"
            "HINT: name the right one in the section of pgbackrest in pgproof.toml",
        )


# ---- Barman


@needs_barman
def test_a_backup_of_barman_is_proven(foreign_source: Source) -> None:
    source = foreign_source
    place = add_tablespace(source)
    before = sorted(str(path) for path in place.rglob("*"))
    tool = BarmanTool(source)
    label = tool.backup()
    source.sql("INSERT INTO t SELECT g, 'later' FROM generate_series(1, 100) g")
    later = add_later_tablespace(source)
    live = contents(later)
    proof = assert_proven(source, "barman", label)
    assert proof["origin"]["title"] == 'Barman "shop"'
    counted = {table["table"]: table["restored_rows"] for table in proof["tables"]}
    assert (counted["public.t"], counted["public.in_later"]) == (2100, 300)
    assert contents(later) == live
    assert [item["what"] for item in proof["not_checked"]] == [
        "recovery targets",
        "check checksums",
        NEVER_CHECKED.what,
    ]
    assert sorted(str(path) for path in place.rglob("*")) == before


@needs_barman
def test_a_damaged_file_in_barman_is_found_by_the_manifest(foreign_source: Source) -> None:
    """Barman copies it without a word."""
    source = foreign_source
    tool = BarmanTool(source)
    label = tool.backup()
    (node,) = source.sql("SELECT pg_relation_filepath('t')")
    flip_bit(tool.home / "barman" / "shop" / "base" / label / "data" / node[0])
    code, proof = drilled(source, "barman")
    assert (code, proof["verdict"]) == (1, "not recovered")
    assert (
        "are not those of the backup manifest DETAIL: pg_verifybackup: error: checksum mismatch"
        in proof["summary"]
    )
    assert f'"{node[0]}"' in proof["summary"]


@needs_barman
def test_wal_that_barman_lost_is_a_gap(foreign_source: Source) -> None:
    source = foreign_source
    tool = BarmanTool(source)
    tool.backup()
    name = source.archive_now()
    source.archive_now()
    tool.barman("archive-wal", "shop")
    tool.wal_file(name).unlink()
    code, proof = drilled(source, "barman")
    assert (code, proof["verdict"]) == (1, "not recovered")
    assert proof["summary"].startswith(
        f'WAL segment "{name}" is missing from the archive of Barman "shop" DETAIL: '
    )


# ---- a directory


@pytest.mark.parametrize(
    ("foreign_source", "compress", "options"),
    [
        (17, "", ("-X", "none")),
        (17, ".zst", ("-F", "tar", "-z", "-X", "stream")),
        (18, ".gz", ("-F", "tar", "-X", "none")),
        (15, ".lz4", ("-X", "stream")),
    ],
    indirect=["foreign_source"],
    ids=["plain", "tar.gz with WAL", "tar", "plain with WAL"],
)
def test_a_backup_in_a_directory_is_proven(
    foreign_source: Source, compress: str, options: tuple[str, ...]
) -> None:
    source = foreign_source
    place = add_tablespace(source)
    before = sorted(str(path) for path in place.rglob("*"))
    tool = DirectoryTool(source, compress)
    mapping = () if "tar" in options else ("-T", f"{place}={tool.home}/mapped")
    label = tool.backup("monday", *options, *mapping)
    source.sql("INSERT INTO t SELECT g, 'later' FROM generate_series(1, 100) g")
    proof = assert_proven(source, "directory", label)
    assert {t["table"]: t["restored_rows"] for t in proof["tables"]}["public.in_space"] == 500
    assert sorted(str(path) for path in place.rglob("*")) == before


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_a_row_changed_in_the_copy_is_caught(foreign_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one byte in a heap page, as the copy itself is read only."""
    source = foreign_source
    tool = DirectoryTool(source)
    tool.backup("monday", "-X", "none")
    (node,) = source.sql("SELECT pg_relation_filepath('t')")
    original = foreign.isolate

    def damaging(scratch: Any, owner: Any) -> None:
        original(scratch, owner)
        path = scratch.data / node[0]
        content = path.read_bytes()
        path.write_bytes(content.replace(b"x" * 50, b"x" * 49 + b"y", 1))

    monkeypatch.setattr(foreign, "isolate", damaging)
    code, proof = drilled(source, "directory")
    assert (code, proof["verdict"]) == (1, "not equal")
    assert proof["summary"].startswith("postgres: public.t: 2000 rows each, but hash ")


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_backups_of_a_directory_are_chosen(foreign_source: Source) -> None:
    source = foreign_source
    tool = DirectoryTool(source)
    tool.backup("monday", "-X", "none")
    tool.backup("a tuesday", "-X", "none")
    proof = assert_proven(source, "directory", "a tuesday")
    assert proof["key"].endswith("Z-directory-a_tuesday.json")
    assert_proven(source, "directory", "monday", "--oldest")
    assert_refused(
        source,
        ["--from", "directory", "--backup", "sunday"],
        41,
        f'backup "sunday" does not exist in directory "{tool.backups}"\n'
        "DETAIL: There are: monday, a tuesday.\nHINT: leave out --backup to take the newest",
    )


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_settings_of_the_tool_do_not_leak(foreign_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source = foreign_source
    tool = DirectoryTool(source)
    tool.backup("monday", "-X", "none", "-R")
    touched = source.root / "touched"
    place = tool.backups / "monday"
    (place / "backup_manifest").unlink()
    with open(place / "postgresql.auto.conf", "a") as file:
        file.write(
            f"restore_command = 'touch {touched}; false'\nlisten_addresses = '*'\narchive_mode = always\n"
        )
    (place / "postgresql.conf").write_text(f"archive_command = 'touch {touched}'\nport = 1\n")
    seen: list[dict[str, str]] = []
    original = replay._check_position

    def looking(dsn: str, cut: Any, last: bool) -> None:
        import psycopg

        with psycopg.connect(f"{dsn} dbname=postgres") as connection:
            rows = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
        seen.append({str(name): str(setting) for name, setting in rows})
        original(dsn, cut, last)

    monkeypatch.setattr(replay, "_check_position", looking)
    assert_proven(source, "directory", "monday")
    assert seen[0]["listen_addresses"] == seen[0]["primary_conninfo"] == ""
    assert seen[0]["archive_mode"] == "off"
    assert f'cp "{source.root}/scratch/' in seen[0]["restore_command"]
    assert not touched.exists()


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_a_link_out_of_the_copy_is_refused(foreign_source: Source) -> None:
    source = foreign_source
    tool = DirectoryTool(source)
    tool.backup("monday", "-X", "none")
    (tool.backups / "monday" / "pg_stat" / "link").symlink_to(source.data)
    code, _, err = answer(source, "drill", "main", "--from", "directory", "--json")
    assert code == 43
    assert err.startswith(f'pgproof: the restored copy reaches out of "{source.root}/scratch/main-')
    assert f'DETAIL: "data/pg_stat/link" leads to "{source.data}".' in err
    assert list((source.root / "scratch").iterdir()) == []


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_wal_that_was_damaged_in_a_directory(foreign_source: Source) -> None:
    """Of the three, the first two are no such segment, and the third ends recovery where it is damaged."""
    source = foreign_source
    tool = DirectoryTool(source)
    tool.backup("monday", "-X", "none")
    source.sql("INSERT INTO t SELECT g, repeat('w', 90) FROM generate_series(1, 2000) g")
    older = source.archive_now()
    source.sql("INSERT INTO t SELECT g, repeat('w', 90) FROM generate_series(1, 2000) g")
    name = source.archive_now()
    path = tool.wal / name
    content = path.read_bytes()
    path.write_bytes((tool.wal / older).read_bytes())
    assert_not_recovered(source, f'WAL segment "{name}" holds another segment DETAIL: ')
    path.write_bytes(content[: len(content) // 2])
    assert_not_recovered(source, f'WAL segment "{name}" has the wrong length DETAIL: ')
    path.write_bytes(content)
    flip_bit(path, 100_000)
    assert_not_recovered(source, "")
    path.write_bytes(content)
    assert_proven(source, "directory", "monday")


def assert_not_recovered(source: Source, summary: str) -> None:
    code, proof = drilled(source, "directory")
    assert (code, proof["verdict"]) == (1, "not recovered")
    assert proof["summary"].startswith(summary)
    assert list((source.root / "scratch").iterdir()) == []


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_files_that_are_no_whole_backup(foreign_source: Source) -> None:
    source = foreign_source
    tool = DirectoryTool(source)
    place = tool.backups / tool.backup("monday", "-X", "none")
    label = (place / "backup_label").read_text()
    (place / "backup_label").unlink()
    what = f'backup "monday" of directory "{tool.backups}"'
    assert_not_recovered(source, f"{what} is no base backup DETAIL: backup_label: No such file or directory.")
    (place / "backup_label").write_text(f"{label}INCREMENTAL FROM LSN: 0/2000028\n")
    assert_not_recovered(
        source, f"{what} is incremental DETAIL: Its files alone are no data directory. HINT: "
    )
    (place / "backup_label").write_text("nothing\n")
    assert_not_recovered(source, f"{what} has a backup_label that cannot be read DETAIL: ")
    (place / "backup_label").write_text(label)
    (place / "global" / "1262").unlink()
    assert_not_recovered(source, "the restored files in ")


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_a_proof_of_another_tool_is_none_of_a_backup_of_ours(foreign_source: Source) -> None:
    """Even when the labels are equal, and also for a verdict that would make ours failed."""
    source = foreign_source
    source.set(archive_command=source.archive_command)
    ours = source.backup().label
    tool = DirectoryTool(source)
    tool.backup(ours, "-X", "none")
    assert_proven(source, "directory", ours)
    assert [(e.label, e.state) for e in read_catalog(source.archive).entries] == [(ours, "complete")]
    (tool.backups / ours / "backup_label").unlink()
    assert_not_recovered(source, "")
    assert [(e.label, e.state) for e in read_catalog(source.archive).entries] == [(ours, "complete")]


# ---- what is asked


@pytest.mark.parametrize("foreign_source", [17], indirect=True)
def test_origins_that_cannot_be_asked(
    foreign_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = foreign_source
    assert_refused(
        source,
        ["--from", "walg"],
        2,
        'cannot drill backups from "walg"\nDETAIL: --from takes: pgbackrest, barman, directory.',
    )
    assert_refused(
        source,
        ["--from", "barman"],
        2,
        'cluster "main" says nothing of barman\nHINT: add a section [clusters.main.barman] with server = "..."',
    )
    source.write_config(extra='[clusters.main.barman]\nserver = "shop"\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(
        source,
        ["--from", "barman"],
        45,
        'program "barman" is not installed here\nHINT: apt-get install barman',
    )
