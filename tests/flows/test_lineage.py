"""Lineage: the keys that Prefect takes, and the events of a backup and of a proof, each once a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prefect.assets import Asset as PrefectAsset
from prefect.client.orchestration import get_client

from flows.base_backup import base_backup
from flows.restore_validation import restore_validation
from pgproof.backups.catalog import read_catalog
from pgproof.repository.layout import Layout
from pgproof.validation.proof import read_proof
from tasks.lineage import (
    FAILED,
    REFERENCED,
    SUCCEEDED,
    Asset,
    cluster_asset,
    proof_lineage,
    stored_asset,
)
from tasks.validation import StoredProof
from tests.flows.runs import Run, run, until
from tests.flows.test_base_backup import while_the_server_is_away
from tests.servers.postgres import Source
from tests.validation.test_proof import UNEQUAL, fence, proof

LAYOUT = Layout("main", 7)


class TestKeys:
    @pytest.mark.parametrize(
        ("url", "key"),
        [
            ("s3://bucket/pg", "s3://bucket/pg/main/7/backups/L"),
            ("s3://bucket", "s3://bucket/main/7/backups/L"),
            ("file:///srv/pgproof/", "file:///srv/pgproof/main/7/backups/L"),
            ("S3://AKIA:secret@bucket/pg", "s3://bucket/pg/main/7/backups/L"),
            ("file:///srv/my repository[1]", "file:///srv/my-repository-1-/main/7/backups/L"),
            ("gs://bucket/a%20b", "gs://bucket/a-20b/main/7/backups/L"),
            (f"file:///{'x' * 500}", "pgproof://main/7/backups/L"),
        ],
    )
    def test_of_a_backup(self, url: str, key: str) -> None:
        found = stored_asset(url, LAYOUT, LAYOUT.backup("L"), "backup L")
        assert found == Asset(key, "backup L of cluster main")
        assert PrefectAsset(key=found.key).key == key  # Prefect's own rules

    def test_of_a_cluster(self) -> None:
        assert cluster_asset("main", 7) == Asset("postgres://main/7", "cluster main")
        assert PrefectAsset(key=cluster_asset("main", 7).key).key == "postgres://main/7"


class TestProofs:
    def test_a_drill_that_proved_nothing_failed_to_make_a_proof(self) -> None:
        found = proof_lineage("main", StoredProof(proof(comparison=UNEQUAL), "k.json", fence(), "s3://b"))
        assert (found.event, found.metadata["proven"], found.metadata["verdict"]) == (
            FAILED,
            False,
            "not equal",
        )
        assert found.description == (
            "backup 20261123T200000Z is not equal: shop: public.u: source has 3 rows, restored has 2"
        )

    def test_another_tools_backup_is_not_in_our_repository(self) -> None:
        origin = {"kind": "pgbackrest", "title": "pgBackRest", "version": "2.45"}
        other = replace(proof(), origin=origin, backup="20261123-200000F")
        found = proof_lineage("main", StoredProof(other, "k.json", fence(), "s3://b"))
        _, backup = found.of  # nor is the WAL
        assert backup.key == f"pgbackrest://main/{other.system_identifier}/20261123-200000F"
        assert backup.name == "pgBackRest backup 20261123-200000F of cluster main"


# ---- at the server


def asset_events(done: Run, count: int) -> list[dict[str, Any]]:
    """What a run told of assets, in its order."""
    wanted = {
        "event": {"prefix": ["prefect.asset."]},
        "related": {"id": [f"prefect.flow-run.{done.flow_run.id}"]},
        "order": "ASC",
    }

    def look() -> list[dict[str, Any]]:
        with get_client(sync_client=True) as client:
            page = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50}).json()
        return [one for one in page["events"] if one["event"].startswith("prefect.asset.")]

    found = until(look, lambda events: len(events) >= count)
    return sorted(found, key=lambda event: event["occurred"])


def upstreams(event: dict[str, Any]) -> list[str]:
    return [one["prefect.resource.id"] for one in event["related"] if one["prefect.resource.role"] == "asset"]


def test_from_the_cluster_to_the_proof(shop: Source, config: str) -> None:
    full = run(base_backup, "main", config)
    incremental = run(base_backup, "main", config, incremental=True)
    drilled = run(restore_validation, "main", config)

    root = f"{shop.archive.store.url}/main/{shop.archive.system_identifier}"
    cluster = f"postgres://main/{shop.archive.system_identifier}"
    first, second = full.state.result(), incremental.state.result()
    record = read_catalog(shop.archive).entry(second).record

    referenced, made = asset_events(full, 2)
    assert (referenced["event"], made["event"]) == (REFERENCED, SUCCEEDED)
    assert referenced["resource"] == {"prefect.resource.id": cluster, "prefect.resource.name": "cluster main"}
    assert made["resource"]["prefect.resource.id"] == f"{root}/backups/{first}"
    assert made["resource"]["prefect.resource.name"] == f"backup {first} of cluster main"
    assert made["resource"]["prefect.asset.description"].startswith("full base backup, ")
    assert upstreams(made) == [cluster]
    by = [one for one in made["related"] if one["prefect.resource.role"] == "asset-materialized-by"]
    assert [one["prefect.resource.id"] for one in by] == ["pgproof"]

    *before, made = asset_events(incremental, 3)
    assert [one["event"] for one in before] == [REFERENCED, REFERENCED]
    assert upstreams(made) == [cluster, f"{root}/backups/{first}"]
    assert made["payload"] == {
        "backup": second,
        "kind": "incremental",
        "parent": first,
        "proven": False,
        "raw_size": record.raw_size,
        "stored_size": record.stored_size,
        "timeline": 1,
        "start_lsn": str(record.start_lsn),
        "stop_lsn": str(record.stop_lsn),
        "stopped_at": record.stopped_at.isoformat(),
        "seconds": made["payload"]["seconds"],
    }

    *before, made = asset_events(drilled, 4)
    key = drilled.state.result()
    proven = read_proof(shop.archive, key.rpartition("/")[2].removesuffix(".json"))
    assert (made["event"], made["resource"]["prefect.resource.id"]) == (
        SUCCEEDED,
        f"{shop.archive.store.url}/{key}",
    )
    assert upstreams(made) == [cluster, f"{root}/backups/{second}", f"{root}/wal/00000001"]
    assert [one["resource"]["prefect.resource.id"] for one in before] == upstreams(made)
    assert (made["payload"]["backup"], made["payload"]["proven"]) == (second, True)
    assert (made["payload"]["first_segment"], made["payload"]["cuts"]) == (proven.wal[0], proven.cuts)


def test_a_task_that_was_tried_again_tells_it_once(
    shop: Source, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = while_the_server_is_away(shop, config, monkeypatch)
    assert done.attempts["take base backup"] >= 2
    assert [one["event"] for one in asset_events(done, 2)] == [REFERENCED, SUCCEEDED]
