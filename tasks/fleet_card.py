"""The card of the fleet: the scorecard, with what this run did for each cluster; as artifact, event and result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect import task
from prefect.events import emit_event

from pgproof.commands.fleet import COLUMNS, row
from pgproof.fleet.score import Score, measure_score, unread
from pgproof.postgres.names import shown_tree
from pgproof.wording import counted, duration
from tasks.artifacts import Page, heading, item, store
from tasks.events import Event, emit, words
from tasks.fleet import Outcome
from tasks.markdown import below, code, joined, strong, table
from tasks.members import Member
from tasks.retries import HOUR, RETRY, settings
from tasks.work import now, open_work

KEY = "pgproof-fleet"  # of the artifact
PROTECTED = "pgproof.fleet.protected"  # protect completed for every cluster
UNPROTECTED = "pgproof.fleet.unprotected"  # it did not, for one at least
SKIPPED = "pgproof.fleet.skipped"  # protect did not run for this cluster, and no run of it says so
REACHED = "pgproof.fleet.reached"  # it ran for this cluster, however it ended
RESOURCE = {"prefect.resource.id": "pgproof.fleet", "prefect.resource.name": "fleet"}


@dataclass(frozen=True, slots=True)
class FleetCard:
    """What one run of the fleet came to.

    Args:
        at: when the scores were read.
        outcomes: what the run did for each cluster.
        scores: what each cluster's repository says afterwards, in the same order.
    """

    at: datetime
    outcomes: tuple[Outcome, ...]
    scores: tuple[Score, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if not outcome.ok)

    def as_dict(self) -> dict[str, Any]:
        """The result of the flow."""
        return {
            "at": self.at.isoformat(),
            "ok": bool(self.outcomes) and not self.failed,
            "clusters": [
                {**score.as_dict(), "run": _run_dict(outcome)}
                for outcome, score in zip(self.outcomes, self.scores, strict=True)
            ],
        }


def _run_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "result": outcome.result,
        "message": outcome.message,
        "runs": list(outcome.runs),
        "seconds": outcome.seconds,
    }


@task(**settings("read score", HOUR), **RETRY)
def read_score(cluster: str, config: str | None = None) -> Score:
    """What a cluster's repository says of its recovery, seen from this worker."""
    work = open_work(cluster, config)
    return measure_score(work.cluster, work.archive, now(), work.copies)


def read_scores(members: Sequence[Member]) -> list[Score]:
    """The scores of all members; one that cannot be read has a row that says so.

    Args:
        members: the clusters.
    """
    futures = [
        read_score.with_options(task_run_name=f"read score of {one.cluster}").submit(one.cluster, one.config)
        for one in members
    ]
    found = []
    for member, future in zip(members, futures, strict=True):
        future.wait()
        read: Any = future.state.result(raise_on_failure=False)
        found.append(read if isinstance(read, Score) else unread(member.cluster, now(), read))
    return found


def show_fleet(card: FleetCard) -> None:
    """The artifact: the verdict, a row for each cluster, then what is to be done."""
    lines = [
        (score.cluster, _in_words(outcome), *map(_narrow, row(score)[2:]))
        for outcome, score in zip(card.outcomes, card.scores, strict=True)
    ]
    title = _verdict(card)
    page: Page = [heading(title), "", table((COLUMNS[0], "this run", *COLUMNS[2:]), lines), ""]
    if card.failed:
        page += [heading("What went wrong in this run", 2), ""]
        page += [item(strong(one.cluster), f" {one.result}: {one.message}") for one in card.failed]
        page += [""]
    misses = [(score.cluster, miss) for score in card.scores for miss in score.misses]
    if misses:
        page += [heading("What is not in order", 2), ""]
        page += [item(strong(cluster), f": {miss.what}: ", code(miss.command)) for cluster, miss in misses]
        page += [""]
    page.append(joined(f"Read at {card.at:%F %T} UTC; ", code("pgproof fleet"), " shows it now."))
    store(KEY, page, title)


def _verdict(card: FleetCard) -> str:
    good = len(card.outcomes) - len(card.failed)
    return f"The fleet: {good} of {counted(len(card.outcomes), 'cluster')} protected"


def _narrow(cell: str) -> str:
    """A value and its target, or both ends of a window, one below the other: the page cuts off what is wider."""
    return below(re.split(r" (?=to |of )", cell))


def _in_words(outcome: Outcome) -> str:
    took = f", {duration(outcome.seconds)}" if outcome.seconds is not None else ""
    again = f", after {len(outcome.runs) - 1} more" if outcome.ok and len(outcome.runs) > 1 else ""
    return f"{outcome.result}{took}{again}" if outcome.ok else joined(strong(outcome.result), took)


def fleet_event(card: FleetCard) -> Event:
    """The event of one run of the fleet."""
    total = counted(len(card.outcomes), "cluster")
    values = {
        "clusters": [
            {
                "cluster": outcome.cluster,
                "result": outcome.result,
                "message": outcome.message[:500],
                "misses": [miss.what[:200] for miss in score.misses[:5]],
            }
            for outcome, score in zip(card.outcomes, card.scores, strict=True)
        ],
        "failed": [outcome.cluster for outcome in card.failed],
    }
    if card.failed:
        names = ", ".join(outcome.cluster for outcome in card.failed)
        meaning = f"without a new backup, or without its proof: {names}"
        what = f"{len(card.failed)} of {total} were not protected"
        return Event(UNPROTECTED, {**words(what, meaning, "pgproof fleet"), **values})
    meaning = "each has a new backup that was restored and compared"
    return Event(PROTECTED, {**words(f"{total} protected", meaning, "pgproof fleet"), **values})


def cluster_event(outcome: Outcome) -> Event | None:
    """The event of one cluster, for its alert; None where its run, or that no worker takes it, is told already.

    A run that failed or crashed is an event of Prefect's, one that no worker takes is *late* long before it is
    withdrawn, and who cancelled one knows. Of a run that was never made Prefect knows nothing.

    Args:
        outcome: what became of the cluster.
    """
    values = {"result": outcome.result, "message": outcome.message[:500]}
    if outcome.skipped:
        what = f"protect-fleet left out cluster {outcome.cluster}, {outcome.result}: {outcome.message}"
        meaning = (
            "this run of the fleet brought it no new backup and no proof; what it had before is still there"
        )
        return Event(SKIPPED, {**words(what, meaning, outcome.command), **values})
    if outcome.seconds is None:
        return None
    what = f"protect-fleet ran protect for cluster {outcome.cluster}, {outcome.result}"
    meaning = "it is part of the fleet's work"
    return Event(REACHED, {**words(what, meaning, f"pgproof fleet {outcome.cluster}"), **values})


def emit_fleet(card: FleetCard) -> None:
    """Send the events to the server of this run; one that is lost hides nothing, because the run fails as well.

    Args:
        card: of the run.
    """
    event = fleet_event(card)
    emit_event(event.name, RESOURCE, payload=shown_tree(event.payload))
    for outcome in card.outcomes:
        if (found := cluster_event(outcome)) is not None:
            emit(outcome.cluster, [found])
