"""What the machine of a server lacks is told from damage of what it stores, by its own errors."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pgproof.postgres.faults import said_by, shortage, shortage_in, tells_of_damage, too_long
from tests.servers.postgres import Source, running_source


@pytest.fixture(scope="module")
def shared() -> Iterator[Source]:
    with running_source(17) as source:
        yield source


def error_of(source: Source, query: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        source.sql(query)
    return caught.value


DICTIONARY = "CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple, STOPWORDS = not_here)"
LIBRARY = "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'not_here', 'f'"
NOT_IN_IT = "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'amcheck', 'not_in_it'"
DEEP = "SELECT repeat('[', 1000000)::json"
RAISED = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{}'; END $$"
# a text of 1.3 GB, as a bit is a character; the value itself has 168 MB
LONG = "SELECT (v || v || v || v)::text FROM (SELECT b || b || b || b v FROM (SELECT 0::bit(83886080)::varbit b) a) b"
SHORT = [
    (LIBRARY, 'this machine lacks library "not_here" of an extension, or has another version; install its package: '
              'could not access file "not_here": No such file or directory'),
    (NOT_IN_IT, 'this machine lacks library "{}" of an extension, or has another version'),
    (DICTIONARY, "this machine lacks a configuration file, or has another one: could not open stop-word file "),
    (DEEP, "this machine is short of memory, room or the like: stack depth limit exceeded"),
    (RAISED.format("53100"), "this machine is short of memory, room or the like: no"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "reason"), SHORT, ids=range(len(SHORT)))
def test_a_shortage(shared: Source, query: str, reason: str) -> None:
    error = error_of(shared, query)
    assert shortage(error).startswith(reason.partition("{")[0])
    assert said_by(error) in shortage(error)
    assert not tells_of_damage(error)


@pytest.mark.parametrize(
    ("query", "damage", "long"),
    [
        (LONG, True, True),
        (RAISED.format("54000"), False, True),
        (RAISED.format("XX001"), True, False),
        (RAISED.format("58P01"), True, False),
        ("SELECT 1 / 0", False, False),
        ("SELECT nothing", False, False),
    ],
)
def test_what_is_none(shared: Source, query: str, damage: bool, long: bool) -> None:
    error = error_of(shared, query)
    assert shortage(error) == ""
    assert (tells_of_damage(error), too_long(error)) == (damage, long)


SAID = {
    'FATAL:  database locale is incompatible with operating system': "a locale of the source",
    'DETAIL:  ... initialized with LC_COLLATE "de_DE.utf8", which is not recognized by setlocale().':
        "a locale of the source",
    'cp: error writing "pg_wal/RECOVERYXLOG": No space left on device': "room on a disk",
    "FATAL:  could not map anonymous shared memory: Cannot allocate memory": "memory",
    'pg_dump: detail: Error message from server: ERROR:  could not access file "$libdir/hstore": No such file':
        'library "$libdir/hstore"',
    "could not open file base/5/1259: Too many open files": "file descriptors",
}  # fmt: skip


@pytest.mark.parametrize(("line", "lacking"), SAID.items(), ids=range(len(SAID)))
def test_the_words_of_a_log_or_a_program(line: str, lacking: str) -> None:
    found = shortage_in(f"the line before\n{line}\n")
    assert found.startswith(f"this machine lacks {lacking}")
    assert found.endswith(" ".join(line.split()))


def test_words_that_tell_of_no_shortage() -> None:
    for line in (
        'could not open file "base/5/1259": No such file or directory',
        "out of memory while trying to decode a record of length 3735928559",
        "invalid page in block 3",
        "",
    ):
        assert shortage_in(line) == ""
