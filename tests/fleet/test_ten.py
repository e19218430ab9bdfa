"""Ten clusters, two workers, one of which dies half way with its machine; it prints what it measured."""

from __future__ import annotations

import time

import pytest

from pgproof.backups.catalog import read_catalog
from tests.deployments.upped import until
from tests.drills.damage import answer
from tests.fleet.sorties import card, kill_machine, states, wait_for_child, worker_of
from tests.servers.fleet import running_fleet
from tests.trouble.plant import running_plant

NAMES = tuple(f"c{number}" for number in range(10))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_ten_clusters_and_a_machine_that_dies() -> None:
    with running_fleet(*NAMES) as fleet, running_plant(fleet) as plant:
        plant.start_worker("--limit", "3")
        run = plant.order("protect-fleet", at_once=3)
        plant.wait_for(run, "Running", timeout=180)
        began = time.monotonic()
        other = plant.start_worker()

        def done() -> int:
            return sum(state == "Completed" for _, state in states(plant, run))

        assert until(done, lambda count: count >= 5, 900) >= 5, states(plant, run)
        going = until(
            lambda: [
                one for one in wait_for_child(plant, run, "Running") if worker_of(plant, one.id) is other
            ],
            bool,
            120,
        )
        victims = sorted(str(one.parameters["cluster"]) for one in going)
        kill_machine(plant, other)
        killed, before = time.monotonic(), done()
        ended = plant.wait_for(run, "Completed", "Failed", timeout=1200)
        print(
            f"\n10 clusters, 3 at once, 2 workers: {time.monotonic() - began:.0f} s in all; after {before} were done "
            f"a worker died with the runs of {', '.join(victims)}; {time.monotonic() - killed:.0f} s later all were"
        )
        assert ended.state_name == "Completed", f"{ended.state}\n{plant.logs(run)}"
        found = states(plant, run)
        assert sorted(name for name, state in found if state == "Completed") == sorted(NAMES)
        crashed = [name for name, state in found if state == "Crashed"]
        assert set(victims) <= set(crashed)  # and perhaps one that the worker had just taken
        assert len(crashed) == len(set(crashed)) <= 3
        assert card(plant, run).startswith("# The fleet: 10 of 10 clusters protected\n")
        for member in fleet.members.values():
            assert read_catalog(member.archive).newest.state == "proven"
            member.archive_now()  # an idle source keeps its last commit to itself, which rpo allows for five minutes
        began = time.monotonic()
        code, out, _ = answer(fleet.members["c0"], "fleet")
        print(f"pgproof fleet: {time.monotonic() - began:.1f} s\n{out}")
        assert code == 0, out
        assert set(plant.slots().values()) == {0}
