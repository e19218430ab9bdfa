"""One database that does not let a drill in is named, and the others are fenced."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from pgproof.config import DRILL_CONNECTIONS
from pgproof.errors import ServerBusy, ServerNotReady, ServerUnreachable
from pgproof.postgres.connection import connect, connection_error, mapped
from pgproof.repository.repository import Archive
from pgproof.validation.fences.fence import WHOLE_DATABASE, Fence
from pgproof.validation.fences.fencing import take_fence
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import drill, fence_of


@pytest.fixture(scope="module")
def crowd() -> Iterator[Source]:
    """A source with databases of all kinds."""
    with running_source(17) as source:
        for name in ("closed", "private", "limited", "narrow", "unwanted", "open"):
            source.sql(f'CREATE DATABASE "{name}"')
            source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g", database=name)
        source.sql("ALTER DATABASE closed ALLOW_CONNECTIONS false")
        source.sql("REVOKE CONNECT ON DATABASE private FROM public")
        source.sql("ALTER DATABASE limited CONNECTION LIMIT 2")
        source.sql(f"ALTER DATABASE narrow CONNECTION LIMIT {DRILL_CONNECTIONS}")
        source.write_config('drill.exclude_databases = ["unwanted", "mistyped"]\n')
        yield source


def left_out(fence: Fence) -> dict[str, str]:
    return {item.database: item.reason for item in fence.not_checked if item.what == WHOLE_DATABASE}


GRANT = 'GRANT CONNECT ON DATABASE "private" TO "pgproof"'
REASONS = {
    "closed": "it allows no connections",
    "limited": "its CONNECTION LIMIT of 2 leaves 2 of the 4 connections that a drill needs",
    "private": f'role "pgproof" may not connect to it: {GRANT}',
    "unwanted": "excluded by drill.exclude_databases",
}


def test_the_others_are_proven(crowd: Source, without_expectations: None) -> None:
    crowd.backup()
    found = drill(crowd, checked=False)
    assert found.proof.proven
    assert left_out(found.fence) == REASONS
    assert {table["database"] for table in found.proof.tables} == {"narrow", "open"}
    names = [item.what for item in found.proof.not_checked if "exclude_databases" in item.what]
    assert names == ['"mistyped" of drill.exclude_databases']


def test_dropped_meanwhile(crowd: Source) -> None:
    """Between the list and the connection, as continuous integration does all day."""
    crowd.sql("CREATE DATABASE ci_87")

    def archive_of(system: int) -> Archive:
        crowd.sql("DROP DATABASE ci_87")
        return crowd.archive

    fence = take_fence(crowd.cluster, archive_of, now)
    assert left_out(fence) == {**REASONS, "ci_87": "it was dropped meanwhile"}
    assert {database.database for database in fence.databases} == {"narrow", "open", "postgres"}


def test_no_database_is_left(crowd: Source) -> None:
    every = ", ".join(f'"{name}"' for name in ("postgres", "open", "narrow", "unwanted"))
    crowd.write_config(f"drill.exclude_databases = [{every}]\n")
    try:
        with pytest.raises(ServerNotReady) as caught:
            fence_of(crowd)
    finally:
        crowd.write_config('drill.exclude_databases = ["unwanted", "mistyped"]\n')
    assert caught.value.fact == 'no database of cluster "main" can be fenced'
    assert "open: excluded by drill.exclude_databases" in caught.value.detail


def test_doctor_names_limits_and_init_makes_the_grant(crowd: Source) -> None:
    code, out, _ = answer(crowd, "doctor", "main")
    page = " ".join(out.split())
    assert 'closed: "limited", "private": ' not in page  # a limit of two lets one session in
    assert 'closed: "private": ' in page
    assert f"{GRANT};" in page
    assert 'ALTER DATABASE "limited" CONNECTION LIMIT 6;' in page
    url, dsn = f"file://{crowd.repository_path}", f"host={crowd.root}/s user=pgproof dbname=postgres"
    words = ["init", "main", "--dsn", dsn, "--repository", url]
    code, out, error = answer(crowd, *words, "--admin-dsn", crowd.dsn(), "--apply", "--json")
    assert code == 0, error
    assert GRANT in str(json.loads(out)["steps"])
    assert answer(crowd, *words, "--json")[1].count("GRANT CONNECT") == 0


def test_what_a_server_says_is_told_as_what_it_is(crowd: Source) -> None:
    cluster = crowd.cluster
    with pytest.raises(ServerBusy) as caught, connect(cluster) as connection:
        connection.execute("SET statement_timeout = 1; SELECT pg_sleep(10)")
    assert caught.value.fact == 'cluster "main" could not do what was asked'
    assert caught.value.detail.endswith("canceling statement due to statement timeout (SQLSTATE 57014).")
    with pytest.raises(ServerNotReady) as refused, mapped(cluster):
        raise psycopg.errors.StatementTooComplex("stack depth limit exceeded")
    assert refused.value.fact == 'cluster "main" cannot do what was asked'
    with pytest.raises(ServerUnreachable) as ended, connect(cluster) as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert ended.value.fact == 'the connection to cluster "main" was ended'
    full = connection_error(cluster, 'FATAL: too many connections for database "limited"')
    assert "datconnlimit" in full.hint
    gone = connection_error(cluster, 'FATAL: database "ci_87" does not exist')
    assert "password" not in gone.hint
