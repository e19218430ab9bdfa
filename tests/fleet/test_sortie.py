"""What a sortie makes of the states of its runs, on a real server whose runs are moved by hand."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from flows.protect import protect
from tasks.fleet import Bounds, Outcome, Sortie
from tasks.fleet_card import REACHED, SKIPPED, cluster_event
from tasks.life import Patience
from tasks.members import Member, find_members
from tasks.vigil import Vigil

LOG = logging.getLogger("tests.fleet")


@pytest.fixture(scope="module")
def client(prefect: Path) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture(scope="module")
def deployments(client: SyncPrefectClient) -> dict[str, UUID]:
    """Two deployments of ``protect``, as ours are: one run at a time, and a second one is left out."""
    flow = client.create_flow(protect)
    limit = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
    return {
        name: client.create_deployment(
            flow,
            name,
            parameters={"cluster": name, "config": f"block:pgproof-cluster/{name}"},
            tags=["pgproof"],
            **limit,
        )
        for name in ("left", "right")
    }


@dataclass
class Drive:
    """A sortie that is moved on by hand.

    Args:
        client: of the server.
        members: the clusters.
        bounds: to keep to.
    """

    client: SyncPrefectClient
    members: list[Member]
    bounds: Bounds = field(default_factory=Bounds)
    parent: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    sortie: Sortie = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As a process does that knows nothing of an earlier one."""
        self.sortie = Sortie(self.parent, self.bounds, {}, deque(self.members), LOG)

    def step(self, seconds: float = 0) -> None:
        """Look once, so much later."""
        self.at += timedelta(seconds=seconds)
        self.sortie.step(self.client, self.at)

    def run(self, cluster: str = "left") -> FlowRun:
        """The run of a cluster that goes on."""
        return self.client.read_flow_run(self.sortie.going[cluster].runs[-1])

    def set(self, *states: State, cluster: str = "left") -> FlowRun:
        run = self.run(cluster)
        for state in states:
            self.client.set_flow_run_state(run.id, state, force=True)
        return run

    def outcome(self, cluster: str = "left") -> tuple[str, str, int]:
        """Result, message, and how many runs it took."""
        done: Outcome = self.sortie.done[cluster]
        assert cluster not in self.sortie.going
        return done.result, done.message, len(done.runs)


@pytest.fixture
def drive(client: SyncPrefectClient, deployments: dict[str, UUID]) -> Iterator[Drive]:
    members = [Member(name, deployed=True, heartbeat=1.0) for name in deployments]
    made = Drive(client, members)
    yield made
    for child in made.sortie.going.values():  # it would hold the slot of the next test
        client.delete_flow_run(child.runs[-1])


def test_some_at_once(drive: Drive) -> None:
    drive.bounds = Bounds(at_once=1)
    drive.begin()
    drive.step()
    assert list(drive.sortie.going) == ["left"]
    drive.step()
    assert list(drive.sortie.going) == ["left"]
    drive.set(Running(), Completed())
    drive.step()
    assert drive.outcome() == ("completed", "", 1)
    assert list(drive.sortie.going) == ["right"]
    drive.set(Running(), Failed(message="NotProven: backup is not\nequal"), cluster="right")
    drive.step()
    assert drive.outcome("right") == ("failed", "NotProven: backup is not equal", 1)
    assert drive.sortie.over


def test_begun_again_it_starts_nothing_twice(drive: Drive) -> None:
    drive.step()
    first = drive.run().id
    drive.set(Running(), Crashed(message="its machine is gone"))
    drive.step()
    second = drive.run().id
    assert second != first
    drive.begin()
    drive.step()
    assert drive.run().id == first
    drive.step()
    assert drive.run().id == second
    drive.set(Running(), Completed())
    drive.begin()
    for _ in range(3):
        drive.step()
    assert drive.outcome() == ("completed", "", 2)
    assert len(drive.sortie.going) == 1


def test_a_run_that_dies_twice(drive: Drive) -> None:
    drive.step()
    for _ in range(2):
        drive.set(Running(), Crashed(message="no memory"))
        drive.step()
    assert drive.outcome() == ("crashed", "2 runs died, the last one: no memory", 2)


def test_a_run_that_somebody_cancels_or_deletes(drive: Drive, client: SyncPrefectClient) -> None:
    drive.step()
    drive.set(Running(), Cancelled())
    client.delete_flow_run(drive.run("right").id)
    drive.step()
    assert drive.outcome() == ("cancelled", "somebody cancelled it", 1)
    assert drive.outcome("right") == ("cancelled", "its run was deleted", 1)


def test_another_run_goes_on(drive: Drive, client: SyncPrefectClient, deployments: dict[str, UUID]) -> None:
    """It keeps ours out; ours asks again while it lasts."""
    other = client.create_flow_run_from_deployment(deployments["left"]).id
    client.set_flow_run_state(other, Pending())
    client.set_flow_run_state(other, Running())
    drive.step()
    mine = drive.run().id
    client.set_flow_run_state(mine, Pending())
    state = client.read_flow_run(mine).state
    assert state is not None
    assert (state.name, state.message) == ("Cancelled", "Deployment concurrency limit reached.")
    drive.step(seconds=20)
    assert drive.run().id == mine
    drive.step(seconds=15)
    again = drive.run().id
    assert again != mine
    client.set_flow_run_state(other, Completed())
    client.set_flow_run_state(again, Pending())
    drive.set(Running(), Completed())
    drive.step()
    assert drive.outcome() == ("completed", "", 2)


def test_another_run_never_ends(drive: Drive, client: SyncPrefectClient) -> None:
    drive.bounds = Bounds(unserved=0)
    drive.begin()
    drive.step()
    for _ in range(2):
        drive.set(Cancelled(message="Deployment concurrency limit reached."))
        drive.step(seconds=31)
    assert drive.outcome() == ("busy", "another run of it was going on all the time", 2)
    assert drive.sortie.done["left"].command == "prefect flow-run ls --flow-name protect --state Running"


def test_a_silent_run_is_dead_and_run_again(drive: Drive, client: SyncPrefectClient) -> None:
    drive.step()
    silent = drive.set(Running()).id
    drive.set(Pending(), cluster="right")
    drive.step(seconds=170)
    assert drive.run().id == silent
    drive.step(seconds=20)  # it is watched from now on
    drive.step(seconds=2)
    assert drive.run().id == silent
    drive.step(seconds=1)
    state = client.read_flow_run(silent).state
    assert state is not None and state.is_crashed()
    assert (state.message or "").startswith("reaped: it was Running and gave no sign of life since ")
    drive.step()
    assert drive.run().id != silent
    assert drive.run().state_name == "Scheduled"
    pending = client.read_flow_run(drive.sortie.going["right"].runs[0]).state
    assert pending is not None and pending.is_crashed()  # its worker died before it was started
    assert (pending.message or "").startswith("reaped: it was Pending and gave no sign of life since ")


def test_a_run_that_dies_while_it_is_cancelled_is_not_run_again(drive: Drive) -> None:
    drive.step()
    drive.set(Running(), Cancelling())
    for seconds in (190, 3):
        drive.step(seconds=seconds)
    assert drive.outcome() == ("cancelled", "its process died while it was cancelled", 1)


def test_a_sign_of_life_ends_the_watch(drive: Drive, client: SyncPrefectClient) -> None:
    drive.step()
    drive.set(Running())
    vigil, run = Vigil(Patience(silence=5, heartbeat=1.0)), drive.run()
    late = drive.at + timedelta(seconds=20)
    assert vigil.dead(client, run, late) is None
    run = drive.set(Running(message="another state"))
    assert vigil.dead(client, drive.run(), late + timedelta(seconds=3)) is None
    dead = vigil.dead(client, drive.run(), late + timedelta(seconds=6))
    assert dead is not None and dead.run == run.id


def test_what_the_server_does_not_know(drive: Drive, client: SyncPrefectClient) -> None:
    blocks = "block:pgproof-cluster/never"
    drive.members = [Member("never"), Member("never-more", blocks), Member("removed", deployed=True)]
    drive.begin()
    drive.step()
    assert drive.outcome("never") == ("not deployed", "pgproof deploy never deploys it", 0)
    assert drive.outcome("never-more")[1] == "pgproof deploy never-more --blocks deploys it"
    assert drive.outcome("removed")[0] == "not deployed"
    assert [one.command for one in drive.sortie.done.values()] == [
        *("pgproof deploy never", "pgproof deploy never-more --blocks", "pgproof deploy removed"),
    ]
    assert drive.sortie.over


def test_a_server_that_is_away_changes_nothing(
    drive: Drive, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive.step()
    drive.set(Running(), Crashed(message="no memory"))
    with monkeypatch.context() as patch, pytest.raises(httpx.ConnectError):
        patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        with SyncPrefectClient("http://127.0.0.1:9/api") as gone:
            drive.sortie.step(gone, drive.at)
    drive.step()
    drive.set(Running(), Completed())
    drive.step()
    assert drive.outcome() == ("completed", "", 2)


@pytest.mark.parametrize(
    ("result", "seconds", "command", "event"),
    [
        ("completed", 9.0, "", REACHED),
        ("failed", 9.0, "", REACHED),
        ("crashed", None, "", None),  # it died before it began; Prefect tells of the crash
        ("not taken", None, "", None),  # Prefect told that it is late
        ("cancelled", None, "", None),
        ("busy", None, "prefect flow-run ls --flow-name protect --state Running", SKIPPED),
        ("not deployed", None, "pgproof deploy left", SKIPPED),
        ("not started", None, "pgproof deploy left", SKIPPED),
    ],
)
def test_only_what_nobody_else_tells_is_an_alert_of_the_fleet(
    result: str, seconds: float | None, command: str, event: str | None
) -> None:
    made = cluster_event(Outcome("left", result, "why", (), seconds, command))
    assert (made.name if made else None) == event
    if made and event == SKIPPED:
        assert made.payload["command"] == command
        assert made.payload["what"] == f"protect-fleet left out cluster left, {result}: why"


def test_the_members_that_are_kept_in_blocks(client: SyncPrefectClient, deployments: dict[str, UUID]) -> None:
    found = find_members.fn((), "")
    assert [(one.cluster, one.config, one.deployed) for one in found] == [
        (name, f"block:pgproof-cluster/{name}", True) for name in ("left", "right")
    ]
    (one,) = find_members.fn(("right", "right"), "")
    assert (one.cluster, one.deployment) == ("right", "protect/right")
