"""The form of a restore offers the backups that there are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from deployments.forms import form, parameters_of
from flows.base_backup import base_backup
from flows.restore_cluster import restore_cluster
from flows.retention_pruning import retention_pruning
from flows.wal_gap_check import wal_gap_check
from pgproof.backups.catalog import read_catalog
from tasks.offers import labels_in, with_labels
from tests.flows.runs import run
from tests.servers.postgres import Source

FORM = form(parameters_of("flows/restore_cluster.py:restore_cluster"), ["main"])
SHORT = 'retention = { daily = 0, weekly = 0, monthly = 0, wal_window = "0s", approve_above = 1 }'


@pytest.fixture
def client(prefect: Any) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Iterator[UUID]:
    flow = client.create_flow(restore_cluster)
    made = client.create_deployment(
        flow, "main", parameter_openapi_schema=FORM, enforce_parameter_schema=True
    )
    yield made
    client.delete_deployment(made)


def offered(client: SyncPrefectClient, deployment: UUID) -> list[str]:
    return labels_in(client.read_deployment(deployment).parameter_openapi_schema)


def test_backups_that_are_taken_and_removed(
    shop: Source, config: str, client: SyncPrefectClient, deployment: UUID
) -> None:
    labels = [run(base_backup, "main", config).state.result()]
    assert offered(client, deployment) == labels
    while len(labels) < 5:
        time.sleep(1.1)  # a label has seconds
        labels.append(run(base_backup, "main", config).state.result())
    assert offered(client, deployment) == labels[::-1]
    shop.write_config(cluster=SHORT)

    removed = run(retention_pruning, "main", config).state.result()["removed"]

    assert removed
    kept = [entry.label for entry in read_catalog(shop.archive).entries]
    assert offered(client, deployment) == kept[::-1]
    there = client.read_deployment(deployment)
    assert there.parameter_openapi_schema == with_labels(FORM, kept[::-1])
    for label in (kept[0], "20200101T000000Z-full", None):  # one that the form does not know is taken, too
        parameters = {"cluster": "main", "destination": "/nowhere", "backup": label}
        ordered = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        client.delete_flow_run(ordered.id)


def test_the_backup_of_a_gap_check(
    shop: Source, config: str, client: SyncPrefectClient, deployment: UUID, lost: str
) -> None:
    """It comes when nobody ordered one: of all backups the one that a restore needs most."""
    before = [entry.label for entry in read_catalog(shop.archive).entries]

    done = run(wal_gap_check, "main", config)

    assert f"{lost} missing. " in done.message
    after = [entry.label for entry in read_catalog(shop.archive).entries]
    assert (after[:-1], len(after)) == (before, len(before) + 1)
    assert offered(client, deployment) == after[::-1]


def test_a_form_that_nobody_deployed(config: str) -> None:
    done = run(base_backup, "main", config)
    assert done.state.is_completed()
    assert "run form" not in done.logs()


def test_a_form_keeps_what_it_has_where_there_is_nothing_to_offer() -> None:
    assert with_labels(FORM, []) == FORM
    offering = with_labels(FORM, ["b", "a"])
    assert labels_in(offering) == ["b", "a"]
    assert with_labels(offering, ["c"]) == with_labels(FORM, ["c"])
    assert [choice["title"] for choice in offering["properties"]["backup"]["anyOf"]] == [
        *("One of these", "Another", "Not given"),
    ]
    other = form(parameters_of("flows/wal_gap_check.py:wal_gap_check"), ["main"])
    assert with_labels(other, ["a"]) == other
    assert labels_in(None) == labels_in(other) == []
