"""A sortie is one run of the fleet: which clusters wait, which are on their way, and what became of the others.

All that it knows is on the server: children are found by their keys, times are those of their states. So a sortie that
is begun again with the same parent goes on where the first one was, and starts nothing twice.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling

from pgproof.wording import duration
from tasks.children import key_of, read_runs, start_child
from tasks.life import Patience
from tasks.members import Member
from tasks.outage import away
from tasks.reaping import Log, crash
from tasks.slots import free_slots
from tasks.vigil import Vigil
from tasks.work import now

COMPLETED = "completed"
_BUSY_RUNS = "prefect flow-run ls --flow-name protect --state Running"
_ATTEMPTS = 2  # of a run whose process died: once more, and no oftener
_BUSY = "Deployment concurrency limit reached"  # Prefect's message for a run that CANCEL_NEW has left out
_ASK_AGAIN = timedelta(seconds=30)  # whether the run that keeps another one out has ended


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a sortie keeps to.

    Args:
        at_once: clusters on their way at the same time.
        unserved: seconds after which a run that no worker takes is given up, and so is waiting for another run of
            the same cluster.
        silence: seconds without a sign of life; taken for three heartbeats where those are longer.
        look: seconds between two looks.
    """

    at_once: int = 2
    unserved: float = 600.0
    silence: float = 180.0
    look: float = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one cluster.

    Args:
        cluster: its name.
        result: completed, failed, crashed, cancelled, busy, not taken, not deployed, or not started.
        message: why, in a sentence without its full stop; empty when it completed.
        runs: identifiers of its runs, the last one decides.
        seconds: that the last one ran; None when it did not.
        command: what to run, where no run was made that says it.
    """

    cluster: str
    result: str
    message: str = ""
    runs: tuple[str, ...] = ()
    seconds: float | None = None
    command: str = ""

    @property
    def skipped(self) -> bool:
        """Whether no run of it came about, so that nothing on the server tells of it."""
        return bool(self.command)

    @property
    def ok(self) -> bool:
        return self.result == COMPLETED


@dataclass
class Child:
    """A cluster on its way.

    Args:
        member: the cluster.
        runs: identifiers of its runs, in the order of their start.
        crashed: those of them that died.
        busy_since: since when another run keeps it out.
        vigil: kept at its runs.
    """

    member: Member
    vigil: Vigil
    runs: list[UUID] = field(default_factory=list)
    crashed: set[UUID] = field(default_factory=set)
    busy_since: datetime | None = None


def protect_members(
    members: Sequence[Member],
    parent: str,
    bounds: Bounds,
    parameters: dict[str, Any],
    wait: Callable[[float], None] = time.sleep,
) -> list[Outcome]:
    """Run ``protect`` for every member, some at once, until each has come to an end, whatever that is.

    A server that is away is waited for: the children go on without it.

    Args:
        members: the clusters.
        parent: identifier of the run that this is.
        bounds: to keep to.
        parameters: of each child, besides those of its deployment.
        wait: between two looks.

    Returns:
        what became of each, in the order of the members.
    """
    log = get_run_logger()
    sortie = Sortie(parent, bounds, parameters, deque(members), log)
    while True:
        try:
            with get_client(sync_client=True) as client:
                sortie.step(client, now())
        except httpx.HTTPError as error:
            if not away(error):
                raise
            log.warning("the Prefect server is away, the runs go on without it (%s)", error)
        if sortie.over:
            return [sortie.done[member.cluster] for member in members]
        wait(bounds.look)


@dataclass
class Sortie:
    """A run of the fleet on its way.

    Args:
        parent: identifier of the run.
        bounds: to keep to.
        parameters: of each child.
        waiting: members that were not started yet.
        log: told of every beginning and end.
    """

    parent: str
    bounds: Bounds
    parameters: dict[str, Any]
    waiting: deque[Member]
    log: Log
    going: dict[str, Child] = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return not self.waiting and not self.going

    def step(self, client: SyncPrefectClient, at: datetime) -> None:
        """Look at every child once, and start as many as there is room for.

        Args:
            client: of the server.
            at: the time, aware.
        """
        runs = read_runs(client, [child.runs[-1] for child in self.going.values()])
        for child in list(self.going.values()):
            with contextlib.suppress(ObjectNotFound):  # deleted since it was read: the next look sees it
                self._look(client, child, runs.get(child.runs[-1]), at)
        while self.waiting and len(self.going) < self.bounds.at_once:
            member = self.waiting[0]
            if member.deployed:
                patience = Patience(self.bounds.silence, heartbeat=member.heartbeat)
                self._start(client, Child(member, Vigil(patience)))
            else:
                self._skip(Child(member, Vigil(Patience())), "not deployed", f"{_deploy(member)} deploys it")
            self.waiting.popleft()  # only now: a server that was away is asked again

    def _start(self, client: SyncPrefectClient, child: Child) -> None:
        member, attempt = child.member, len(child.runs) + 1
        key = key_of(self.parent, member.cluster, attempt)
        try:
            run = start_child(client, member.deployment, member.cluster, key, self.parameters)
        except ObjectNotFound:
            return self._skip(child, "not deployed", f"{_deploy(member)} deploys it")
        except httpx.HTTPStatusError as error:  # what is wrong with one is no reason to leave the others
            if away(error):
                raise
            return self._skip(child, "not started", f"the Prefect server refused it: {error}")
        child.runs.append(run.id)
        self.going[member.cluster] = child
        self.log.info("%s: run %s of %s", member.cluster, run.id, member.deployment)
        return None

    def _look(self, client: SyncPrefectClient, child: Child, run: FlowRun | None, at: datetime) -> None:
        """Decide what one child's state means."""
        if run is None or run.state is None:
            return self._end(child, "cancelled", "its run was deleted")
        state = run.state
        said = " ".join((state.message or "").split())
        if state.is_completed():
            return self._end(child, COMPLETED, run=run)
        if state.is_failed():
            return self._end(child, "failed", said, run)
        if state.is_crashed():
            return self._again(client, child, run, said)
        if state.is_cancelled():
            if said.startswith(_BUSY):
                return self._busy(client, child, run, at)
            return self._end(child, "cancelled", said or "somebody cancelled it", run)
        if state.is_scheduled():
            return self._unserved(client, child, run, at)
        if not state.is_paused():
            self._watch(client, child, run, at)
        return None

    def _again(self, client: SyncPrefectClient, child: Child, run: FlowRun, said: str) -> None:
        """A run whose process died is run once more, on whichever worker lives."""
        child.crashed.add(run.id)  # a server that was away asks about one of them twice
        if len(child.crashed) >= _ATTEMPTS:
            return self._end(child, "crashed", f"{_ATTEMPTS} runs died, the last one: {said}", run)
        self.log.warning("%s: its run died and is run again: %s", child.member.cluster, said)
        if child.member.pool:
            free_slots(client, child.member.pool)  # lest the dead run keeps the new one out
        return self._start(client, child)

    def _busy(self, client: SyncPrefectClient, child: Child, run: FlowRun, at: datetime) -> None:
        """Another run of the deployment goes on, or died and its slot's lease still lasts: ask again for a while."""
        assert run.state is not None
        refused = run.state.timestamp
        child.busy_since = child.busy_since or refused
        if refused - child.busy_since > timedelta(seconds=self.bounds.unserved):
            return self._skip(child, "busy", "another run of it was going on all the time", _BUSY_RUNS)
        if at - refused >= _ASK_AGAIN:
            return self._start(client, child)
        return None

    def _unserved(self, client: SyncPrefectClient, child: Child, run: FlowRun, at: datetime) -> None:
        """A run that no worker takes is withdrawn, so that it does not start some day when nobody expects it."""
        assert run.state is not None
        due = run.state.state_details.scheduled_time or run.expected_start_time or run.state.timestamp
        if at - due <= timedelta(seconds=self.bounds.unserved):
            return None
        message = f"no worker took it within {duration(self.bounds.unserved)}: {_queue(client, child.member)}"
        client.set_flow_run_state(run.id, Cancelling(message=message))  # one just taken ends as well
        return self._end(child, "not taken", message, run)

    def _watch(self, client: SyncPrefectClient, child: Child, run: FlowRun, at: datetime) -> None:
        """A run whose process is gone is marked crashed, as ``reap`` would do later; the next look runs it again."""
        assert run.state is not None
        dead = child.vigil.dead(client, run, at)
        if dead is None or not crash(client, dead, self.log):
            return None
        if run.state.is_cancelling():  # somebody wanted it to end, and so it has
            return self._end(child, "cancelled", "its process died while it was cancelled", run)
        return None

    def _skip(self, child: Child, result: str, message: str, command: str = "") -> None:
        self._end(child, result, message, command=command or _deploy(child.member))

    def _end(
        self, child: Child, result: str, message: str = "", run: FlowRun | None = None, command: str = ""
    ) -> None:
        cluster = child.member.cluster
        self.going.pop(cluster, None)
        started = run is not None and run.start_time is not None
        seconds = run.total_run_time.total_seconds() if run is not None and started else None
        runs = tuple(str(one) for one in child.runs)
        self.done[cluster] = Outcome(cluster, result, message, runs, seconds, command)
        self.log.info("%s: %s%s", cluster, result, f": {message}" if message else "")


def _deploy(member: Member) -> str:
    blocks = " --blocks" if (member.config or "").startswith("block:") else ""
    return f"pgproof deploy {member.cluster}{blocks}"


def _queue(client: SyncPrefectClient, member: Member) -> str:
    """Why a queue hands out nothing, as far as the server knows."""
    name = f'work queue "{member.queue}" of pool "{member.pool}"'
    try:
        queue = client.read_work_queue_by_name(member.queue, member.pool)
        pool = client.read_work_pool(member.pool)
    except ObjectNotFound:
        return f"{name} is not there: {_deploy(member)}"
    if queue.is_paused or pool.is_paused:
        return f"{name} is paused"
    if queue.status == "READY":
        return f"the workers of {name} are full, or its concurrency limit is reached"
    start = f"prefect worker start --pool {member.pool} --work-queue {member.queue}"
    return f"no worker serves {name}: {start}"
