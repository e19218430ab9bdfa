"""A vigil is kept at runs that give no sign of life: one that stays silent is dead.

It judges as ``reap`` does (``tasks.life``), and is for a flow that looks at its own runs again and again anyway: it
never waits, and remembers instead what it saw and when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from tasks.life import Patience, Silent, look


@dataclass
class Vigil:
    """The silent runs that are watched.

    Args:
        patience: how long a run may be silent.
    """

    patience: Patience
    _watched: dict[UUID, tuple[Silent, datetime]] = field(default_factory=dict)

    def dead(self, client: SyncPrefectClient, run: FlowRun, now: datetime) -> Silent | None:
        """What the run showed last, once it has been silent for too long and stayed so while it was watched.

        Args:
            client: of the server.
            run: that has a process, or should have one, as it was just read.
            now: aware.
        """
        seen = look(client, run, now, self.patience)
        watched = self._watched.get(run.id)
        if now - seen.since <= self.patience.limit(seen.heartbeat):
            self._watched.pop(run.id, None)
            return None
        if watched is None or (watched[0].state, watched[0].beat) != (seen.state, seen.beat):
            self._watched[run.id] = seen, now
            return None
        # a pending run has no heartbeat to wait for, and is watched all the same: clocks differ
        beat = max(seen.heartbeat, self.patience.heartbeat)
        return seen if now - watched[1] >= timedelta(seconds=beat * self.patience.watch) else None
