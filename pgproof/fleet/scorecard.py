"""A scorecard is the scores of many clusters, one row each; a cluster that cannot be read has a row as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from pgproof.errors import PgproofError
from pgproof.fleet.score import Score, unread

_WORKERS = 8  # clusters that are read at once: most of the time is spent waiting for stores
# What says that a cluster could not be read; anything else is a fault of ours, and is not hidden in a row
UNREADABLE = (PgproofError, OSError, psycopg.Error)


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The scores of a fleet.

    Args:
        at: when it was begun.
        scores: one a cluster, as the configuration orders them.
    """

    at: datetime
    scores: tuple[Score, ...]

    @property
    def ok(self) -> bool:
        """Whether every cluster is in order; a fleet without clusters is not."""
        return bool(self.scores) and all(score.ok for score in self.scores)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return {
            "at": self.at.isoformat(),
            "ok": self.ok,
            "clusters": [score.as_dict() for score in self.scores],
        }


def make_scorecard(clusters: Sequence[str], now: datetime, measure: Callable[[str], Score]) -> Scorecard:
    """Look at every cluster, several at once; one that cannot be read keeps no other from being read.

    Args:
        clusters: their names.
        now: aware.
        measure: reads one of them.
    """

    def score(cluster: str) -> Score:
        try:
            return measure(cluster)
        except UNREADABLE as error:
            return unread(cluster, now, error)

    with ThreadPoolExecutor(_WORKERS, "fleet") as pool:
        return Scorecard(now, tuple(pool.map(score, clusters)))
