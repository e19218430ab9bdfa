"""A drill on a machine that lacks something: what it cannot check is named, and no backup is accused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.validation.sessions import REFUSED
from tests.drills.damage import answer
from tests.servers.place import make_directory
from tests.servers.postgres import Source, running_source

pytestmark = pytest.mark.usefixtures("without_expectations")

TABLES = """
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION pg_trgm;
CREATE TABLE plain AS SELECT g FROM generate_series(1, 100) g;
CREATE TABLE kept AS SELECT g AS id, hstore('a', g::text) AS h FROM generate_series(1, 100) g;
CREATE TABLE words AS SELECT g AS id, ('Word ' || g)::citext AS word FROM generate_series(1, 100) g;
CREATE INDEX words_word ON words (word);
CREATE INDEX words_trgm ON words USING gin ((word::text) gin_trgm_ops);
"""
GONE = {"hstore.so", "citext.so", "pg_trgm.so", "Australia"}


def without(bin_directory: Path, root: Path, gone: set[str]) -> Path:
    """PostgreSQL without some of its libraries: links to all of its files but the programs, which look beside them."""
    shutil.copytree(bin_directory, root / "bin")
    for name in ("lib", "share"):
        shutil.copytree(
            bin_directory.parent / name,
            root / name,
            copy_function=os.symlink,
            ignore=lambda directory, names: gone & set(names),
        )
    return root / "bin"


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17, timezone_abbreviations="Australia") as made:
        made.sql(TABLES)
        made.backup()
        yield made


@pytest.fixture(scope="module")
def poor(source: Source) -> Iterator[Path]:
    root = make_directory()
    yield without(source.bin, root, GONE)
    shutil.rmtree(root)


def test_libraries_of_extensions(source: Source, poor: Path) -> None:
    checks = json.dumps(["log", "amcheck", "indexes", "dump"])
    source.write_config(cluster=f'bin_directory = "{poor}"\ndrill.checks = {checks}')
    code, out, err = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("proven", 0, ""), proof["summary"]
    assert {table["table"] for table in proof["tables"]} == {"public.plain", "public.words"}
    reasons = {
        item["what"]: item["reason"] for item in proof["not_checked"] if item["database"] == "postgres"
    }
    lacks = 'this machine lacks library "$libdir/{}" of an extension, or has another version; install its package: '
    assert reasons["public.kept"].startswith(f"in the copy: {lacks.format('hstore')}")
    assert reasons["public.words_word"].startswith(lacks.format("citext"))
    assert "$libdir/pg_trgm" in reasons["public.words_trgm"]
    assert reasons[REFUSED].startswith("timezone_abbreviations = Australia: ")
    assert reasons[REFUSED].endswith("; a function that reads one answers otherwise here")
    assert reasons["check dump"].startswith("this machine lacks library")
    assert json.loads(answer(source, "list", "main", "--json")[1])["backups"][0]["state"] == "proven"


def test_a_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """One database has a locale that the machine of the drill has not: C.UTF-8 under another name."""
    root = make_directory()
    for name in ("C.utf8", "xx_XX.utf8"):
        shutil.copytree("/usr/lib/locale/C.utf8", root / name)
    try:
        with monkeypatch.context() as there:
            there.setenv("LOCPATH", str(root))
            with running_source(17) as source:
                source.sql("CREATE DATABASE far TEMPLATE template0 LOCALE 'xx_XX.utf8'")
                for database in ("postgres", "far"):
                    source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g", database=database)
                source.backup()
                there.delenv("LOCPATH")
                checks = json.dumps(["log", "amcheck", "indexes", "dump"])
                own = '[[clusters.main.checks]]\nname = "mine"\ndatabase = "far"\nsql = "SELECT 1"\nexpect = 1\n'
                source.write_config(cluster=f"drill.targets = 1\ndrill.checks = {checks}", extra=own)
                code, out, err = answer(source, "drill", "main", "--json")
    finally:
        shutil.rmtree(root)
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("proven", 0, ""), proof["summary"]
    assert {table["database"] for table in proof["tables"]} == {"postgres"}
    assert {check["ok"] for check in proof["checks"] if check["database"] == "postgres"} == {True}
    reasons = {item["what"]: item["reason"] for item in proof["not_checked"] if item["database"] == "far"}
    assert set(reasons) >= {"(whole database)", "check dump", "check mine"}
    lacks = "this machine lacks a locale of the source: "
    assert all(lacks in reason for reason in reasons.values()), reasons


def test_a_check_of_ones_own_that_needs_one(source: Source, poor: Path) -> None:
    own = '[[clusters.main.checks]]\nname = "mine"\ndatabase = "postgres"\n'
    own += "sql = \"SELECT count(*) FROM kept WHERE h ? 'a'\"\nexpect = 100\n"
    source.write_config(cluster=f'bin_directory = "{poor}"\ndrill.checks = []\ndrill.targets = 0', extra=own)
    code, out, _ = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (proof["verdict"], code, proof["checks"][0]["ok"]) == ("proven", 0, None)
    (reason,) = [item["reason"] for item in proof["not_checked"] if item["what"] == "check mine"]
    assert reason.startswith('it could not run: this machine lacks library "$libdir/hstore"')
