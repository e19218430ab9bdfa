"""Cancel in the UI: the server-side backup ends, children die, nothing torn is listed, the scratch server is gone."""

from __future__ import annotations

import signal
from pathlib import Path

from pgproof.backups.catalog import read_catalog
from tests.deployments.upped import until
from tests.drills.damage import answer
from tests.servers.postgres import Source
from tests.trouble.plant import ENDLESS, Plant, asleep, streams

STREAMING = "SELECT pid FROM pg_stat_replication WHERE state = 'backup'"


def test_a_base_backup(shop: Source, plant: Plant) -> None:
    shop.write_config(cluster=ENDLESS)
    run = plant.order("base-backup")
    assert until(lambda: streams(shop), bool, 60), plant.log("worker")
    process = plant.flow_process(run)

    plant.cancel(run)

    plant.wait_for(run, "Cancelled", timeout=30)
    assert until(lambda: shop.sql(STREAMING), lambda left: not left, 5) == []
    assert not Path(f"/proc/{process}").exists()
    assert read_catalog(shop.archive).entries == ()
    assert list(shop.archive.store.list(shop.archive.layout.backups)) == []
    assert set(plant.slots().values()) == {0}
    shop.write_config()
    assert answer(shop, "backup", "main")[0] == 0  # its lease is free
    assert len(read_catalog(shop.archive).entries) == 1


def test_a_drill(shop: Source, plant: Plant) -> None:
    run, postmaster = asleep(shop, plant)
    # of one interpreter: the one that Prefect would prepare it with leaves this behind
    environment = Path(f"/proc/{plant.flow_process(run)}/environ").read_bytes()
    assert b"PREFECT__FLOW_ENTRYPOINT" not in environment and b"PREFECT__FLOW_RUN_ID" in environment

    plant.cancel(run)

    plant.wait_for(run, "Cancelled", timeout=40)
    assert not Path(f"/proc/{postmaster}").exists()
    assert list((shop.root / "scratch").iterdir()) == []
    assert plant.postmasters() == {}


def test_at_a_terminal_while_the_server_waits_for_a_checkpoint(shop: Source) -> None:
    """libpq would wait there where no signal ends it, and the server would not see that nobody listens any more."""
    import subprocess

    from tests.servers.postgres import PGPROOF, PROJECT

    shop.write_config(cluster='backup.checkpoint = "spread"')
    shop.sql(
        "CREATE TABLE IF NOT EXISTS dirty AS SELECT g, repeat('d', 500) FROM generate_series(1, 20000) g"
    )
    before = len(read_catalog(shop.archive).entries)
    command = subprocess.Popen(
        [*PGPROOF, "--config", str(shop.config_path), "backup", "main"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    waiting = "SELECT 1 FROM pg_stat_progress_basebackup WHERE phase = 'waiting for checkpoint to finish'"
    assert until(lambda: shop.sql(waiting), bool, 30)

    command.send_signal(signal.SIGINT)

    assert command.wait(10) != 0
    command.communicate()
    assert until(lambda: shop.sql(STREAMING), lambda left: not left, 5) == []
    assert len(read_catalog(shop.archive).entries) == before
