"""What checks make of what they are given: log lines, rows, results; no server is needed."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.catalog import NOT_EQUAL, NOT_SOUND, PROVEN
from pgproof.validation.checks.check import CheckResult, not_possible, result_of, shortened
from pgproof.validation.checks.own_checks import judge
from pgproof.validation.checks.server_log import check_log, complaint
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import make_proof
from pgproof.validation.fences.fence import NEVER_CHECKED, NotChecked
from pgproof.validation.proof import Proof
from pgproof.validation.replay import _missing_library
from tests.servers.postgres import now
from tests.validation.values import archive, compared, fence

OK = CheckResult("log", "every database", 9, 0.01)
FOUND = CheckResult("amcheck", "shop", 3, 1.23456, ("public.i: row missing", "public.t: block 1"))

# ---- the log

HEAD = "2026-11-24 11:37:06.123 UTC [4711] "
LINES = [
    ("startup WARNING:  page verification failed, calculated checksum 1 but expected 2", True),
    ('startup ERROR:  could not open file "pg_tblspc/1"', True),
    ("startup FATAL:  WAL contains references to invalid pages", True),
    ("checkpointer PANIC:  could not fsync file", True),
    ("checkpointer ERROR:  checkpoint request failed", True),
    ("postmaster LOG:  client backend (PID 7) was terminated by signal 11: Segmentation fault", True),
    ("client backend WARNING:  page verification failed, calculated checksum 1 but expected 2", True),
    ('client backend ERROR:  invalid page in block 3 of relation base/5/16384', True),
    ("parallel worker ERROR:  could not read blocks 3..3 in file", True),
    ("client backend PANIC:  stuck spinlock", True),
    ("postmaster LOG:  client backend (PID 7) was terminated by signal 9: Killed", False),
    ("client backend ERROR:  canceling statement due to lock timeout", False),
    ('client backend WARNING:  database "shop" has a collation version mismatch', False),
    ("client backend FATAL:  the database system is not yet accepting connections", False),
    ("not initialized FATAL:  the database system is starting up", False),
    ("walsender FATAL:  terminating connection due to administrator command", False),
    ("startup LOG:  invalid record length at 0/5000028: expected at least 24, got 0", False),
    ("startup LOG:  was terminated by signal 11", False),
]  # fmt: skip


@pytest.mark.parametrize(("line", "matters"), LINES, ids=[line for line, _ in LINES])
def test_a_line_of_the_log(line: str, matters: bool) -> None:
    backend, level = line.split(":")[0].rsplit(" ", 1)
    text = line.split(":  ", 1)[1]
    assert complaint(HEAD + line) == (f"{backend}: {level}: {text}" if matters else "")


@pytest.mark.parametrize("line", ["", "HINT:  WARNING:  x", "cp: cannot stat '0001'", "\tWARNING:  x"])
def test_what_is_no_line_of_the_log(line: str) -> None:
    assert complaint(line) == ""


def test_a_log_is_read_up_to_where_checks_began(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    early = f"{HEAD}startup WARNING:  early\n" * 3
    log.write_text(early + f"{HEAD}startup WARNING:  late\n")
    found = check_log(log, len(early))
    assert (found.checked, found.findings, found.ok) == (3, ("startup: WARNING: early",), False)
    assert check_log(log).findings == ("startup: WARNING: early", "startup: WARNING: late")


def test_a_log_that_is_full_of_errors_is_shortened(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("".join(f"{HEAD}startup ERROR:  number {n}\n" for n in range(1000)))
    findings = check_log(log).findings
    assert len(findings) == 21
    assert findings[0] == "startup: ERROR: number 0"
    assert findings[-1] == "and 980 more"


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    found = check_log(tmp_path / "none")
    assert found.ok is None
    reason = "the server's log cannot be read: No such file or directory"
    assert found.not_checked == (NotChecked("every database", "check log", reason),)


STARTED = f"{HEAD}postmaster LOG:  starting PostgreSQL 17.6 on x86_64\n"
GONE = f'{HEAD}startup WARNING:  could not open directory "base/16387": No such file or directory\n'
USELESS = (
    f'{HEAD}startup WARNING:  some useless files may be left behind in old database directory "base/16387"\n'
)
CONSISTENT = f"{HEAD}startup LOG:  consistent recovery state reached at 0/5000028\n"
DROP = f"{HEAD}startup CONTEXT:  WAL redo at 0/5000030 for Database/DROP: dir 1663/16387\n"
STOPPED = f"{HEAD}startup FATAL:  WAL contains references to invalid pages\n"
FOUND_GONE, FOUND_USELESS, FOUND_STOPPED = (complaint(line.strip()) for line in (GONE, USELESS, STOPPED))
REPLAYS = [
    ([STARTED, GONE, CONSISTENT], False, [FOUND_GONE]),
    ([STARTED, CONSISTENT, STARTED, GONE, USELESS, CONSISTENT], False, []),
    ([STARTED, CONSISTENT, STARTED, CONSISTENT, GONE], False, [FOUND_GONE]),
    ([STARTED, CONSISTENT, GONE, DROP], False, [FOUND_GONE]),
    ([STARTED, CONSISTENT, STARTED, CONSISTENT, GONE, DROP, USELESS, DROP], False, []),
    ([STARTED, USELESS, CONSISTENT, STARTED, GONE, CONSISTENT], False, [FOUND_USELESS]),
    ([STARTED, CONSISTENT, STARTED, STOPPED], False, [FOUND_STOPPED]),
    ([STARTED, GONE, CONSISTENT], True, []),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "again", "wanted"), REPLAYS, ids=range(len(REPLAYS)))
def test_a_second_replay_misses_what_the_first_one_removed(
    tmp_path: Path, lines: list[str], again: bool, wanted: list[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_text("".join(lines))
    assert list(check_log(log, again=again).findings) == wanted


def test_wal_of_an_extension_that_is_not_loaded() -> None:
    """The words are those of RmgrNotFound in PostgreSQL's rmgr.c."""
    error = _missing_library(f"{HEAD}startup FATAL:  resource manager with ID 128 not registered\n")
    assert str(error) == (
        "recovery needs the library of an extension, and scratch servers load none\n"
        "DETAIL: The WAL has records of the custom resource manager 128, which only that library can replay.\n"
        "HINT: install the extension here, and name its library in drill.preload_libraries of the cluster"
    )
    assert _missing_library(f"{HEAD}startup FATAL:  something else\n") is None


# ---- the user's own

JUDGED: list[tuple[Any, list[tuple[Any, ...]], int, str]] = [
    ("rows", [(1,)], 1, ""),
    ("rows", [], 0, "it expects rows, and there are none"),
    ("no rows", [], 0, ""),
    ("no rows", [(7, "x"), (8, None)], 5, "it expects no rows, and there are 5, such as: 7, x; 8, None"),
    (3, [(3,)], 1, ""),
    (3, [(Decimal(3),)], 1, ""),
    (3, [(4,)], 1, "it expects 3, and gets 4"),
    (3, [("3",)], 1, "it expects 3, and gets 3"),
    (3, [], 0, "it expects one value, and gets 0 rows of 0 columns"),
    (3, [(3,), (3,)], 2, "it expects one value, and gets 2 rows of 1 columns"),
    (3, [(3, 3)], 1, "it expects one value, and gets 1 rows of 2 columns"),
    (0.1, [(Decimal("0.1"),)], 1, ""),
    (0.5, [(0.5,)], 1, ""),
    (True, [(True,)], 1, ""),
    (True, [(1,)], 1, "it expects True, and gets 1"),
    (1, [(True,)], 1, "it expects 1, and gets True"),
    (0, [(None,)], 1, "it expects 0, and gets None"),
    ("open", [("open",)], 1, ""),
    ("2026-11-24", [(date(2026, 11, 24),)], 1, ""),
    ("open", [("closed",)], 1, "it expects open, and gets closed"),
]


@pytest.mark.parametrize(("expect", "rows", "count", "finding"), JUDGED, ids=range(len(JUDGED)))
def test_what_a_check_says_of_rows(
    expect: Any, rows: list[tuple[Any, ...]], count: int, finding: str
) -> None:
    assert judge(expect, rows, count) == finding


# ---- results


def test_a_result_is_recorded() -> None:
    assert FOUND.as_record() == {
        "name": "amcheck",
        "database": "shop",
        "ok": False,
        "checked": 3,
        "seconds": 1.235,
        "findings": ["public.i: row missing", "public.t: block 1"],
        "warnings": [],
    }
    results = [OK, FOUND, not_possible("dump", "shop", "no pg_dump")]
    assert [result_of(r.as_record()) for r in results] == ["ok", "2 found", "not possible"]


def test_findings_are_not_more_than_one_reads() -> None:
    assert shortened(["a"] * 20) == ("a",) * 20
    assert shortened(["a"] * 22) == (*("a",) * 20, "and 2 more")


@pytest.mark.parametrize(
    ("rows", "checks", "verdict", "summary"),
    [
        (3, (OK,), PROVEN, "1 table with 3 rows are equal"),
        (3, (not_possible("dump", "shop", "no pg_dump"),), PROVEN, "1 table with 3 rows are equal"),
        (
            3,
            (OK, FOUND),
            NOT_SOUND,
            "amcheck of shop: public.i: row missing (and 1 more findings)",
        ),
        (2, (FOUND,), NOT_EQUAL, "shop: public.t: source has 3 rows, restored has 2"),
    ],
)
def test_a_finding_decides_the_verdict(
    rows: int, checks: tuple[CheckResult, ...], verdict: str, summary: str
) -> None:
    comparison = Comparison((compared("public.t", 3, rows),), checks=checks)
    proof = make_proof(archive("checks"), fence(), "l", now, comparison=comparison)
    assert (proof.verdict, proof.summary) == (verdict, summary)
    assert Proof.from_dict(proof.as_dict()) == proof
    assert [check["name"] for check in proof.checks] == [check.name for check in checks]


def test_what_was_not_possible_is_named_as_not_checked() -> None:
    comparison = Comparison((compared(),), checks=(not_possible("dump", "shop", "no pg_dump"),))
    proof = make_proof(archive("possible"), fence(), "l", now, comparison=comparison)
    assert proof.not_checked[-2:] == (NotChecked("shop", "check dump", "no pg_dump"), NEVER_CHECKED)


def test_a_proof_of_before_there_were_checks_is_read() -> None:
    proof = make_proof(archive("old"), fence(), "l", now, comparison=Comparison((compared(),)))
    tree = proof.as_dict()
    del tree["checks"]
    assert Proof.from_dict(tree) == proof
