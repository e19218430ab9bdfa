"""``fleet``: one row for each cluster of the configuration, and below it what each of them misses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgproof.commands.backups import now
from pgproof.commands.console import Console, Session, table
from pgproof.errors import ConfigError
from pgproof.fleet.score import Score, measure_score
from pgproof.fleet.scorecard import Scorecard, make_scorecard
from pgproof.wording import counted, duration

COLUMNS = ("cluster", "verdict", "last proven (UTC)", "recovery window (UTC)", "RPO", "RTO", "gaps")


def fleet(session: Session, names: Sequence[str]) -> int:
    """Show the scorecard of all clusters, or of those that are named."""
    chosen = [session.cluster(name).name for name in names] or list(session.config.clusters)
    if not chosen:
        raise ConfigError("no cluster is configured", hint="pgproof init NAME --dsn ... --repository ...")
    at = now()

    def measure(name: str) -> Score:
        cluster = session.cluster(name)
        return measure_score(cluster, session.archive(cluster), at, session.copies(cluster))

    card = make_scorecard(list(dict.fromkeys(chosen)), at, measure)
    session.show(card.as_dict(), lambda console: show(console, card))
    return 0 if card.ok else 1


def show(console: Console, card: Scorecard) -> None:
    """The verdict, a row for each cluster, then what is missed with the command for it."""
    good = sum(score.ok for score in card.scores)
    style = "green" if card.ok else "red"
    console.print(f"{good} of {counted(len(card.scores), 'cluster')} in order", style=style)
    console.print(table("", COLUMNS, [row(score) for score in card.scores]))
    for score in card.scores:
        for miss in score.misses:
            line = f"{score.cluster}: {miss.what}: {miss.command}"
            console.print(line, style="yellow")


def row(score: Score) -> tuple[str, ...]:
    """One cluster as a row of the scorecard.

    Args:
        score: of the cluster.
    """
    if score.measured is None:
        return (score.cluster, "NOT READ", *["unknown"] * (len(COLUMNS) - 2))
    goals = score.measured.objectives
    newest = goals.trend.newest
    return (
        score.cluster,
        "in order" if score.ok else "MISSED",
        _proven(score),
        _window(score),
        _against(goals.wal.rpo_seconds, goals.rpo, goals.rpo_met),
        _against(newest.rto_seconds if newest else None, goals.rto, goals.rto_met),
        counted(score.missing or 0, "segment") if score.missing else "none",
    )


def _proven(score: Score) -> str:
    assert score.measured is not None
    proof = score.measured.proof
    if proof.at is None:
        return "never"
    return f"{proof.at:%F %R}{', stale' if proof.stale else ''}"


def _window(score: Score) -> str:
    reach = score.reach
    return "none" if reach is None else f"{_minute(reach.start)} to {_minute(reach.end)}"


def _minute(moment: datetime | None) -> str:
    return "?" if moment is None else f"{moment:%F %R}"


def _against(measured: float | None, target: float, met: bool | None) -> str:
    """What was measured, beside its target."""
    if measured is None:
        return f"not measured of {duration(target)}"
    verdict = {True: "", False: ", MISSED", None: ", not known"}[met]
    return f"{duration(measured)} of {duration(target)}{verdict}"
