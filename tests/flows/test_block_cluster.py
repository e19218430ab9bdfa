"""A cluster that is kept in blocks alone: filled in as the UI does, run without any pgproof.toml."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from deployments.block_clusters import block_clusters
from flows.protect import protect
from flows.restore_cluster import restore_cluster
from pgproof.config import load
from pgproof.errors import ConfigError
from pgproof.repository.repository import create_repository
from tasks.work import read_config
from tests.flows.conftest import TABLES
from tests.flows.runs import run
from tests.servers.postgres import Source, running_source
from tests.servers.s3 import S3Server, running_seaweedfs

PASSWORD = "a password of the block"
BLOCK = "block:pgproof-cluster/shop"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_seaweedfs(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def source(prefect: Path, store: S3Server) -> Iterator[Source]:
    """A database host with keys of its own, in a configuration that no flow reads."""
    bucket = store.make_bucket("blocks")
    os.environ.update(STORE_KEY=store.access_key, STORE_SECRET=store.secret_key)
    with running_source(17) as made:
        made.config_path.write_text(
            f'[repositories.main]\nurl = "s3://{bucket}/here"\nendpoint = "{store.endpoint}"\n'
            'access_key_id = "env:STORE_KEY"\nsecret_access_key = "env:STORE_SECRET"\n'
            f'[clusters.shop]\ndsn = "host={made.root}/s user=pgproof dbname=postgres"\n'
        )
        create_repository(load(made.config_path).repositories["main"])
        del os.environ["STORE_KEY"], os.environ["STORE_SECRET"]
        made.server.settings["archive_command"] = made.archive_command
        made.sql(TABLES)
        made.sql(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE pgproof PASSWORD '{PASSWORD}'")
        ways = ["all postgres trust", "all pgproof scram-sha-256", "replication pgproof scram-sha-256"]
        (made.data / "pg_hba.conf").write_text("".join(f"local {way}\n" for way in ways))
        made.sql("SELECT pg_reload_conf()")
        fill_in(made, store, bucket)
        made.config_path.rename(made.config_path.with_name("host.toml"))
        (made.config_path.with_name("pgproof.toml")).symlink_to("host.toml")  # for its archive_command
        yield made


def fill_in(source: Source, store: S3Server, bucket: str) -> None:
    """The documents by the API, as the UI's forms send them: names, plain values, references to other documents."""
    from tasks.blocks import register

    for _ in range(2):  # the server reads what it has when they are registered again
        assert register() == ["pgproof-repository", "pgproof-cluster"]
    with get_client(sync_client=True) as client:

        def save(slug: str, name: str, data: dict[str, Any]) -> str:
            kind = client.request("GET", f"/block_types/slug/{slug}").json()["id"]
            wanted = {"block_schemas": {"block_type_id": {"any_": [kind]}}}
            schema = client.request("POST", "/block_schemas/filter", json=wanted).json()[0]["id"]
            body = {"name": name, "data": data, "block_type_id": kind, "block_schema_id": schema}
            return str(client.request("POST", "/block_documents/", json=body).json()["id"])

        def reference(identifier: str) -> dict[str, Any]:
            return {"$ref": {"block_document_id": identifier}}

        keys = {"minio_root_user": store.access_key, "minio_root_password": store.secret_key}
        keys = {"minio_root_user": store.access_key, "minio_root_password": store.secret_key}
        credentials = save("minio-credentials", "shop-store", keys)
        repository = save(
            "pgproof-repository",
            "shop",
            {
                "url": f"s3://{bucket}/here",
                "credentials": {},  # as the UI saves a section that was left empty
                "minio_credentials": reference(credentials),
                "settings": f'endpoint = "{store.endpoint}"\n',
            },
        )
        empty = {"url": "file:///nowhere", "credentials": {}, "minio_credentials": {}}
        save("pgproof-repository", "empty", empty)
        dsn = f"host={source.root}/s user=pgproof dbname=postgres"
        cluster = {"dsn": dsn, "password": PASSWORD, "repository": reference(repository)}
        save("pgproof-cluster", "shop", {**cluster, "settings": settings(source)})
        copied = 'copies = ["offsite"]\n[repositories.offsite]\nurl = "file:///srv/offsite"\n'
        save("pgproof-cluster", "copied", {**cluster, "settings": copied})
        save("pgproof-cluster", "misspelt", {**cluster, "settings": "retension.daily = 3"})
        save("pgproof-cluster", "no-toml", {**cluster, "settings": "retention daily 3"})
        save("pgproof-cluster", "twice", {**cluster, "settings": 'dsn = "host=/nowhere"'})
        save("pgproof-cluster", "no-dsn", {"repository": reference(repository)})
        save("pgproof-cluster", "earlier", {**cluster, "drill": {"archive_timeout": "20s"}})


def settings(source: Source) -> str:
    return f"""
state_directory = "{source.root}/state"
schedules.base_backup = "15 3 * * *"

[drill]
scratch_directory = "{source.root}/scratch"
archive_timeout = "20s"

[[checks]]
name = "orders"
database = "postgres"
sql = "SELECT count(*) FROM orders"
expect = 1000
"""


def test_the_chain_with_blocks_alone(source: Source, store: S3Server) -> None:
    done = run(protect, "shop", BLOCK)
    assert done.state.is_completed(), done.message
    proof = done.state.result().stored.proof
    assert proof.proven and proof.cluster == "shop"
    assert [check["name"] for check in proof.checks if check["name"] == "orders"] == ["orders"]
    with get_client(sync_client=True) as client:
        seen = [
            client.request("POST", f"/{kind}/filter", json={}).text
            for kind in ("block_documents", "flow_runs", "task_runs", "artifacts")
        ]
    for secret in (PASSWORD, store.secret_key):
        assert not any(secret in text for text in [*seen, done.logs()])


def test_it_reads_as_a_pgproof_toml_would(source: Source) -> None:
    found = read_config(BLOCK)
    assert str(found.path) == BLOCK
    cluster = found.cluster("shop")
    assert str(cluster.schedules.base_backup) == "15 3 * * *"
    assert cluster.drill.archive_timeout == 20
    assert cluster.password == "env:PGPROOF_BLOCK_SHOP_PASSWORD"
    assert found.repository_of(cluster).credentials == "block:minio-credentials/shop-store"
    copied = read_config("block:pgproof-cluster/copied")
    copies = copied.copies_of(copied.cluster("copied"))
    assert [one.url for one in copies.values()] == ["file:///srv/offsite"]


def test_the_form_asks_for_what_nobody_can_guess() -> None:
    from tasks.blocks import PgproofCluster, PgproofRepository

    asked = {name for kind in (PgproofCluster, PgproofRepository) for name in kind.model_fields}
    known = {
        *("dsn", "password", "repository", "system_identifier", "settings"),
        *("url", "credentials", "minio_credentials"),
    }
    assert {name for name in asked if not name.startswith("_")} == known
    required = [name for name, field in PgproofCluster.model_fields.items() if field.is_required()]
    assert required == ["dsn", "repository"]


def test_a_section_that_was_left_empty_is_none(source: Source) -> None:
    from tasks.blocks import PgproofRepository

    block: Any = PgproofRepository.load("empty")
    assert block.section() == {"url": "file:///nowhere"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("misspelt", 'clusters.misspelt.retension: there is no such key; did you mean "retention"?.'),
        ("no-toml", "the field Settings is not valid TOML"),
        ("twice", "They name: dsn."),
        ("no-dsn", "dsn: Field required."),
        ("earlier", "It has fields of its own for: drill."),
    ],
)
def test_a_broken_block_is_told_by_what_is_wrong(source: Source, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(f"block:pgproof-cluster/{name}")
    assert said in f"{caught.value.fact} {caught.value.detail}"


def test_a_broken_block_does_not_stop_the_others(source: Source) -> None:
    found = block_clusters()
    assert [cluster.name for cluster in found.clusters] == ["copied", "shop"]
    assert sorted(found.broken) == ["earlier", "misspelt", "no-dsn", "no-toml", "twice"]
    with pytest.raises(ConfigError):
        block_clusters("misspelt")


def test_toml_is_checked_when_a_program_saves() -> None:
    from tasks.blocks import PgproofRepository

    with pytest.raises(ConfigError, match="not valid TOML"):
        PgproofRepository(url="file:///x", settings="no toml")


def test_a_restore_needs_a_pgproof_toml(source: Source) -> None:
    planned = run(restore_cluster, "shop", str(source.root / "new"), BLOCK, dry_run=True)
    assert planned.state.is_completed(), planned.message
    done = run(restore_cluster, "shop", str(source.root / "new"), BLOCK)
    assert 'ConfigError: cluster "shop" cannot be restored from a block alone' in done.message
    assert not (source.root / "new").exists()


@pytest.mark.parametrize(
    ("reference", "fact"),
    [
        ("block:pgproof-cluster/nothing", 'Prefect block "pgproof-cluster/nothing" cannot be loaded'),
        ("block:pgproof-repository/shop", 'Prefect block "pgproof-repository/shop" is no cluster'),
    ],
)
def test_a_wrong_block(source: Source, reference: str, fact: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(reference)
    assert caught.value.fact == fact
