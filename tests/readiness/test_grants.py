"""The SQL that a source needs, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pgproof.postgres.facts import FUNCTIONS, ROLES, ArchiverFacts, RoleFacts, ServerFacts
from pgproof.postgres.grants import (
    Step,
    absent_role,
    hba_line,
    literal,
    missing_steps,
    role_steps,
    setting_steps,
)
from pgproof.timelines.lsn import LSN

SETTINGS = {
    "wal_level": "replica",
    "archive_mode": "on",
    "archive_command": "pgproof wal push %p",
    "archive_library": "",
    "archive_timeout": "60",
    "max_wal_senders": "10",
    "summarize_wal": "on",
}
COMMAND = "/usr/bin/pgproof --config /etc/pgproof.toml wal push %p"
ABLE = RoleFacts("pgproof", False, True, (), (), True)


def facts(version: int = 170010, **settings: str) -> ServerFacts:
    return ServerFacts(
        version=version,
        version_text="PostgreSQL",
        system_identifier=7,
        timeline=1,
        in_recovery=False,
        segment_size=16 << 20,
        insert_lsn=LSN(0),
        database_size=0,
        databases=("postgres",),
        archiver=ArchiverFacts(None, None, None, None),
        role=ABLE,
        clock=datetime(2026, 11, 23, tzinfo=UTC),
        settings=SETTINGS | settings,
    )


def test_a_ready_server_lacks_nothing() -> None:
    assert missing_steps(facts(), COMMAND) == ()


def test_an_absent_role_is_made_with_the_least_that_suffices() -> None:
    steps = missing_steps(absent_role(facts(), "pgproof"), COMMAND, role_exists=False)
    assert [step.text for step in steps] == [
        'CREATE ROLE "pgproof" LOGIN REPLICATION;',
        '\\password "pgproof"',
        'GRANT pg_read_all_data TO "pgproof";',
        'GRANT pg_monitor TO "pgproof";',
        'GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO "pgproof";',
        'GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO "pgproof";',
        'GRANT SET ON PARAMETER lo_compat_privileges TO "pgproof";',
    ]
    assert [step.optional for step in steps] == [False, True, False, False, False, False, True]
    assert steps[-1].why == "lets the proof read large objects; it also lets the role write them"
    assert not any("PASSWORD" in step.sql for step in steps)


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (replace(ABLE, replication=False), ['ALTER ROLE "pgproof" REPLICATION']),
        (replace(ABLE, replication=False, superuser=True), []),
        (replace(ABLE, missing_roles=("pg_monitor",)), ['GRANT pg_monitor TO "pgproof"']),
        (replace(ABLE, name='a"b', missing_roles=ROLES[:1]), ['GRANT pg_read_all_data TO "a""b"']),
        (
            replace(ABLE, missing_functions=FUNCTIONS[:1]),
            ['GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO "pgproof"'],
        ),
    ],
)
def test_only_what_the_role_lacks_is_named(role: RoleFacts, expected: list[str]) -> None:
    assert [step.sql for step in role_steps(role)] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"archive_timeout": "0"}, ["ALTER SYSTEM SET archive_timeout = '60'"]),
        ({"max_wal_senders": "3"}, ["ALTER SYSTEM SET max_wal_senders = '4'  restart"]),
        ({"max_wal_senders": "4"}, []),
        ({"wal_level": "logical"}, []),
        ({"archive_mode": "always"}, []),
        ({"summarize_wal": "off"}, ["ALTER SYSTEM SET summarize_wal = 'on'  optional"]),
        (
            {"wal_level": "minimal", "max_wal_senders": "0", "summarize_wal": "off"},
            [
                "ALTER SYSTEM SET wal_level = 'replica'  restart",
                "ALTER SYSTEM SET max_wal_senders = '4'  restart",
            ],
        ),
        (
            {"archive_mode": "off", "archive_command": "(disabled)"},
            [
                "ALTER SYSTEM SET archive_mode = 'on'  restart",
                f"ALTER SYSTEM SET archive_command = '{COMMAND}'  restart",
            ],
        ),
        ({"archive_command": "/bin/true"}, [f"ALTER SYSTEM SET archive_command = '{COMMAND}'"]),
        ({"archive_command": "cp %p /b/%f"}, [f"ALTER SYSTEM SET archive_command = '{COMMAND}'  optional"]),
        (
            {"archive_library": "basic_archive", "archive_command": ""},
            [
                "ALTER SYSTEM SET archive_library = ''  optional",
                f"ALTER SYSTEM SET archive_command = '{COMMAND}'",
            ],
        ),
    ],
)
def test_only_the_settings_in_the_way_are_named(settings: dict[str, str], expected: list[str]) -> None:
    assert [
        described(step) for step in setting_steps(replace(facts(), settings=SETTINGS | settings), COMMAND)
    ] == expected


def described(step: Step) -> str:
    return step.sql + "  restart" * step.needs_restart + "  optional" * step.optional


def test_before_17_nothing_summarizes_wal() -> None:
    assert setting_steps(facts(version=160000, summarize_wal="off"), COMMAND) == ()


def test_a_foreign_archive_command_is_quoted_in_the_reason() -> None:
    (step,) = setting_steps(facts(archive_command="cp %p /b/%f"), COMMAND)
    assert step.why == 'archive_command is "cp %p /b/%f": replacing it ends what that does'


@pytest.mark.parametrize(
    ("value", "expected"), [("a", "'a'"), ("it's", "'it''s'"), ("a\\b", "E'a\\\\b'"), ("/ö %", "'/ö %'")]
)
def test_literal(value: str, expected: str) -> None:
    assert literal(value) == expected


@pytest.mark.parametrize(
    ("role", "address", "database", "expected"),
    [
        ("pgproof", None, "replication", "local  replication  pgproof  scram-sha-256"),
        ("pgproof", "10.0.0.7", "replication", "host  replication  pgproof  10.0.0.7/32  scram-sha-256"),
        ("pgproof", "fd00::7", "all", "host  all  pgproof  fd00::7/128  scram-sha-256"),
        ("Back Up", None, "all", 'local  all  "Back Up"  scram-sha-256'),
        ("all", None, "sh.op", 'local  "sh.op"  "all"  scram-sha-256'),
    ],
)
def test_hba_line(role: str, address: str | None, database: str, expected: str) -> None:
    assert hba_line(role, address, database) == expected
