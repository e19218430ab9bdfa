"""A sign of life is what shows that a run's process is still there: a new state, or a heartbeat that its server got.

Nothing tells a Prefect server that a worker was stopped or killed with the runs it had, nor that it died between
taking a run and starting it (PrefectHQ/prefect#16746). Such runs stay running, pending or cancelling for ever, hold
their concurrency slots, and cannot be cancelled. Here they are found, and only they.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType

UNFINISHED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
_LOOKED_AT = 6  # heartbeats, newest first
_PAGE = 200  # what the server gives at once
_KNOWN_BY = 3  # heartbeats that tell how often they come


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run may be silent.

    Args:
        silence: seconds without a sign of life; never taken for less than three heartbeats.
        watch: heartbeats that a silent run is watched for, so that clocks that differ, and a server that was away
            itself, kill nothing.
        heartbeat: seconds between heartbeats of a run that sent too few to tell; Prefect's own default.
    """

    silence: float = 180.0
    watch: float = 2.5
    heartbeat: float = 180.0

    def limit(self, heartbeat: float) -> timedelta:
        return timedelta(seconds=max(self.silence, 3 * heartbeat))


@dataclass(frozen=True, slots=True)
class Silent:
    """A run without a sign of life for too long.

    Args:
        run: its identifier.
        name: its name.
        state: identifier of the state that it is in.
        kind: of that state.
        since: its last sign of life.
        beat: identifier of the newest heartbeat, empty when there was none.
        heartbeat: seconds between its heartbeats.
    """

    run: UUID
    name: str
    state: UUID | None
    kind: str
    since: datetime
    beat: str
    heartbeat: float


def unfinished(client: SyncPrefectClient, pool: str | None = None) -> list[FlowRun]:
    """The runs that have a process, or should have one.

    Args:
        client: of the server.
        pool: only of this work pool.
    """
    types = filters.FlowRunFilterStateType(any_=list(UNFINISHED))
    wanted = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=types))
    pools = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[pool])) if pool else None
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_run_filter=wanted, work_pool_filter=pools, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE:
            return found


def silent_runs(
    client: SyncPrefectClient, pool: str, now: datetime, patience: Patience, but: UUID | None = None
) -> list[Silent]:
    """The runs of a pool that have been silent for too long.

    Args:
        client: of the server.
        pool: the work pool; no other's runs are looked at.
        now: aware.
        patience: how long is too long.
        but: a run to leave out, the one that asks.
    """
    looked = [look(client, run, now, patience) for run in unfinished(client, pool) if run.id != but]
    return [one for one in looked if now - one.since > patience.limit(one.heartbeat)]


def look(client: SyncPrefectClient, run: FlowRun, now: datetime, patience: Patience) -> Silent:
    """What a run showed last, whether or not it is long ago.

    A pending run has no process that could send heartbeats: its state alone tells.

    Args:
        client: of the server.
        run: as it was read.
        now: aware.
        patience: for the heartbeats of a run that sent too few.
    """
    assert run.state is not None
    beats = [] if run.state.is_pending() else _heartbeats(client, run.id, now)
    times = [datetime.fromisoformat(beat["occurred"]) for beat in beats]
    pending = run.state.is_pending()
    return Silent(
        run.id,
        run.name,
        run.state.id,
        run.state.name or run.state.type.value,
        max([run.state.timestamp, *times]),
        str(beats[0]["id"]) if beats else "",
        0.0 if pending else interval(times, patience.heartbeat),
    )


def interval(times: Sequence[datetime], otherwise: float) -> float:
    """Seconds between heartbeats, newest first; the median, because a server that was away leaves a long hole.

    Args:
        times: of heartbeats.
        otherwise: when there are too few to tell.
    """
    if len(times) < _KNOWN_BY:
        return otherwise
    return statistics.median((later - earlier).total_seconds() for later, earlier in pairwise(times))


def lives(client: SyncPrefectClient, one: Silent, now: datetime) -> bool:
    """Whether a silent run has another state or another heartbeat by now, or is gone.

    Args:
        client: of the server.
        one: as it was before.
        now: aware.
    """
    (run,) = client.read_flow_runs(
        flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[one.run]))
    ) or (None,)
    if run is None or run.state is None or run.state.id != one.state:
        return True
    beats = [] if run.state.is_pending() else _heartbeats(client, run.id, now)
    return bool(beats) and str(beats[0]["id"]) != one.beat


def _heartbeats(client: SyncPrefectClient, run: UUID, now: datetime) -> list[dict[str, Any]]:
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
        # a clock that is ahead of ours is no reason to see nothing
        "occurred": {
            "since": (now - timedelta(days=1)).isoformat(),
            "until": (now + timedelta(days=1)).isoformat(),
        },
        "order": "DESC",
    }
    body = {"filter": wanted, "limit": _LOOKED_AT}
    found: list[dict[str, Any]] = client.request("POST", "/events/filter", json=body).json()["events"]
    return found
