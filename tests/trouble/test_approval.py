"""A pruning plan that would remove more than usual waits for a person in the UI."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest

from pgproof.backups.catalog import read_catalog
from tests.deployments.upped import until
from tests.servers.postgres import Source
from tests.trouble.plant import Plant

POLICY = 'retention = { daily = 0, weekly = 0, monthly = 0, wal_window = "0s", approve_above = 0.2 }'


@pytest.fixture
def labels(shop: Source) -> list[str]:
    """Four backups, none proven, of which two go."""
    shop.write_config(cluster=POLICY)
    while len(read_catalog(shop.archive).entries) < 4:
        shop.backup()
        time.sleep(1)  # a label has seconds
    return [entry.label for entry in read_catalog(shop.archive).entries]


def reply(plant: Plant, run: UUID, **form: Any) -> dict[str, Any]:
    """Press Resume and send the form, as the UI does."""
    with plant.client() as client:
        path = {"id": str(run)}
        done = client.request("POST", "/flow_runs/{id}/resume", path_params=path, json={"run_input": form})
    found: dict[str, Any] = done.json()
    return found


def artifact(plant: Plant, run: UUID) -> str:
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(run)]}, "key": {"any_": ["pgproof-main-retention"]}}}
    with plant.client() as client:
        found = client.request("POST", "/artifacts/filter", json={**wanted, "sort": "CREATED_DESC"}).json()
    return str(found[0]["data"])


def left(shop: Source) -> list[str]:
    return [entry.label for entry in read_catalog(shop.archive).entries]


def test_no_and_then_yes(shop: Source, plant: Plant, labels: list[str]) -> None:
    declined = plant.order("retention-pruning")
    plant.wait_for(declined, "Suspended")
    assert artifact(plant, declined).startswith(
        "# Retention of main\n\n**Waits for an approval.** It removes 2 of 4"
    )
    assert until(lambda: plant.processes("prefect", str(declined)), lambda found: not found, 10) == {}
    wrong = reply(plant, declined, approve=False)
    assert wrong["status"] == "REJECT" and "name" in wrong["details"]["reason"]
    assert (
        reply(plant, declined, approve=False, name="Ada", reason="the audit is not over")["status"]
        == "ACCEPT"
    )
    plant.wait_for(declined, "Completed")
    assert artifact(plant, declined).startswith(
        "# Retention of main\n\n**Declined by Ada: the audit is not over.** It removes 2 of 4"
    )
    assert left(shop) == labels

    approved = plant.order("retention-pruning")
    plant.wait_for(approved, "Suspended")
    assert reply(plant, approved, approve=True, name="Ada")["status"] == "ACCEPT"
    plant.wait_for(approved, "Completed")
    assert artifact(plant, approved).startswith(
        "# Retention of main\n\n**Approved by Ada.** It removes 2 of 4"
    )
    assert left(shop) == labels[2:]


def test_an_answer_is_of_the_plan_that_was_shown(shop: Source, plant: Plant, labels: list[str]) -> None:
    run = plant.order("retention-pruning")
    plant.wait_for(run, "Suspended")
    before = artifact(plant, run)
    shop.backup()  # by now the plan removes three
    assert reply(plant, run, approve=True, name="Ada")["status"] == "ACCEPT"
    again = until(lambda: artifact(plant, run), lambda text: "It removes 3 of 5" in text, 60)
    assert "It removes 3 of 5" in again != before, plant.logs(run)
    plant.wait_for(run, "Suspended")
    assert len(left(shop)) == 5
    with plant.client() as client:
        client.delete_flow_run(run)


def test_nobody_answers(shop: Source, plant: Plant, labels: list[str]) -> None:
    """The server fails the run when its time is over, which its alert tells; nothing was removed."""
    before = left(shop)
    run = plant.order("retention-pruning")
    state = plant.wait_for(run, "Suspended").state
    assert state is not None and state.state_details.pause_timeout is not None
    hours = (state.state_details.pause_timeout - state.timestamp).total_seconds() / 3600
    assert 19.9 < hours < 20.1
    assert left(shop) == before
    with plant.client() as client:
        client.delete_flow_run(run)
