"""Work queues: which ones are ours, which of them are of no use any more, and that no other is touched."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Completed, Pending, Running, Scheduled

from deployments.queues import description_of, ensure_queues, find_idle, remove_idle
from deployments.server import ensure_pool
from flows.reap import reap

HERE, THERE = "/one/pgproof.toml", "/other/pgproof.toml"


@pytest.fixture
def client(prefect: Any) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def pool(client: SyncPrefectClient) -> Iterator[str]:
    name = f"pool-{uuid.uuid4().hex[:8]}"
    ensure_pool(name)
    yield name
    client.delete_work_pool(name)


def queues(client: SyncPrefectClient, pool: str) -> dict[str, str | None]:
    """Name to description."""
    return {queue.name: queue.description for queue in client.read_work_queues(work_pool_name=pool)}


def idle(pool: str, config: str | None = HERE, *gone: UUID) -> dict[str, int]:
    """Queue to the runs for which it stays."""
    return {one.name: one.runs for one in find_idle(config, gone) if one.pool == pool}


def deployment(client: SyncPrefectClient, pool: str, queue: str) -> UUID:
    return client.create_deployment(
        client.create_flow(reap), f"{pool}-{queue}", work_pool_name=pool, work_queue_name=queue
    )


def test_a_queue_says_whose_runs_it_has(client: SyncPrefectClient, pool: str) -> None:
    ensure_queues(pool, {"shop": HERE})
    said = f"The runs of cluster shop of {HERE}; made by pgproof deploy"
    assert queues(client, pool)["shop"] == said == description_of("shop", HERE)


def test_one_that_is_there_is_described_and_else_left_as_it_is(client: SyncPrefectClient, pool: str) -> None:
    client.create_work_queue("old", work_pool_name=pool, concurrency_limit=3, is_paused=True, priority=1)
    client.create_work_queue("mine", "what I wrote", work_pool_name=pool)
    client.create_work_queue("moved", description_of("moved", THERE), work_pool_name=pool)
    for _ in range(2):
        ensure_queues(pool, dict.fromkeys(("old", "mine", "moved"), HERE))
    found = queues(client, pool)
    assert (found["old"], found["mine"]) == (description_of("old", HERE), "what I wrote")
    assert found["moved"] == description_of("moved", HERE)
    (old,) = [queue for queue in client.read_work_queues(work_pool_name=pool) if queue.name == "old"]
    assert (old.concurrency_limit, old.is_paused, old.priority) == (3, True, 1)


def test_only_ours_without_a_deployment_are_removed(client: SyncPrefectClient, pool: str) -> None:
    ensure_queues(pool, {"shop": HERE, "gone": HERE, "theirs": THERE, "kept": "block:pgproof-cluster/kept"})
    client.create_work_queue("mine", "what I wrote", work_pool_name=pool)
    client.create_work_queue("renamed", description_of("shop", HERE), work_pool_name=pool)
    deployment(client, pool, "shop")
    assert idle(pool) == {"gone": 0}
    assert idle(pool, None) == {"kept": 0}
    remove_idle(find_idle(HERE))
    assert set(queues(client, pool)) == {"default", "shop", "theirs", "kept", "mine", "renamed"}
    remove_idle(find_idle(HERE))
    assert idle(pool) == {}


def test_somebody_elses_deployment_keeps_it(client: SyncPrefectClient, pool: str) -> None:
    ensure_queues(pool, {"shop": HERE})
    theirs = deployment(client, pool, "shop")  # without our tag
    assert idle(pool) == {}
    client.delete_deployment(theirs)
    assert idle(pool) == {"shop": 0}


def test_a_run_that_has_not_ended_keeps_it(client: SyncPrefectClient, pool: str) -> None:
    """What is scheduled goes with its deployment; what is on its way goes on, and needs the queue."""
    ensure_queues(pool, {"shop": HERE})
    made = deployment(client, pool, "shop")
    waiting, going = (client.create_flow_run_from_deployment(made, state=Scheduled()).id for _ in range(2))
    for state in (Pending(), Running()):
        client.set_flow_run_state(going, state)
    assert idle(pool) == {}
    assert idle(pool, HERE, made) == {"shop": 1}
    client.delete_deployment(made)
    assert idle(pool) == {"shop": 1}
    remove_idle(find_idle(HERE))
    assert "shop" in queues(client, pool)
    assert client.read_flow_run(going).work_queue_name == "shop"
    client.set_flow_run_state(going, Completed())
    assert idle(pool) == {"shop": 0}
    remove_idle(find_idle(HERE))
    assert "shop" not in queues(client, pool)
    client.delete_flow_run(going)
    assert waiting
