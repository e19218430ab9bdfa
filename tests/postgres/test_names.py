"""Names that are not UTF-8: LATIN1 and SQL_ASCII databases, roles, tablespaces and restore points of any bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import psycopg
import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.postgres.connection import open_session, with_database
from pgproof.postgres.names import bytes_of, json_bytes, name_of, shown, shown_tree
from pgproof.validation.fences.fence import WHOLE_DATABASE
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source
from tests.validation.drilling import drill

CAFE = b"caf\xe9"


def latin(source: Source, *statements: bytes, database: str = "old") -> None:
    """Run statements whose bytes nobody converts."""
    with psycopg.connect(source.dsn(database), autocommit=True, client_encoding="LATIN1") as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="module")
def odd() -> Iterator[Source]:
    """A source with a role, databases, a table, a tablespace and a restore point called caf\\xe9."""
    with running_source(15) as source:
        source.sql("CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        source.sql("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        source.sql("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        shelf = source.root / "shelf"
        shelf.mkdir()
        place = bytes(shelf) + b"/" + CAFE
        os.mkdir(place)
        give_to_server(shelf)
        os.chown(place, shelf.stat().st_uid, shelf.stat().st_gid)
        latin(source, b'CREATE DATABASE "' + CAFE + b'"', b'CREATE ROLE "' + CAFE + b'"')
        latin(source, b'CREATE TABLE "' + CAFE + b'" AS SELECT 1 AS "' + CAFE + b'"')
        latin(source, b'CREATE INDEX ON "' + CAFE + b'" USING hash ("' + CAFE + b'")')
        latin(source, b'CREATE TABLE "' + CAFE + b'" AS SELECT 1 AS a', database="bytes")
        latin(source, b"CREATE TABLESPACE shelf LOCATION '" + place + b"'", database="bytes")
        for name in ("old", "plain", "postgres"):
            source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g", database=name)
        latin(source, b'ALTER TABLE t OWNER TO "' + CAFE + b'"')
        source.sql("ALTER TABLE t OWNER TO pgproof")
        dsn = with_database(f"{source.server.dsn} user=postgres", name_of(CAFE))
        with open_session(dsn) as connection:
            connection.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
        yield source


def test_text_and_back() -> None:
    name = name_of(CAFE)
    assert (bytes_of(name), shown(name)) == (CAFE, "caf\\udce9")
    assert json.loads(json_bytes({"name": name})) == {"name": name}
    assert shown("café") == "café"
    assert shown_tree({name: [name, 1, None]}) == {"caf\\udce9": ["caf\\udce9", 1, None]}


def test_backup_check_and_doctor(odd: Source) -> None:
    record = odd.backup()
    assert [bytes_of(t.path)[-4:] for t in record.tablespaces] == [CAFE]
    assert read_catalog(odd.archive).newest.record == record  # as it is stored and read
    for words in (["list", "main"], ["doctor", "main"], ["wal", "check", "main"], ["objectives", "main"]):
        for more in ([], ["--json"]):
            code, out, error = answer(odd, *words, *more)
            assert (code in (0, 1), "Traceback" in error) == (True, False), error
            if more:
                json.loads(out)


def test_restore_point(odd: Source) -> None:
    odd.backup()
    latin(odd, b"SELECT pg_create_restore_point('" + CAFE + b"')")
    odd.sql("SELECT pg_current_xact_id()")
    odd.archive_now()
    words = ["restore", "main", "--to", str(odd.root / "new"), "--dry-run", "--json"]
    words += ["--tablespace", f"{odd.root}/shelf/{name_of(CAFE)}={odd.root}/other"]
    code, out, error = answer(odd, *words, "--target-name", name_of(CAFE))
    assert code == 0, error
    assert json.loads(out)["target"] == f"name {name_of(CAFE)}"
    assert answer(odd, *words, "--target-name", "café")[0] == 42


def test_drill(odd: Source, without_expectations: None) -> None:
    odd.backup()
    found = drill(odd)
    left_out = {item.database: item.reason for item in found.fence.not_checked if item.what == WHOLE_DATABASE}
    # the role is in a catalog that all databases share
    reason = "it is in SQL_ASCII, and pg_authid holds a name or text that is not UTF-8"
    assert left_out == {"bytes": reason, "plain": reason}
    assert found.proof.proven, found.proof.summary
    equal = {(table["database"], table["table"]) for table in found.proof.tables}
    assert ("old", "public.café") in equal
    assert {database for database, _ in equal} >= {"old", "postgres", name_of(CAFE)}


def test_expectations(odd: Source) -> None:
    """Their suites are made from the biggest tables, also of a database with such a name."""
    with open_session(with_database(f"{odd.server.dsn} user=postgres", name_of(CAFE))) as connection:
        connection.execute("CREATE TABLE big AS SELECT g FROM generate_series(1, 2000) g")
    odd.backup()
    for words in (["drill", "main"], ["expectations", "main", "--write"], ["drill", "main", "--json"]):
        code, out, error = answer(odd, *words)
        assert (code, error) == (0, ""), out
    assert json.loads(out)["expectations"]["success"]
