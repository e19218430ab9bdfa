"""Great Expectations on a drill: what passes, what fails and with which text; offline, and without a word printed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.config import ExpectationConfig
from pgproof.errors import PermanentError
from pgproof.validation.comparison import MISSING, Comparison, TableComparison
from pgproof.validation.expectations.suites import ExpectationOutcome, ExpectationRun, available
from tests.servers.postgres import Source
from tests.validation.values import compared, comparison


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection leaves this host."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"it connects to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing is printed."""
    yield
    assert tuple(capfd.readouterr()) == ("", "")


def run_of(source: Source, docs: Path, *expectations: dict[str, Any]) -> ExpectationRun:
    wanted = tuple(ExpectationConfig.model_validate({"database": "postgres"} | e) for e in expectations)
    return ExpectationRun(source.cluster.model_copy(update={"expectations": wanted}), docs)


# ---- the comparison


def test_an_equal_comparison_passes(shared: Source, tmp_path: Path) -> None:
    outcome = run_of(shared, tmp_path).finish(comparison(compared(), compared("public.u")), 2, "")
    assert outcome.success
    assert outcome.summary == "7 of 7 expectations met"
    assert outcome.suites == {"main-restore-equals-source": {"expectations": 7, "met": 7, "failures": []}}
    assert Path(outcome.data_docs).is_file()
    assert Path(outcome.data_docs).name == "index.html"
    ((result,),) = outcome.results.values()
    assert json.loads(json.dumps(result))["success"] is True


BIG = (1 << 53) + 1
FAILING = [
    (comparison(compared("public.t", 3, 2)), 1, "'restored_rows': 2"),
    (comparison(compared("public.t", 3, MISSING)), 1, "expect_column_values_to_be_between"),
    (comparison(compared("public.t", MISSING, 3)), 1, "expect_column_values_to_be_between"),
    (Comparison((TableComparison("shop", "public.t", 3, 3, "11", "12"),)), 1, "'source_hash': '11'"),
    (comparison(compared("public.t", BIG, BIG - 1)), 1, f"'restored_rows': {BIG - 1}"),
    (comparison(compared("public.t", 3, 3, "columns a became b")), 1, "columns a became b"),
    (comparison(compared()), 2, "expect_table_row_count_to_equal {'value': 2} found 1"),
    (comparison(compared(), compared()), 2, "expect_column_values_to_be_unique"),
    (comparison(compared(), compared("public.surplus", MISSING, 0)), 1, "expect_table_row_count_to_equal"),
    (Comparison(()), 1, "expect_table_row_count_to_equal {'value': 1} found 0"),
    (comparison(compared()), 0, "expect_table_row_count_to_equal {'value': 0} found 1"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "expected", "text"), FAILING, ids=range(len(FAILING)))
def test_a_comparison_that_is_not_equal_fails(
    shared: Source, tmp_path: Path, found: Comparison, expected: int, text: str
) -> None:
    outcome = run_of(shared, tmp_path).finish(found, expected, "")
    assert not outcome.success
    failures = outcome.suites["main-restore-equals-source"]["failures"]
    assert any(text in failure for failure in failures), failures
    assert failures[0] in outcome.summary


def test_a_comparison_that_proves_nothing_fails_with_the_reason(shared: Source, tmp_path: Path) -> None:
    outcome = run_of(shared, tmp_path).finish(
        Comparison(()), 0, "nothing was compared: shop: public.u: locked"
    )
    assert (outcome.success, outcome.summary) == (
        False,
        "0 of 1 expectations met; nothing was compared: shop: public.u: locked",
    )


def test_a_source_without_tables_meets_the_suite(shared: Source, tmp_path: Path) -> None:
    outcome = run_of(shared, tmp_path).finish(Comparison(()), 0, "")
    assert (outcome.success, outcome.summary) == (True, "7 of 7 expectations met")


def test_large_counts_stay_exact(shared: Source, tmp_path: Path) -> None:
    assert run_of(shared, tmp_path).finish(comparison(compared("public.t", BIG, BIG)), 1, "").success


# ---- the user's own

T = {"table": "public.t"}
BETWEEN = {"type": "expect_column_values_to_be_between"}
PASSING = [
    T | {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 100}},
    T | BETWEEN | {"kwargs": {"column": "g", "min_value": 1, "max_value": 100}},
    BETWEEN | {"query": "SELECT count(*) AS n FROM t", "kwargs": {"column": "n", "min_value": 1}},
    {"type": "expect_column_values_to_not_be_null", "query": "SELECT now() AS at, 1.5 AS n, NULL AS x",
     "kwargs": {"column": "at"}},
    {"type": "expect_table_row_count_to_equal", "query": "SELECT 1 WHERE false", "kwargs": {"value": 0}},
]  # fmt: skip
NOT_MET = [
    (T | {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 99}},
     "expect_table_row_count_to_equal {'value': 99} found 100"),
    (T | BETWEEN | {"kwargs": {"column": "g", "max_value": 98}},
     "expect_column_values_to_be_between {'column': 'g', 'max_value': 98.0} found [99, 100]"),
    (T | BETWEEN | {"kwargs": {"column": "absent", "max_value": 98}}, 'column "absent"'),
    (T | BETWEEN | {"kwargs": {}}, "could not run"),
    (T | BETWEEN | {"kwargs": {"column": "g", "min_value": "x"}}, "expect_column_values_to_be_between"),
    (T | {"type": "expect_nothing_at_all"}, "expect_nothing_at_all on public.t could not run: "),
    ({"type": "expect_table_row_count_to_equal", "table": "public.absent", "kwargs": {"value": 1}},
     'could not run: relation "public.absent" does not exist'),
    ({"type": "expect_table_row_count_to_equal", "table": "absent", "kwargs": {"value": 1}},
     'could not run: relation "absent" does not exist'),
    (BETWEEN | {"query": "SELECT 1/0 AS a", "kwargs": {"column": "a"}},
     "on query could not run: division by zero"),
    (BETWEEN | {"query": "SELEC", "kwargs": {"column": "a"}}, "could not run: syntax error"),
    (BETWEEN | {"query": "SELECT 'infinity'::timestamptz AS a", "kwargs": {"column": "a"}}, "could not run: "),
    (T | {"type": "expect_table_row_count_to_equal", "database": "elsewhere", "kwargs": {"value": 1}},
     "database elsewhere was not restored"),
    (T | {"type": "expect_table_row_count_to_equal", "database": "post", "kwargs": {"value": 1}},
     "database post was not restored"),
]  # fmt: skip


def finish(run: ExpectationRun, source: Source) -> ExpectationOutcome:
    run.on_database("postgres", source.dsn())
    run.on_database("postgres-more", source.dsn())
    return run.finish(comparison(), 1, "")


def test_expectations_that_are_met(shared: Source, tmp_path: Path) -> None:
    outcome = finish(run_of(shared, tmp_path, *PASSING), shared)
    assert outcome.success, outcome.summary
    assert outcome.summary == "12 of 12 expectations met"
    assert set(outcome.suites) == {
        "main-restore-equals-source",
        *(f"main-postgres-{number}-{wanted['type']}" for number, wanted in enumerate(PASSING, 1)),
    }


@pytest.mark.parametrize(("wanted", "text"), NOT_MET, ids=range(len(NOT_MET)))
def test_an_expectation_that_is_not_met(
    shared: Source, tmp_path: Path, wanted: dict[str, Any], text: str
) -> None:
    outcome = finish(run_of(shared, tmp_path, PASSING[0], wanted), shared)
    assert not outcome.success
    failures = [failure for suite in outcome.suites.values() for failure in suite["failures"]]
    assert len(failures) == 1
    assert text in failures[0]
    assert outcome.summary == f"8 of 9 expectations met; {failures[0]}"


def test_data_docs_that_cannot_be_written_do_not_cost_the_proof(shared: Source, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    run = run_of(shared, docs, PASSING[0])
    run.on_database("postgres", shared.dsn())
    docs.chmod(0o500)
    for path in docs.rglob("*"):
        path.chmod(0o500)
    try:
        outcome = run.finish(comparison(), 1, "")
    finally:
        for path in (docs, *docs.rglob("*")):
            path.chmod(0o700)
    assert outcome.success
    assert outcome.results


def test_docs_directory_that_cannot_be_made(shared: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError) as caught:
        run_of(shared, tmp_path / "file" / "docs")
    assert caught.value.fact == f'cannot write Data Docs into "{tmp_path}/file/docs"'


def test_great_expectations_is_here() -> None:
    assert available()
