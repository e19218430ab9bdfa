"""Work: the configuration, cluster and repository of one task, opened where the task runs.

Task parameters are names and plain values; the server stores and shows them. Secrets are read here, from the
environment, from files or from Prefect blocks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pgproof.config import ClusterConfig, Config, load
from pgproof.errors import ConfigError
from pgproof.repository.repository import (
    Archive,
    Credentials,
    Repository,
    find_archive,
    open_repository,
)


@dataclass(frozen=True)
class Work:
    """What a task works on."""

    config: Config
    cluster: ClusterConfig
    repository: Repository

    @property
    def archive(self) -> Archive:
        return find_archive(self.repository, self.cluster)


def open_work(cluster: str, config: str | None = None) -> Work:
    """Read the configuration, and open the cluster's repository.

    Args:
        cluster: its name.
        config: path of pgproof.toml; default PGPROOF_CONFIG, else the working directory's.
    """
    loaded = load(config)
    chosen = _with_secrets(loaded.cluster(cluster))
    settings = loaded.repository_of(chosen)
    credentials = None
    if settings.credentials is not None and settings.credentials.startswith("block:"):
        credentials = read_credentials(settings.credentials)
    return Work(loaded, chosen, open_repository(settings, credentials))


def now() -> datetime:
    """The clock of the tasks."""
    return datetime.now(UTC)


def read_credentials(reference: str) -> Credentials:
    """The access key of a prefect-aws block: ``block:aws-credentials/NAME`` or ``block:minio-credentials/NAME``.

    Raises:
        ConfigError: the block does not exist, is of another type, or holds no key.
    """
    block: Any = _load_block(reference)
    if hasattr(block, "minio_root_user"):
        return Credentials(block.minio_root_user, block.minio_root_password.get_secret_value())
    secret = getattr(block, "aws_secret_access_key", None)
    if not getattr(block, "aws_access_key_id", None) or secret is None:
        raise ConfigError(
            f'block "{reference}" holds no access key',
            "pgproof takes the key of an AWS Credentials or MinIO Credentials block.",
            "leave credentials out to use the standard AWS chain",
        )
    return Credentials(block.aws_access_key_id, secret.get_secret_value(), block.aws_session_token)


def _with_secrets(cluster: ClusterConfig) -> ClusterConfig:
    """A password kept in a Prefect Secret block becomes one that the engine can read, in this process only."""
    if cluster.password is None or not cluster.password.startswith("block:"):
        return cluster
    variable = f"PGPROOF_PASSWORD_{cluster.name.upper().replace('-', '_')}"
    os.environ[variable] = str(_load_block(cluster.password).get())
    return cluster.model_copy(update={"password": f"env:{variable}"})


def _load_block(reference: str) -> Any:
    from prefect.blocks.core import Block

    if reference.startswith(("block:aws-credentials/", "block:minio-credentials/")):
        import prefect_aws  # noqa: F401 - registers its block types

    try:
        return Block.load(reference.removeprefix("block:"))
    except ValueError as error:
        raise ConfigError(
            f'Prefect block "{reference.removeprefix("block:")}" cannot be loaded',
            f"{error}",
            "create it in the UI under Blocks, or correct the reference in pgproof.toml",
        ) from error
