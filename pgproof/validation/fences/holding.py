"""Holding is keeping the source's snapshots open: while it lasts, vacuum removes no row that they still see.

The oldest of them is the horizon (``xmin`` of pg_stat_activity, ``GetOldestNonRemovableTransactionId``) for the
vacuum of every table of its database, and of the shared catalogs. So it may have a limit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holding:
    """Snapshots that are open.

    Args:
        started: by ``time.monotonic``.
        limit: seconds; 0 is none.
    """

    started: float
    limit: int = 0

    @classmethod
    def begin(cls, limit: int) -> Holding:
        """Snapshots that are taken now."""
        return cls(time.monotonic(), limit)

    @property
    def seconds(self) -> float:
        """For how long they have been open."""
        return time.monotonic() - self.started

    @property
    def over(self) -> bool:
        """Whether they are open for longer than they may."""
        return self.limit > 0 and self.seconds >= self.limit

    @property
    def reason(self) -> str:
        """Why something is left out."""
        return f"the snapshots were held for drill.hold_limit, {self.limit} s, before it was counted"

    def statement_timeout(self, wanted: int) -> int:
        """Milliseconds that a statement may take, so that it ends with the limit.

        Args:
            wanted: seconds; 0 is no limit.
        """
        if not self.limit:
            return wanted * 1000
        left = max(1, round((self.limit - self.seconds) * 1000))
        return min(left, wanted * 1000) if wanted else left
