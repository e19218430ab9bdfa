"""Expectations: the comparison, and the user's own checks on the restored databases, as Great Expectations suites.

The import takes three seconds, so it happens inside the functions. Everything runs offline, in an ephemeral
context; a check that raised, and a suite that checked nothing, count as failed. Of unexpected rows not more than
twenty are kept, without the values of columns that are named as secrets are.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgproof.config import ClusterConfig, Config
from pgproof.errors import PermanentError, PgproofError
from pgproof.private import make_private
from pgproof.validation import frames
from pgproof.validation.comparison import Comparison
from pgproof.validation.expectations import data_docs
from pgproof.validation.expectations.batch import Batch, Batches
from pgproof.validation.expectations.suite import (
    TABLES,
    Expected,
    comparison_expectations,
    configured,
    read_suite,
)
from pgproof.validation.expectations.unexpected import MOST, bounded, failure_of, holds_secret


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
        docs: directory for the Data Docs of this drill, in that of its cluster; made at once, for this account
            alone. Its name is the drill's.
        suite: of the cluster, from its file; None takes the expectations of every comparison.

    Raises:
        PermanentError: the directory cannot be made.
    """

    def __init__(self, cluster: ClusterConfig, docs: Path, suite: Iterable[Expected] | None = None) -> None:
        self._cluster, self._docs = cluster, docs
        self._suite = tuple(comparison_expectations() if suite is None else suite)
        try:  # before anything is restored
            for place in (docs.parents[1], docs.parent, docs):
                make_private(place)
            docs.parents[1].chmod(0o700)  # root's, too: no server's account passes through
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
        own = configured(self._cluster)
        for number, wanted in enumerate(own):
            if wanted.database == database:
                name = f"{self._cluster.name}-{database}-{number + 1}-{wanted.type}"
                self._judge(name, [wanted], functools.partial(Batches.rows, wanted=wanted, dsn=dsn))
        mine = {str(wanted) for wanted in own}  # one that is in both is run once
        places: dict[str, list[Expected]] = {}
        for wanted in self._suite:
            if wanted.database == database and str(wanted) not in mine:
                places.setdefault(wanted.place, []).append(wanted)
        for place, expectations in places.items():
            name = f"{self._cluster.name}-{place}"
            self._judge(
                name, expectations, functools.partial(Batches.inside, wanted=expectations[0], dsn=dsn)
            )

    def finish(self, comparison: Comparison, expected: int, gap: str) -> ExpectationOutcome:
        """Run the comparison's suite, and write the Data Docs.

        Args:
            comparison: source beside restored.
            expected: how many tables it must have; the suite fails when another number was compared.
            gap: why it proves nothing; empty where it does, also where the source has no table.
        """
        wanted = {e.database for e in (*configured(self._cluster), *self._suite) if e.database is not None}
        for database in sorted(wanted - self._visited):
            self._fail(f"{self._cluster.name}-{database}", f"database {database} was not restored")
        name = f"{self._cluster.name}-restore-equals-source"
        judged = [wanted for wanted in self._suite if wanted.database is None]
        if gap:
            self._fail(name, gap)
        elif judged:
            frame = _comparison_frame(comparison)
            self._judge(name, judged, lambda batches: batches.frame("comparison", frame), {TABLES: expected})
        return self._outcome()

    def _outcome(self) -> ExpectationOutcome:
        met = sum(suite["met"] for suite in self._suites.values())
        total = sum(suite["expectations"] for suite in self._suites.values())
        failures = [text for suite in self._suites.values() for text in suite["failures"]]
        summary = f"{met} of {total} expectations met" + (f"; {failures[0]}" if failures else "")
        success = not failures and met == total > 0
        index = None
        with quiet(), contextlib.suppress(Exception):  # pages to look at; the results are stored besides
            data_docs.build_docs(self._context())
            index = data_docs.finish_docs(self._docs, success, summary)
        return ExpectationOutcome(success, summary, self._suites, self._results, str(index or ""))

    def _context(self) -> Any:
        if self._open is None:
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            with quiet():
                context = gx.get_context(mode="ephemeral")
            context.variables.progress_bars = ProgressBarsConfig(globally=False)
            for name in list(context.get_site_names()):
                context.delete_data_docs_site(name)
            with quiet():
                context.add_data_docs_site(site_name=data_docs.SITE, site_config=data_docs.site(self._docs))
            self._open = context
        return self._open

    def _judge(
        self,
        name: str,
        expectations: list[Expected],
        batch: Callable[[Batches], Batch],
        parameters: dict[str, Any] | None = None,
    ) -> None:
        """Run one suite; whatever a user's query or expectation raises, it was not met."""
        first = expectations[0]
        what = "the comparison" if first.database is None else first.table or "query"
        kinds = first.type if len({e.type for e in expectations}) == 1 else "the suite"
        self._suites[name] = {"expectations": 0, "met": 0, "failures": []}
        self._results[name] = []
        try:
            with quiet():
                rows = batch(Batches(self._context(), data_docs.page_name(name)))
                for hidden in (False, True):
                    chosen = [e for e in expectations if holds_secret(e.kwargs) is hidden]
                    if chosen:
                        self._validate(name, rows, chosen, hidden, parameters)
        except Exception as error:
            self._fail(name, f"{kinds} on {what} could not run: {error}")

    def _validate(
        self, name: str, batch: Batch, chosen: list[Expected], hidden: bool, parameters: dict[str, Any] | None
    ) -> None:
        import great_expectations as gx
        from great_expectations.core.run_identifier import RunIdentifier

        context = self._context()
        title = data_docs.page_name(f"{name}-hidden" if hidden else name)
        suite = context.suites.add_or_update(
            gx.ExpectationSuite(name=title, expectations=[_build(e) for e in chosen])
        )
        definition = context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=title, data=batch.definition, suite=suite)
        )
        form: Any = {"result_format": "SUMMARY", "partial_unexpected_count": 0 if hidden else MOST}
        if (key := chosen[0].key or batch.key) and not hidden:
            form["unexpected_index_column_names"] = list(key)
        checkpoint = context.checkpoints.add_or_update(
            gx.Checkpoint(
                name=f"{title}-{self._docs.name}", validation_definitions=[definition], result_format=form
            )
        )
        ran = checkpoint.run(
            batch_parameters=batch.parameters,
            expectation_parameters=parameters,
            run_id=RunIdentifier(run_name=f"{self._cluster.name} {self._docs.name}"),
        )
        for result in ran.run_results.values():
            failures = [text for outcome in result.results if (text := failure_of(outcome))]
            counts = self._suites[name]
            counts["expectations"] += len(result.results)
            counts["met"] += len(result.results) - len(failures)
            counts["failures"] += failures
            tree = json.loads(json.dumps(result.to_json_dict(), default=str))
            self._results[name].append(bounded(tree))

    def _fail(self, name: str, reason: str) -> None:
        self._suites[name] = {"expectations": 1, "met": 0, "failures": [reason]}
        self._results.pop(name, None)


def _comparison_frame(comparison: Comparison) -> Any:
    records = comparison.as_records()
    return frames.frame(
        frames.TABLES, ({**record, "table": f"{record['database']}.{record['table']}"} for record in records)
    )


def _build(wanted: Expected) -> Any:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(type=wanted.type, kwargs=dict(wanted.kwargs)).to_domain_obj()


def open_run(config: Config, cluster: ClusterConfig, drill: str) -> ExpectationRun | None:
    """The suites of a drill; None where Great Expectations is not installed and nobody asked for it.

    Args:
        config: where the suite's file and the Data Docs lie.
        cluster: of the drill.
        drill: identifier of its fence.

    Raises:
        ConfigError: the suite's file cannot be used.
        PgproofError: there are expectations, and Great Expectations is not installed.
    """
    suite = read_suite(config.suite_of(cluster))
    if available():
        with contextlib.suppress(OSError):  # said for the pages
            make_private(config.state)
        return ExpectationRun(cluster, config.state / "data-docs" / cluster.name / drill, suite)
    if cluster.expectations or suite is not None:
        raise PgproofError(
            f'cluster "{cluster.name}" has expectations and Great Expectations is not installed',
            hint="pip install 'pgproof[prefect]'",
        )
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
