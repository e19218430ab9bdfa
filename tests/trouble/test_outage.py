"""The server is away, the source drops a connection, two runs want one cluster: the work is done all the same."""

from __future__ import annotations

import time

from pgproof.backups.catalog import read_catalog
from tests.deployments.upped import until
from tests.servers.postgres import Source
from tests.trouble.plant import SLOW, Plant, held, streams

AWAY = 45  # seconds; the backup below ends in the middle of them


def test_the_server_is_killed_and_comes_back_after_the_backup_is_done(shop: Source, plant: Plant) -> None:
    """The run outlives it: its artifact, its turn and its state reach the server that comes back."""
    shop.write_config(cluster=SLOW)
    before = len(read_catalog(shop.archive).entries)
    run = plant.order("base-backup")
    assert until(lambda: streams(shop), bool, 90), plant.log("worker")

    plant.kill_server()
    killed = time.monotonic()
    assert (
        until(lambda: len(read_catalog(shop.archive).entries), lambda n: n == before + 1, 120) == before + 1
    )
    time.sleep(max(0.0, AWAY - (time.monotonic() - killed)))
    plant.start_server()

    plant.wait_for(run, "Completed", timeout=240)
    with plant.client() as client:
        wanted = {
            "artifacts": {"flow_run_id": {"any_": [str(run)]}, "key": {"any_": ["pgproof-main-backup"]}}
        }
        (artifact,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    assert artifact["data"].startswith("# Base backup of main\n")
    assert until(lambda: plant.slots()["pgproof-main"], lambda taken: taken == 0, 30) == 0


def test_the_second_writer_waits_and_says_so(shop: Source, plant: Plant) -> None:
    shop.write_config(cluster=SLOW)
    first = plant.order("base-backup")
    assert until(lambda: streams(shop), bool, 90), plant.log("worker")
    with held(shop):
        same = plant.order("base-backup")
        other = plant.order("retention-pruning")

        assert "concurrency" in (plant.wait_for(same, "Cancelled", "Cancelling").state.message or "")  # type: ignore[union-attr]
        waits = "another run writes to the repository of main: this one waits for its turn"
        assert waits in until(lambda: plant.logs(other), lambda said: waits in said, 60)
        assert plant.read(first).state_name == "Running"

    plant.wait_for(first, "Completed")
    done = plant.wait_for(other, "Completed")
    ended = plant.read(first).end_time
    assert done.end_time is not None and ended is not None and done.end_time > ended


def test_a_dropped_connection_repeats_its_step_alone(shop: Source, plant: Plant) -> None:
    shop.write_config(cluster=SLOW)
    run = plant.order("protect")
    assert until(lambda: streams(shop), bool, 90), plant.log("worker")
    before = len(read_catalog(shop.archive).entries)

    shop.write_config()  # the next try is a quick one
    shop.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")

    retried = "take base backup"
    assert until(lambda: plant.attempts(run).get(retried, 0), lambda tries: tries == 2, 60) == 2
    plant.wait_for(run, "Completed", timeout=200)
    assert plant.attempts(run) == {
        "take base backup": 2,
        "check WAL archive": 1,
        "fence source": 1,
        "restore backup to scratch": 1,
        "compare with source": 1,
        "record proof": 1,
        "plan retention": 1,
        "expire": 1,
    }
    catalog = read_catalog(shop.archive)
    assert len(catalog.entries) <= before + 1 and catalog.torn == ()
    assert catalog.newest.state == "proven"
