"""A judgement is the comparison of a restored copy, with what Great Expectations says of it: one step of a drill.

The command and the flow take this same step, so that both give the same proof.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgproof.config import ClusterConfig, Config
from pgproof.validation.comparing import compare_restored
from pgproof.validation.comparison import Comparison
from pgproof.validation.coverage import expected_tables, gap_in
from pgproof.validation.drill import Done, Restored
from pgproof.validation.expectations.suites import ExpectationOutcome, open_run
from pgproof.validation.fences.fence import Fence
from pgproof.validation.progress import progress_of


@dataclass(frozen=True)
class Judgement:
    """What was found; the outcome is None where Great Expectations is not installed."""

    comparison: Comparison
    outcome: ExpectationOutcome | None


def judge(
    config: Config,
    cluster: ClusterConfig,
    fence: Fence,
    restored: Restored,
    seed: int | None = None,
    told: Done = lambda rows: None,
) -> Judgement:
    """Recover the copy to its cuts, compare it and run the suites; called again after a fault, it goes on.

    What was compared is not compared again: neither a cut that is done, nor a copy that was opened since.

    Args:
        config: where the suite and the Data Docs lie.
        cluster: of the drill.
        fence: what the source held.
        restored: the copy.
        seed: of the choice of recovery targets; None takes that of the fence.
        told: the source's rows of each table that is compared.

    Raises:
        as compare_restored, and ConfigError when the suite's file cannot be used.
    """
    progress = progress_of(restored.scratch.root, fence)
    if progress.run is None:
        progress.run = open_run(config, cluster, fence.identifier)
    run = progress.run
    if progress.comparison is None:
        on_database = run.on_database if run else (lambda database, dsn: None)
        progress.comparison = compare_restored(cluster, fence, restored, on_database, seed, told)
    comparison = progress.comparison
    expected, gap = expected_tables(fence, comparison), gap_in(fence, comparison)
    return Judgement(comparison, run.finish(comparison, expected, gap) if run else None)
