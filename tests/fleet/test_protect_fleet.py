"""The flow ``protect-fleet`` on a real server with real workers: what becomes of a fleet when something dies."""

from __future__ import annotations

import os
import signal
import time

import pytest
from prefect.states import AwaitingRetry

from pgproof.backups.catalog import read_catalog
from tests.alerts.receivers import mail_inbox, web_inbox
from tests.deployments.upped import until
from tests.fleet.sorties import (
    card,
    children,
    event,
    kill_machine,
    said_to_beat,
    states,
    wait_for_child,
    worker_of,
)
from tests.servers.fleet import Fleet
from tests.trouble.plant import ENDLESS, SLOW, Plant

QUIET = 4  # seconds in which whatever is sent has arrived
LEFT_OUT = "protect-fleet left out cluster one, not deployed: pgproof deploy one deploys it"
pytestmark = pytest.mark.timeout(600)  # a dead run is found after three minutes


def proven(fleet: Fleet, name: str) -> int:
    """How many backups of a cluster are proven."""
    return sum(entry.state == "proven" for entry in read_catalog(fleet.members[name].archive).entries)


@pytest.mark.usefixtures("alone")
def test_nobody_serves_a_queue(plant: Plant) -> None:
    """First of all, before any worker asked for one."""
    plant.start_worker("--work-queue", "default")
    run = plant.order("protect-fleet", clusters=["two", "one"], unserved=3, at_once=1)

    done = plant.wait_for(run, "Failed", timeout=120)

    why = [
        f'{name} not taken: no worker took it within 3.0 s: no worker serves work queue "{name}" of pool "pgproof": '
        f"prefect worker start --pool pgproof --work-queue {name}."
        for name in ("two", "one")
    ]
    assert done.state is not None
    assert str(done.state.message).endswith(
        f"2 of 2 clusters were not protected\nDETAIL: {' '.join(why)}\n"
        "HINT: pgproof fleet shows all of them; open the runs of these"
    )
    assert states(plant, run) == [("two", "Cancelled"), ("one", "Cancelled")]
    shown = card(plant, run)
    assert shown.startswith(
        "# The fleet: 0 of 2 clusters protected\n\n| cluster | this run | last proven (UTC) |"
    )
    assert (
        "| two | **not taken** | never | none | not measured<br>of 5 min | not measured<br>of 1 h | none |"
        in shown
    )
    assert "- **one**: nothing is proven: `pgproof drill one`" in shown
    told = event(plant, run)
    assert told["event"] == "pgproof.fleet.unprotected"
    assert told["payload"]["what"] == "2 of 2 clusters were not protected"
    assert told["payload"]["failed"] == ["two", "one"]


@pytest.mark.usefixtures("served")
def test_a_machine_dies_with_its_worker(plant: Plant, fleet: Fleet) -> None:
    """Half way: its run is found dead, and run again on the worker that lives; the others know nothing of it."""
    fleet.write_config(one=SLOW, two=SLOW, three=SLOW)
    # dead is then who is silent for two beats of the living, and for 25 s more
    with said_to_beat(plant, fleet.names, seconds=10):
        run = plant.order("protect-fleet", silence=60)
        started = until(lambda: children(plant, run), lambda found: len(found) == 2, 90, 0.5)
        assert len(started) == 2, plant.logs(run)
    (first,) = wait_for_child(plant, run, "Running")
    other = plant.start_worker()
    (second,) = (one for one in wait_for_child(plant, run, "Running", 2) if one.id != first.id)
    assert worker_of(plant, second.id) is other
    killed, since = str(second.parameters["cluster"]), time.monotonic()

    kill_machine(plant, other)

    done = plant.wait_for(run, "Completed", "Failed", timeout=500)
    print(f"from the kill to the end of the fleet: {time.monotonic() - since:.0f} s")
    assert done.state_name == "Completed", f"{done.state}\n{plant.logs(run)}"
    found = states(plant, run)
    assert sorted(found) == sorted(
        [(killed, "Crashed"), ("one", "Completed"), ("two", "Completed"), ("three", "Completed")]
    )
    assert [proven(fleet, name) for name in fleet.names] == [1, 1, 1]
    shown = card(plant, run)
    assert shown.startswith("# The fleet: 3 of 3 clusters protected\n")
    assert shown.count("| completed, ") == 3
    assert shown.count(", after 1 more |") == 1
    assert event(plant, run)["event"] == "pgproof.fleet.protected"
    assert set(plant.slots().values()) == {0}


@pytest.mark.usefixtures("served")
def test_the_fleet_itself_dies_and_is_tried_again(plant: Plant, fleet: Fleet) -> None:
    """Its children go on, and none is started twice."""
    fleet.write_config(one=SLOW)
    run = plant.order("protect-fleet", clusters=["one"])
    (child,) = wait_for_child(plant, run, "Running")

    os.kill(plant.flow_process(run), signal.SIGKILL)

    plant.wait_for(run, "Crashed", timeout=60)
    # the worker reports it a moment later as well, and would mark the next try, too
    assert until(lambda: "exceeded its memory" in plant.logs(run), bool, 60), plant.logs(run)
    with plant.client() as client:
        client.set_flow_run_state(run, AwaitingRetry(), force=True)  # as the UI's button does
    plant.wait_for(run, "Completed", timeout=240)
    assert [one.id for one in children(plant, run)] == [child.id]
    assert states(plant, run) == [("one", "Completed")]


@pytest.mark.usefixtures("served")
def test_the_fleet_is_cancelled(plant: Plant, fleet: Fleet) -> None:
    """With its children: the one that runs, and the one that no worker has yet; what waits is never started."""
    fleet.write_config(one=ENDLESS, two=ENDLESS)
    run = plant.order("protect-fleet")
    assert len(wait_for_child(plant, run, "Running")) == 1
    assert len(children(plant, run)) == 2
    backups = [len(read_catalog(fleet.members[name].archive).entries) for name in fleet.names]

    plant.cancel(run)

    plant.wait_for(run, "Cancelled", timeout=60)
    for one in children(plant, run):
        plant.wait_for(one.id, "Cancelled", timeout=60)
    assert len(children(plant, run)) == 2
    assert [len(read_catalog(fleet.members[name].archive).entries) for name in fleet.names] == backups
    assert set(plant.slots().values()) == {0}


@pytest.mark.usefixtures("alone")
def test_what_no_run_can_tell_is_told_once_each(plant: Plant) -> None:
    """One cluster is not deployed, of which only the fleet knows; one is late, which is told without the fleet."""
    late = "Flows of cluster two are due and do not start"
    with web_inbox() as web, mail_inbox() as mail:
        for name in ("one", "two"):  # 33 automations each
            plant.command("alerts", "apply", name, "--webhook", web.url, "--mailto", mail.url)
        with plant.client() as client:
            client.delete_deployment(client.read_deployment_by_name("protect/one").id)
        plant.start_worker("--work-queue", "default", "--work-queue", "one")
        for _ in range(2):  # the second finds the same, and wakes nobody
            run = plant.order("protect-fleet", clusters=["one", "two"], unserved=25)
            plant.wait_for(run, "Failed", timeout=120)
        web.wait(2)
        time.sleep(QUIET)
        assert sorted(web.subjects) == sorted(mail.subjects) == [late, LEFT_OUT]
        (alert,) = [message for message in web.messages if message.subject == LEFT_OUT]
        assert alert in mail.messages
        assert alert.body.startswith(
            "protect-fleet left out cluster one, not deployed: pgproof deploy one deploys it.\n"
            "It means: this run of the fleet brought it no new backup and no proof; "
            "what it had before is still there.\nRun: pgproof deploy one\n\nCluster one, 20"
        )
        assert alert.body.endswith(" UTC, alert fleet.")

        plant.deploy()
        plant.start_worker()
        run = plant.order("protect-fleet", clusters=["one", "two"])
        plant.wait_for(run, "Completed", timeout=240)
        web.wait(4)
        time.sleep(QUIET)
        over = [
            "Over: flows of cluster two start again",
            "Over: protect-fleet ran protect for cluster one, completed",
        ]
        assert sorted(web.subjects) == sorted(mail.subjects) == sorted([late, LEFT_OUT, *over])
