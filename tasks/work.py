"""Work: the configuration, cluster and repository of one task, opened where the task runs.

Task parameters are names and plain values; the server stores and shows them. Secrets are read here, from the
environment, from files or from Prefect blocks.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from pydantic import ValidationError

from pgproof.config import ClusterConfig, Config, RepositoryConfig, load
from pgproof.errors import ConfigError
from pgproof.faults import told
from pgproof.repository.credentials import Credentials
from pgproof.repository.repository import Archive, Repository, find_archive, open_repository

_BLOCK = "block:"
_PASSWORD = ("password",)
_REPOSITORY = ("access_key_id", "secret_access_key", "age_identity")
_Model = TypeVar("_Model", ClusterConfig, RepositoryConfig)


@dataclass(frozen=True)
class Work:
    """What a task works on; ``blocks`` are the Prefect blocks that its repository needs."""

    config: Config
    cluster: ClusterConfig
    repository: Repository
    blocks: tuple[str, ...] = ()

    @property
    def archive(self) -> Archive:
        return find_archive(self.repository, self.cluster)

    @property
    def copies(self) -> dict[str, Callable[[], Repository]]:
        """How to open each other repository that gets the cluster's WAL."""
        configs = self.config.copies_of(self.cluster)
        return {name: functools.partial(open_with_blocks, config) for name, config in configs.items()}


def open_work(cluster: str, config: str | None = None) -> Work:
    """Read the configuration, and open the cluster's repository.

    Args:
        cluster: its name.
        config: path of pgproof.toml, or ``block:pgproof-cluster/NAME``; default PGPROOF_CONFIG, else the
            working directory's.

    Raises:
        ConfigError: a value is wrong, or there is no such block.
    """
    loaded = read_config(config)
    chosen = with_password(loaded.cluster(cluster))
    settings = loaded.repository_of(chosen)
    blocks = tuple(_blocks(settings, ("credentials", *_REPOSITORY)).values())
    return Work(loaded, chosen, open_with_blocks(settings), blocks)


def read_config(config: str | None = None) -> Config:
    """The configuration, of a pgproof.toml or of a block.

    Raises:
        ConfigError: a value is wrong, or there is no such block.
    """
    if not is_block(config):
        return load(config)
    from tasks.blocks import PgproofCluster

    reference = config or ""
    block: PgproofCluster = _load_block_of(PgproofCluster, reference, "cluster")
    return block.config(reference.rpartition("/")[2])


def is_block(config: str | None) -> bool:
    """Whether a flow was given a block instead of the path of a pgproof.toml."""
    return config is not None and config.startswith(_BLOCK)


def with_password(cluster: ClusterConfig) -> ClusterConfig:
    """A cluster whose password may be kept in a Prefect block, as one that the engine can connect to."""
    return _with_secrets(cluster, _PASSWORD)


def open_with_blocks(settings: RepositoryConfig) -> Repository:
    """Open a repository whose secrets may be kept in Prefect blocks."""
    settings = _with_secrets(settings, _REPOSITORY)
    credentials = None
    if settings.credentials is not None and settings.credentials.startswith(_BLOCK):
        credentials = read_credentials(settings.credentials)
    return open_repository(settings, credentials, _logging())


def _logging() -> Callable[[str], None]:
    """Tells the run's log what the store answers; the logger is made here, because other threads have no run."""
    try:
        return get_run_logger().warning
    except MissingContextError:
        return logging.getLogger(__name__).warning


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
    key, secret = getattr(block, "aws_access_key_id", None), getattr(block, "aws_secret_access_key", None)
    if not key or secret is None:
        raise ConfigError(
            f'Prefect block "{reference.removeprefix(_BLOCK)}" holds no access key',
            "pgproof takes the key of an AWS Credentials or MinIO Credentials block.",
            "leave credentials out to use the environment, an AWS profile or the machine's role",
        )
    return Credentials(key, secret.get_secret_value(), block.aws_session_token)


def read_secret(reference: str) -> str:
    """The value of a Secret block: ``block:secret/NAME``.

    Raises:
        ConfigError: the block does not exist, or is of another type.
    """
    from prefect.blocks.system import Secret

    return str(_load_block_of(Secret, reference, "Secret block").get())


def _blocks(model: ClusterConfig | RepositoryConfig, fields: tuple[str, ...]) -> dict[str, str]:
    values = {field: getattr(model, field) for field in fields}
    return {field: value for field, value in values.items() if value and value.startswith(_BLOCK)}


def _with_secrets(model: _Model, fields: tuple[str, ...]) -> _Model:
    """Secrets kept in Prefect blocks become ones that the engine can read, in this process only.

    The engine gives no variable that starts with PG to the programs that it runs.
    """
    changed = {}
    for field, reference in _blocks(model, fields).items():
        variable = "PGPROOF_" + re.sub(r"[^A-Z0-9]", "_", reference.upper())
        os.environ[variable] = read_secret(reference)
        changed[field] = f"env:{variable}"
    return model.model_copy(update=changed)


def _load_block_of(kind: Any, reference: str, what: str) -> Any:
    """A block that must be of one type.

    Raises:
        ConfigError: it does not exist, or is of another type.
    """
    block = _load_block(reference)
    if not isinstance(block, kind):
        raise ConfigError(
            f'Prefect block "{reference.removeprefix(_BLOCK)}" is no {what}',
            f"It is a {block.get_block_type_slug()} block.",
            f'name one as "{_BLOCK}{kind.get_block_type_slug()}/NAME"',
        )
    return block


def _load_block(reference: str) -> Any:
    from prefect.blocks.core import Block

    name = reference.removeprefix(_BLOCK)
    if name.startswith(("aws-credentials/", "minio-credentials/")):
        import prefect_aws  # noqa: F401 - registers its block types
    if name.startswith(("pgproof-cluster/", "pgproof-repository/")):
        import tasks.blocks  # noqa: F401 - likewise

    fact, hint = (
        f'Prefect block "{name}" cannot be loaded',
        "create it in the UI under Blocks, or correct the name",
    )
    if name.count("/") != 1:
        raise ConfigError(fact, "It is not named by type and name.", '"block:aws-credentials/NAME"')
    try:
        return Block.load(name)
    except ValueError as error:
        raise ConfigError(fact, f"{error}", f"{hint} in pgproof.toml") from error
    except RuntimeError as error:  # what it is saved with does not fit its type
        if not isinstance(error.__cause__, ValidationError):
            raise
        raise ConfigError(
            fact, f"{told(error.__cause__, Block)}.", "correct it in the UI, under Blocks"
        ) from None
