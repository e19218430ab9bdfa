"""The flow process is killed, the worker stopped: children end, the run is marked, the next one is clean.

What is told of a death has tests of its own, which kill the process and the worker of a drill.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events import Event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Pending, Running

from flows.restore_cluster import restore_cluster
from pgproof.backups.catalog import read_catalog
from tasks.life import Patience
from tasks.reaping import Reaped, reap
from tests.deployments.upped import until
from tests.drills.damage import answer
from tests.servers.postgres import Source
from tests.trouble.plant import SLOW, Plant, asleep

QUICK = Patience(silence=4, watch=2.5, heartbeat=1.0)
LOG = logging.getLogger("tests.trouble")


def reap_now(plant: Plant) -> Reaped:
    with temporary_settings({PREFECT_API_URL: plant.api}):
        return reap("pgproof", QUICK, LOG, lambda: datetime.now(UTC))


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def the_next_drill_is_clean(shop: Source, plant: Plant) -> None:
    shop.write_config()
    plant.wait_for(plant.order("restore-validation"), "Completed", timeout=120)
    assert list((shop.root / "scratch").iterdir()) == []


def test_the_process_of_a_base_backup_is_killed(shop: Source, plant: Plant) -> None:
    shop.write_config(cluster=SLOW)
    run = plant.order("base-backup")
    stored = lambda: list(shop.archive.store.list(shop.archive.layout.backups))  # noqa: E731
    assert until(stored, bool, 90), plant.log("worker")

    os.kill(plant.flow_process(run), signal.SIGKILL)

    plant.wait_for(run, "Crashed", timeout=30)
    assert until(lambda: shop.sql("SELECT pid FROM pg_stat_replication"), lambda left: not left, 5) == []
    catalog = read_catalog(shop.archive)
    assert (catalog.entries, len(catalog.torn)) == ((), 1)
    shop.write_config()
    plant.wait_for(plant.order("base-backup"), "Completed", timeout=400)  # its lease, its slot are free
    assert answer(shop, "expire", "main")[0] == 0
    catalog = read_catalog(shop.archive)
    assert (len(catalog.entries), catalog.torn) == (1, ())
    assert list(shop.repository_path.rglob(".tmp-*")) == []


def test_the_worker_is_stopped(shop: Source, plant: Plant) -> None:
    """It kills its runs, and leaves them running for ever on the server."""
    run, postmaster = asleep(shop, plant)
    process = plant.flow_process(run)

    plant.end_worker(signal.SIGTERM)
    kill(process)  # already dead, but for a worker that hung as it ended

    assert until(lambda: Path(f"/proc/{postmaster}").exists(), lambda there: not there, 10) is False
    assert plant.read(run).state_name == "Running"
    time.sleep(QUICK.silence)
    # and perhaps a scheduled run that the worker had just taken
    assert "restore validation of main" in reap_now(plant).runs
    state = plant.read(run).state
    assert state is not None and state.name == "Crashed"
    assert (state.message or "").startswith("reaped: it was Running and gave no sign of life since ")
    plant.start_worker()
    the_next_drill_is_clean(shop, plant)


def test_what_the_reaper_marks_and_what_it_leaves(unserved: Plant) -> None:
    with unserved.client() as client:
        client.create_work_pool(WorkPoolCreate(name="other", type="process"))
        deployment = client.read_deployment_by_name("restore-cluster/main").id
        where = {"destination": "/nowhere"}
        made = {
            name: client.create_flow_run_from_deployment(
                deployment, parameters=where, name=name, state=state
            ).id
            for name, state in (
                ("running", Running()),
                ("submitting", Pending(name="Submitting")),
                ("cancelling", Cancelling()),
                ("living", Running()),
                ("young", Running()),
            )
        }
        other = client.create_flow_run(
            restore_cluster, parameters={"cluster": "main", **where}, state=Running(), work_pool_name="other"
        ).id
        time.sleep(QUICK.silence + 1)
        client.set_flow_run_state(made["young"], Running(message="a new state"), force=True)
        with beating(unserved, made["living"]):
            time.sleep(3)
            done = reap_now(unserved)
        states = {name: client.read_flow_run(run).state_name for name, run in made.items()}
        left = client.read_flow_run(other).state_name
        for run in (other, made["living"], made["young"]):
            client.delete_flow_run(run)
    ours = {"cancelling", "running", "submitting", "living", "young"}
    assert sorted(ours & set(done.runs)) == ["cancelling", "running", "submitting"]
    assert states == {
        "running": "Crashed",
        "submitting": "Crashed",
        "cancelling": "Crashed",
        "living": "Running",
        "young": "Running",
    }
    assert left == "Running"


def test_a_full_limit_that_nobody_holds_is_emptied(unserved: Plant) -> None:
    """As a server leaves it that was restarted while a run died, when it keeps its leases in memory."""
    with unserved.client() as client:
        deployment = client.read_deployment_by_name("base-backup/main")
        full = [
            limit for limit in unserved.slots() if limit in ("pgproof-main", f"deployment:{deployment.id}")
        ]
        assert len(full) == 2
        for name in full:
            path = {"id_or_name": name}
            client.request(
                "PATCH", "/v2/concurrency_limits/{id_or_name}", path_params=path, json={"active_slots": 1}
            )
        run = client.create_flow_run_from_deployment(deployment.id, name="it may hold them")
        client.set_flow_run_state(run.id, Running(), force=True)
        assert reap_now(unserved).slots == ()
        assert [unserved.slots()[name] for name in full] == [1, 1]
        client.delete_flow_run(run.id)  # which frees the slot of its deployment
        path = {"id_or_name": f"deployment:{deployment.id}"}
        client.request(
            "PATCH", "/v2/concurrency_limits/{id_or_name}", path_params=path, json={"active_slots": 1}
        )
    assert sorted(reap_now(unserved).slots) == sorted(["pgproof-main", str(deployment.id)])
    assert [unserved.slots()[name] for name in full] == [0, 0]


def test_the_flow_runs_in_a_worker(plant: Plant) -> None:
    run = plant.order("reap")
    done = plant.wait_for(run, "Completed")
    assert done.name == "reap the dead runs of pgproof"


@contextlib.contextmanager
def beating(plant: Plant, run: UUID) -> Iterator[None]:
    """Heartbeats of a run, one a second, as its engine sends them."""
    stop = threading.Event()

    def beat() -> None:
        resource = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.name": "living"}
        with plant.client() as client:
            while not stop.wait(1):
                event = Event(event="prefect.flow-run.heartbeat", resource=resource)
                client.request("POST", "/events", json=[event.model_dump(mode="json")])

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
