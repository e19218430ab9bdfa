"""The table, the page and the exit code of ``doctor``."""

from __future__ import annotations

import io
import pickle

import pytest

from pgproof.commands.console import Console
from pgproof.commands.doctor import as_dict, doctor, exit_code, render, rows, summary
from pgproof.config import Config
from pgproof.errors import ConfigError
from pgproof.readiness.check import Check

GOOD = Check("connection", True, "backup", 'PostgreSQL 17.10 lets role "pgproof" in')
ADVICE = Check("data checksums", False, "", "they are [off]", "pg_checksums --enable")
BAD = Check("wal_level", False, "backup", "wal_level is minimal", "ALTER SYSTEM ...;\nrestart")
WORSE = Check("repository", False, "restore", "there is none", "mount it")
UNKNOWN = Check("lease", None, "backup", "could not look: it is away")


def test_rows() -> None:
    assert rows([GOOD, ADVICE, BAD, UNKNOWN]) == [
        ("connection", "ok", 'PostgreSQL 17.10 lets role "pgproof" in'),
        ("data checksums", "advice", "they are [off]"),
        ("wal_level", "stops backup", "wal_level is minimal"),
        ("lease", "unknown", "could not look: it is away"),
    ]


@pytest.mark.parametrize(
    ("checks", "code", "line"),
    [
        ([GOOD], 0, "nothing is stopped"),
        ([GOOD, ADVICE], 0, "nothing is stopped"),
        ([GOOD, UNKNOWN], 0, "nothing is stopped; could not look at lease"),
        ([WORSE, BAD, UNKNOWN], 1, "stopped: backup, restore; because of repository, wal_level"),
    ],
)
def test_exit_code_and_summary(checks: list[Check], code: int, line: str) -> None:
    assert (exit_code(checks), summary(checks)) == (code, line)


def test_the_page() -> None:
    console = Console(file=io.StringIO(), width=80)
    render(console, [GOOD, ADVICE, BAD])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "they are [off]" in text
    assert text.endswith(
        "\ndata checksums (advice):\npg_checksums --enable\n"
        "\nwal_level (stops backup):\nALTER SYSTEM ...;\nrestart\n"
        "\nstopped: backup; because of wal_level\n"
    )


def test_what_one_cause_hides_is_said_once() -> None:
    console = Console(file=io.StringIO(), width=80)
    away = "could not look: there is no connection to the server"
    render(
        console,
        [BAD, UNKNOWN, *(Check(name, None, "backup", away) for name in ("primary", "role", "[slots]"))],
    )
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("could not look") == 2
    assert f"\n{away}: primary, role, [slots]\n" in text
    assert "\nlease      unknown  " in text


def test_as_dict() -> None:
    assert as_dict([BAD]) == {
        "stopped": ["backup"],
        "checks": [
            {
                "name": "wal_level",
                "ok": False,
                "blocks": "backup",
                "fact": "wal_level is minimal",
                "mend": "ALTER SYSTEM ...;\nrestart",
            }
        ],
    }
    assert pickle.loads(pickle.dumps(BAD)) == BAD


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match='cluster "shop" is not configured'):
        doctor("shop", Config())
