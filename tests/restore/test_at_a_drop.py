"""Just before somebody's DROP, on a server that is quiet otherwise: the commonest moment to want back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.restore.unreadable import OPEN_AGAIN
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source


@pytest.fixture(scope="module", params=[15, 17])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as made:
        made.sql("CREATE DATABASE crm")
        made.sql("CREATE TABLE customer AS SELECT 1 AS a", database="crm")
        made.sql("CREATE TABLE t AS SELECT 1 AS a")
        made.sql("CREATE TABLE untouched AS SELECT 1 AS a")
        made.backup()
        yield made


def moment(source: Source) -> str:
    return str(source.sql("SELECT clock_timestamp()::text")[0][0])


def planned(source: Source, *target: str) -> str:
    code, out, err = answer(
        source, "restore", "main", "--to", str(source.root / "copy"), *target, "--dry-run"
    )
    assert code == 0, err
    return " ".join(out.split())


@contextmanager
def started(source: Source, *target: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    data = source.root / "copy"
    try:
        code, _, err = answer(source, "restore", "main", "--to", str(data), *target)
        assert code == 0, err
        code, out, err = answer(source, "start", str(data), "--json", "--timeout", "60s")
        assert code == 0, err
        yield data, json.loads(out)
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data, ignore_errors=True)


def ask(data: Path, query: str, database: str = "postgres") -> Any:
    server = running_in(data)
    assert server is not None
    with psycopg.connect(
        server.dsn, user="postgres", dbname=database, autocommit=True, options="-c lock_timeout=100ms"
    ) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def test_a_table_that_nobody_can_read_is_named_with_the_way_to_its_rows(source: Source) -> None:
    before = moment(source)
    source.sql("DROP TABLE t")
    source.archive_now()
    with started(source, "--target-time", before) as (data, found):
        assert (found["state"], found["locked"]) == ("paused", ["postgres.public.t"])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ask(data, "SELECT a FROM t")
        assert ask(data, "SELECT a FROM untouched") == 1
        _, out, _ = answer(source, "start", str(data))
        assert "warning: reading postgres.public.t waits" in " ".join(out.split())
        assert ask(data, "SELECT pg_promote()")
        assert ask(data, "SELECT a FROM t") == 1
        assert json.loads(answer(source, "start", str(data), "--json")[1])["locked"] == []


def test_a_dropped_database_is_warned_of_with_the_target_that_has_it(source: Source) -> None:
    before = moment(source)
    source.sql("DROP DATABASE crm")
    source.archive_now()
    found = re.search(
        r"files will not: .* (--target-lsn) (\S+) (--exclusive) stops",
        planned(source, "--target-time", before),
    )
    assert found is not None
    target = found.groups()
    assert "files will not" not in planned(source, *target)
    with started(source, *target) as (data, said):
        assert (said["state"], said["findings"], said["invalid"]) == ("paused", [], ["crm"])
        for statement in OPEN_AGAIN.rstrip(";").split("; "):
            ask(data, f"{statement} RETURNING 1" if "UPDATE" in statement else statement)
        assert ask(data, "SELECT a FROM customer", "crm") == 1
