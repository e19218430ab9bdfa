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
    """One test, because each answer costs a process: each step is a function of its own."""
    declined = plant.order("retention-pruning")
    it_waits(shop, plant, declined, labels)
    a_form_that_is_not_filled_in_is_refused(plant, declined)
    an_answer_is_of_the_plan_that_was_shown(shop, plant, declined)
    no_keeps_everything(shop, plant, declined)
    yes_removes_what_was_shown(shop, plant)


def it_waits(shop: Source, plant: Plant, run: UUID, labels: list[str]) -> None:
    """So long: then the server fails the run, which its alert tells; nothing is removed meanwhile."""
    state = plant.wait_suspended(run).state
    assert artifact(plant, run).startswith(
        "# Retention of main\n\n**Waits for an approval.** It removes 2 of 4"
    )
    assert state is not None and state.state_details.pause_timeout is not None
    hours = (state.state_details.pause_timeout - state.timestamp).total_seconds() / 3600
    assert 19.9 < hours < 20.1
    assert left(shop) == labels


def a_form_that_is_not_filled_in_is_refused(plant: Plant, run: UUID) -> None:
    wrong = reply(plant, run, approve=False)
    assert wrong["status"] == "REJECT" and "name" in wrong["details"]["reason"]


def an_answer_is_of_the_plan_that_was_shown(shop: Source, plant: Plant, run: UUID) -> None:
    before = artifact(plant, run)
    shop.backup()  # by now the plan removes three
    assert reply(plant, run, approve=True, name="Ada")["status"] == "ACCEPT"
    again = until(lambda: artifact(plant, run), lambda text: "It removes 3 of 5" in text, 60)
    assert "**Waits for an approval.** It removes 3 of 5" in again != before, plant.logs(run)
    plant.wait_suspended(run)
    assert len(left(shop)) == 5


def no_keeps_everything(shop: Source, plant: Plant, run: UUID) -> None:
    answer = reply(plant, run, approve=False, name="Ada", reason="the audit is not over")
    assert answer["status"] == "ACCEPT"
    plant.wait_for(run, "Completed")
    assert artifact(plant, run).startswith(
        "# Retention of main\n\n**Declined by Ada: the audit is not over.** It removes 3 of 5"
    )
    assert len(left(shop)) == 5


def yes_removes_what_was_shown(shop: Source, plant: Plant) -> None:
    kept = left(shop)[3:]
    run = plant.order("retention-pruning")
    plant.wait_suspended(run)
    assert reply(plant, run, approve=True, name="Ada")["status"] == "ACCEPT"
    plant.wait_for(run, "Completed")
    assert artifact(plant, run).startswith("# Retention of main\n\n**Approved by Ada.** It removes 3 of 5")
    assert left(shop) == kept
