"""Expectations: the comparison, and the user's own checks on the restored databases, as Great Expectations suites.

The import takes three seconds, so it happens inside the functions. Everything runs offline, in an ephemeral
context; a check that raised, and a suite that checked nothing, count as failed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgproof.config import ClusterConfig, ExpectationConfig
from pgproof.errors import PermanentError
from pgproof.validation.comparison import Comparison

_SITE = "pgproof"


@dataclass(frozen=True)
class ExpectationOutcome:
    """What the suites say.

    Args:
        success: every expectation of every suite was met.
        summary: one line.
        suites: name to the counts of that suite and its failures.
        results: Great Expectations' own complete results, as JSON values.
        data_docs: index page of the Data Docs.
    """

    success: bool
    summary: str
    suites: dict[str, dict[str, Any]]
    results: dict[str, Any] = field(repr=False)
    data_docs: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What the proof record keeps; the complete results are stored beside it."""
        return {
            "success": self.success,
            "summary": self.summary,
            "suites": self.suites,
            "data_docs": self.data_docs,
        }


class ExpectationRun:
    """The suites of one drill.

    Args:
        cluster: whose ``expectations`` are the user's own.
        docs: directory for the Data Docs of this drill; made at once.

    Raises:
        PermanentError: the directory cannot be made.
    """

    def __init__(self, cluster: ClusterConfig, docs: Path) -> None:
        self._cluster, self._docs = cluster, docs
        try:  # before anything is restored
            docs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentError(
                f'cannot write Data Docs into "{docs}"',
                f"{error.strerror}.",
                "set state_directory in pgproof.toml to a directory that this account can write",
            ) from error
        self._suites: dict[str, dict[str, Any]] = {}
        self._results: dict[str, Any] = {}
        self._visited: set[str] = set()
        self._open: Any = None

    def on_database(self, database: str, dsn: str) -> None:
        """Run the user's expectations of one database while the restored copy is at its cut."""
        self._visited.add(database)
        for number, wanted in enumerate(self._cluster.expectations):
            if wanted.database != database:
                continue
            name = f"{self._cluster.name}-{database}-{number + 1}-{wanted.type}"
            try:
                self._validate(name, _read_frame(wanted, dsn), [_build(wanted)], None)
            except Exception as error:  # whatever a user's query or expectation raises, it was not met
                self._fail(name, f"{wanted.type} on {wanted.table or 'query'} could not run: {error}")

    def finish(self, comparison: Comparison, expected_tables: int) -> ExpectationOutcome:
        """Run the comparison's suite, and write the Data Docs.

        Args:
            comparison: source beside restored.
            expected_tables: how many tables the fence counted; the suite fails when another number was
                compared, so that an empty comparison never passes. Those that the comparison names as not
                checked are taken off.
        """
        for database in sorted({wanted.database for wanted in self._cluster.expectations} - self._visited):
            self._fail(f"{self._cluster.name}-{database}", f"database {database} was not restored")
        name = f"{self._cluster.name}-restore-equals-source"
        expected = expected_tables - len(comparison.not_checked)
        if expected < 1 or not comparison.tables:
            self._fail(name, "nothing was compared")
        else:
            self._validate(name, _comparison_frame(comparison), _suite(expected), ["table"])
        with _quiet(), contextlib.suppress(Exception):  # pages to look at; the results are stored besides
            self._context().build_data_docs()
        index = next(iter(sorted(self._docs.rglob("index.html"))), None)
        met = sum(suite["met"] for suite in self._suites.values())
        total = sum(suite["expectations"] for suite in self._suites.values())
        failures = [text for suite in self._suites.values() for text in suite["failures"]]
        summary = f"{met} of {total} expectations met" + (f"; {failures[0]}" if failures else "")
        return ExpectationOutcome(
            not failures and met == total > 0, summary, self._suites, self._results, str(index or "")
        )

    def _context(self) -> Any:
        if self._open is None:
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            with _quiet():
                context = gx.get_context(mode="ephemeral")
            context.variables.progress_bars = ProgressBarsConfig(globally=False)
            store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(self._docs)}
            for name in list(context.get_site_names()):
                context.delete_data_docs_site(name)
            site = {
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": store,
            }
            with _quiet():
                context.add_data_docs_site(site_name=_SITE, site_config=site)
            self._open = context
        return self._open

    def _validate(self, name: str, frame: Any, expectations: list[Any], index: list[str] | None) -> None:
        import great_expectations as gx

        context = self._context()
        source = context.data_sources.add_pandas(name)
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("restored")
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        form: Any = {"result_format": "COMPLETE"}
        if index:
            form["unexpected_index_column_names"] = index
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(name=name, validation_definitions=[definition], result_format=form)
        )
        with _quiet():
            ran = checkpoint.run(batch_parameters={"dataframe": frame})
        result = next(iter(ran.run_results.values()))
        outcomes = list(result.results)
        failures = [text for outcome in outcomes if (text := _failure(outcome))]
        self._suites[name] = {
            "expectations": len(outcomes),
            "met": len(outcomes) - len(failures),
            "failures": failures,
        }
        self._results[name] = json.loads(json.dumps(result.to_json_dict(), default=str))

    def _fail(self, name: str, reason: str) -> None:
        self._suites[name] = {"expectations": 1, "met": 0, "failures": [reason]}


def _suite(expected_tables: int) -> list[Any]:
    from great_expectations import expectations as gxe

    return [
        gxe.ExpectTableRowCountToEqual(value=expected_tables),
        gxe.ExpectColumnValuesToBeUnique(column="table"),
        gxe.ExpectColumnValuesToBeBetween(column="source_rows", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="restored_rows", min_value=0),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="source_rows", column_B="restored_rows"),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="source_hash", column_B="restored_hash"),
        gxe.ExpectColumnValuesToBeInSet(column="note", value_set=[""]),
    ]


def _comparison_frame(comparison: Comparison) -> Any:
    import pandas

    records = comparison.as_records()
    frame = pandas.DataFrame.from_records(records)
    frame["table"] = [f"{record['database']}.{record['table']}" for record in records]
    return frame.astype({"source_rows": "int64", "restored_rows": "int64"})


def _read_frame(wanted: ExpectationConfig, dsn: str) -> Any:
    """The rows that an expectation looks at, as a data frame."""
    import pandas

    with psycopg.connect(dsn, autocommit=True) as connection:
        query: Any = wanted.query
        if wanted.table is not None:
            query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(*wanted.table.split(".", 1)))
        cursor = connection.execute(query)
        columns = [column.name for column in cursor.description or ()]
        return pandas.DataFrame(cursor.fetchall(), columns=columns)


def _build(wanted: ExpectationConfig) -> Any:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(type=wanted.type, kwargs=dict(wanted.kwargs)).to_domain_obj()


def _failure(outcome: Any) -> str:
    """Why one expectation was not met; empty when it was. One that raised was not met."""
    config = outcome.expectation_config
    raised = outcome.exception_info or {}
    details = [raised] if "raised_exception" in raised else list(raised.values())
    for detail in details:
        if isinstance(detail, dict) and detail.get("raised_exception"):
            return f"{config.type} raised: {detail.get('exception_message')}"
    if outcome.success:
        return ""
    result = outcome.to_json_dict().get("result") or {}
    rows = result.get("unexpected_index_list") or []
    named = bool(rows) and isinstance(rows[0], dict)  # else they are numbers of rows, which say nothing
    found = (rows if named else result.get("partial_unexpected_list")) or []
    shown = found[:3] or result.get("observed_value")
    kwargs = {k: v for k, v in config.kwargs.items() if k not in ("batch_id", "value_set")}
    return f"{config.type} {kwargs} found {shown}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Great Expectations logs every step at INFO and warns of its own internals."""
    import logging
    import warnings

    # some of its modules set a level of their own, so each is told
    names = [name for name in logging.root.manager.loggerDict if name.startswith("great_expectations")]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def available() -> bool:
    """Whether Great Expectations is installed here; a database host has the engine alone."""
    from importlib.util import find_spec

    return find_spec("great_expectations") is not None
