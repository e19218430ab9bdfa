"""Secrets in Prefect blocks: a whole chain on a real S3 with an AwsCredentials block and a password's Secret block."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyrage
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

from flows.base_backup import base_backup
from flows.protect import protect
from flows.restore_cluster import restore_cluster
from flows.wal_gap_check import wal_gap_check
from flows.writer import ensure_limit
from pgproof.config import load
from pgproof.errors import ConfigError, PgproofError
from pgproof.repository.repository import create_repository
from tasks.work import open_work, read_credentials
from tests.flows.conftest import TABLES
from tests.flows.runs import Run, run
from tests.flows.watching import Seen, watching
from tests.servers.postgres import Source, running_source
from tests.servers.s3 import S3Server, running_seaweedfs

PASSWORD = "correct horse battery staple"
IDENTITY = pyrage.x25519.Identity.generate()
# of the worker's environment, and no program's business that it starts
ELSEWHERE = {"AWS_SECRET_ACCESS_KEY": "of another account", "PREFECT_API_AUTH_STRING": "admin:of the server"}
HOST = {"STORE_KEY": "access_key", "STORE_SECRET": "secret_key"}  # variables of the database host


@dataclass
class Site:
    """A database host with its own pgproof.toml, a store, and a worker that knows neither key nor password."""

    source: Source
    store: S3Server
    bucket: str

    def worker(
        self,
        credentials: str = "block:aws-credentials/store",
        password: str = "block:secret/database",
        dsn: str = "",
    ) -> str:
        """Write the worker's pgproof.toml; its path."""
        path = self.source.root / "worker.toml"
        keys = (f'credentials = "{credentials}"', 'age_identity = "block:secret/identity"')
        path.write_text(self.text(*keys, dsn=dsn) + f'password = "{password}"\n')
        return str(path)

    def text(self, *keys: str, dsn: str = "") -> str:
        root = self.source.root
        return "\n".join(
            [
                f'state_directory = "{root}/state"',
                "[repositories.main]",
                f'url = "s3://{self.bucket}/backups"',
                f'endpoint = "{self.store.endpoint}"',
                f'age_recipients = ["{IDENTITY.to_public()}"]',
                *keys,
                "[clusters.main]",
                f'dsn = "{dsn or f"host={root}/s user=pgproof dbname=postgres"}"',
                f'drill.scratch_directory = "{root}/scratch"',
                'drill.archive_timeout = "20s"',
                'backup.archive_timeout = "20s"',
                "",
            ]
        )


@pytest.fixture(scope="module")
def site(prefect: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from prefect_aws import AwsCredentials, MinIOCredentials

    with running_seaweedfs(tmp_path_factory.mktemp("store")) as store:
        environment = {name: getattr(store, attribute) for name, attribute in HOST.items()}
        os.environ.update(environment)
        with running_source(17) as source:
            made = Site(source, store, store.make_bucket("pgproof"))
            keys = ('access_key_id = "env:STORE_KEY"', 'secret_access_key = "env:STORE_SECRET"')
            source.config_path.write_text(made.text(*keys))
            create_repository(load(source.config_path).repositories["main"])
            for name in environment:  # the server has them, for its archive_command; the worker has not
                del os.environ[name]
            source.sql(TABLES)
            source.sql(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE pgproof PASSWORD '{PASSWORD}'")
            ways = ["all postgres trust", "all pgproof scram-sha-256", "replication pgproof scram-sha-256"]
            (source.data / "pg_hba.conf").write_text("".join(f"local {way}\n" for way in ways))
            source.sql("SELECT pg_reload_conf()")
            aws: Any = AwsCredentials(
                aws_access_key_id=store.access_key, aws_secret_access_key=store.secret_key
            )
            aws.save("store", overwrite=True)
            minio: Any = MinIOCredentials(
                minio_root_user=store.access_key, minio_root_password=store.secret_key
            )
            minio.save("store", overwrite=True)
            AwsCredentials(region_name="eu-west-1").save("empty", overwrite=True)
            Secret(value=PASSWORD).save("database", overwrite=True)
            Secret(value=str(IDENTITY)).save("identity", overwrite=True)
            yield made


@pytest.fixture(scope="module")
def watched(site: Site) -> tuple[Run, Seen]:
    """The whole chain, once, and the programs that it started."""
    ensure_limit("main")
    with patch.dict(os.environ, ELSEWHERE), watching() as seen:
        done = run(protect, "main", site.worker())
    return done, seen


@pytest.fixture(scope="module")
def protected(watched: tuple[Run, Seen]) -> Run:
    return watched[0]


def test_the_chain_on_s3(site: Site, protected: Run) -> None:
    done = protected.state.result()
    assert done.stored.proof.proven
    keys = [item["Key"] for item in site.store.client.list_objects_v2(Bucket=site.bucket)["Contents"]]
    label = done.taken.record.label
    assert f"backups/{done.stored.key}" in keys
    assert any(key.endswith(f"/backups/{label}/backup.json") for key in keys)
    assert any(f"{done.taken.record.last_segment}.zst" in key for key in keys)  # by the archive_command
    assert f"| repository | `s3://{site.bucket}/backups` |" in protected.artifact("pgproof-main-backup")
    assert not site.source.repository_path.joinpath("main").exists()


def test_the_server_never_learns_a_secret(site: Site, protected: Run) -> None:
    """Neither does the log of a run that fails, with a DSN and a block in its traceback."""
    config = site.worker(dsn="host=/nowhere user=pgproof password=plain-in-the-dsn")
    failed = run(base_backup, "main", config)
    assert "could not connect" in failed.message
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/filter", json={}).text
        task_runs = client.request("POST", "/task_runs/filter", json={}).text
        flow_runs = client.request("POST", "/flow_runs/filter", json={}).text
        events = client.request("POST", "/events/filter", json={"limit": 50}).text
        blocks = client.request("POST", "/block_documents/filter", json={}).text
    everything = [
        artifacts,
        task_runs,
        flow_runs,
        events,
        blocks,
        protected.logs(),
        failed.logs(),
        failed.message,
    ]
    proof = json.dumps(protected.state.result().as_dict(), default=str)
    database = PREFECT_API_DATABASE_CONNECTION_URL.value().partition("///")[2]
    stored = b"".join(path.read_bytes() for path in Path(database).parent.glob(f"{Path(database).name}*"))
    assert (
        b"# PROVEN: main" in stored
    )  # whatever the server keeps is in it: logs, parameters, artifacts, events
    pages = [path.read_text(errors="replace") for path in files(site.source.root / "state")]
    for secret in (site.store.secret_key, PASSWORD, "plain-in-the-dsn", str(IDENTITY), *ELSEWHERE.values()):
        assert not any(secret in text for text in (*everything, proof, *pages))
        assert secret.encode() not in stored


def files(directory: Path) -> list[Path]:
    """What the drill has left on the worker: Data Docs, logs."""
    return [path for path in directory.rglob("*") if path.is_file()]


def test_no_program_learns_a_secret(site: Site, watched: tuple[Run, Seen]) -> None:
    """Neither by its command line, which each account of the machine sees, nor by its environment."""
    _, seen = watched
    assert any("bin/postgres -D" in command for command in seen.commands)  # others may be gone too soon
    assert len(seen.environments) > 5
    for secret in (site.store.secret_key, PASSWORD, str(IDENTITY), *ELSEWHERE.values()):
        assert [command for command in seen.commands if secret in command] == []
        assert [command for command, environment in seen.environments if secret in environment] == []


def test_minio_credentials(site: Site, protected: Run) -> None:
    done = run(wal_gap_check, "main", site.worker("block:minio-credentials/store"))
    assert done.state.is_completed(), done.message


def test_single_keys_in_secret_blocks(site: Site, protected: Run) -> None:
    Secret(value=site.store.access_key).save("store-key", overwrite=True)
    Secret(value=site.store.secret_key).save("store-secret", overwrite=True)
    path = Path(site.worker())
    keys = 'access_key_id = "block:secret/store-key"\nsecret_access_key = "block:secret/store-secret"'
    path.write_text(path.read_text().replace('credentials = "block:aws-credentials/store"', keys))
    done = run(wal_gap_check, "main", str(path))
    assert done.state.is_completed(), done.message


def test_a_restore_warns_that_restore_command_has_no_blocks(site: Site, protected: Run) -> None:
    done = run(restore_cluster, "main", str(site.source.root / "new"), site.worker(), dry_run=True)
    warning = (
        "- **warning**: restore_command cannot read block:aws-credentials/store: it runs without Prefect; "
    )
    assert warning in done.artifact("pgproof-main-restore")


@pytest.mark.parametrize(
    ("reference", "lines"),
    [
        (
            "block:aws-credentials/nothing",
            [
                'Prefect block "aws-credentials/nothing" cannot be loaded',
                "Unable to find block document named nothing for block type aws-credentials",
                "create it in the UI under Blocks, or correct the name in pgproof.toml",
            ],
        ),
        (
            "block:aws-credentials/empty",
            [
                'Prefect block "aws-credentials/empty" holds no access key',
                "pgproof takes the key of an AWS Credentials or MinIO Credentials block.",
                "leave credentials out to use the environment, an AWS profile or the machine's role",
            ],
        ),
        ("block:secret/database", ['Prefect block "secret/database" holds no access key']),
        (
            "block:store",
            ['Prefect block "store" cannot be loaded', "It is not named by type and name."],
        ),
        ("block:no-such-type/store", ['Prefect block "no-such-type/store" cannot be loaded']),
    ],
)
def test_a_wrong_block(site: Site, reference: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_credentials(reference)
    error = caught.value
    assert [error.fact, error.detail, error.hint][: len(lines)] == lines


def test_a_wrong_block_in_a_run(site: Site, protected: Run) -> None:
    done = run(wal_gap_check, "main", site.worker("block:aws-credentials/nothing"))
    assert 'ConfigError: Prefect block "aws-credentials/nothing" cannot be loaded' in done.message
    assert done.attempts == {"check WAL archive": 1}


def test_a_password_that_is_no_secret_block(site: Site) -> None:
    with pytest.raises(ConfigError) as caught:
        open_work("main", site.worker(password="block:aws-credentials/store"))
    assert caught.value.fact == 'Prefect block "aws-credentials/store" is no Secret block'
    assert caught.value.hint == 'name one as "block:secret/NAME"'


def test_a_wrong_password(site: Site, protected: Run) -> None:
    Secret(value="wrong").save("wrong", overwrite=True)
    done = run(base_backup, "main", site.worker(password="block:secret/wrong"))
    assert 'AuthenticationFailed: cannot log in to cluster "main"' in done.message
    assert done.attempts == {"take base backup": 1}


def test_the_engine_alone_says_that_a_block_needs_a_flow(site: Site) -> None:
    with pytest.raises(PgproofError, match="is a Prefect block"):
        config = load(site.worker())
        create_repository(config.repositories["main"])
