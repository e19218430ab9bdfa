"""Blocks: a cluster and its repository kept in Prefect, filled in in its UI, instead of in a pgproof.toml.

A flow takes ``block:pgproof-cluster/NAME`` where it takes the path of a pgproof.toml; NAME is the cluster's name. The
sections are those of pgproof.toml, read by the same classes, so that nothing can be said in the one alone. Secrets
are values here, which the server encrypts and shows as asterisks; they reach the engine by this process's environment.

Import it where a block is used, not on top: it brings prefect-aws and boto3.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field, SecretStr, field_validator

from pgproof.config import (
    BackupConfig,
    BarmanConfig,
    Config,
    DirectoryConfig,
    DrillConfig,
    ExpectationConfig,
    PgBackRestConfig,
    RetentionConfig,
    SqlCheckConfig,
    TargetsConfig,
    WalConfig,
    parse,
)
from pgproof.errors import ConfigError
from pgproof.schedule import SchedulesConfig

PREFIX = "block:"


class PgproofRepository(Block):
    """Where backups and WAL are stored."""

    _block_type_name = "Pgproof Repository"
    _block_type_slug = "pgproof-repository"
    _description = "Where pgproof stores backups and WAL: [repositories.NAME] of pgproof.toml."

    url: str = Field(
        title="URL",
        description="file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
    )
    endpoint: str | None = Field(
        None, title="Endpoint", description="Of an S3 store that is not AWS; else that of the credentials"
    )
    region: str | None = Field(
        None, title="Region", description="Of an S3 store; else that of the credentials"
    )
    # Two fields: a server of Prefect 3.8 cannot read a schema again in which two blocks share a field, and which two
    # fields of another block refer to ("list indices must be integers or slices" in models/block_schemas.py).
    credentials: AwsCredentials | None = Field(
        None,
        title="AWS Credentials",
        description="The access key; else environment, AWS profile or role of the worker",
    )
    minio_credentials: MinIOCredentials | None = Field(
        None, title="MinIO Credentials", description="The access key, instead of AWS credentials"
    )
    compression_level: int = Field(3, ge=1, le=19, title="Compression Level", description="Of zstd")
    used_limit: float = Field(
        85.0, ge=0, le=100, title="Used Limit", description="Per cent of a directory's file system; 0 none"
    )
    size_limit: int | str = Field(
        0, title="Size Limit", description="Stored in the whole repository, such as 500GB; 0 is no limit"
    )
    age_recipients: list[str] = Field(
        default_factory=list, title="Age Recipients", description="X25519 recipients; encrypt when given"
    )
    age_identity: SecretStr | None = Field(
        None, title="Age Identity", description="Needed to read what is encrypted"
    )

    @field_validator("credentials", mode="before")
    @classmethod
    def _told_apart(cls, value: Any) -> Any:
        """A document of MinIO credentials would pass for AWS credentials, all of whose fields are optional."""
        if isinstance(value, dict) and "minio_root_user" in value:
            raise ValueError("MinIO credentials belong into the field MinIO Credentials")
        return value

    def section(self, name: str) -> dict[str, Any]:
        """The repository as pgproof.toml has it.

        Args:
            name: of the repository; its secrets get names of their own from it.

        Raises:
            ConfigError: there are two access keys.
        """
        if self.credentials is not None and self.minio_credentials is not None:
            raise ConfigError(
                "a Pgproof Repository block names two access keys",
                "It has AWS Credentials and MinIO Credentials.",
                "clear one of the two fields in the UI, under Blocks",
            )
        key = self.credentials or self.minio_credentials
        tree: dict[str, Any] = {
            "url": self.url,
            "compression_level": self.compression_level,
            "age_recipients": self.age_recipients,
            "used_limit": self.used_limit,
            "size_limit": self.size_limit,
            "endpoint": self.endpoint or _endpoint(key),
            "region": self.region or getattr(key, "region_name", None),
        }
        if key is not None:
            slug, document = key.get_block_type_slug(), key._block_document_name
            tree["credentials"] = f"{PREFIX}{slug}/{document}"
        if self.age_identity is not None:
            tree["age_identity"] = by_environment(f"{name}_age_identity", self.age_identity)
        return tree


class PgproofCluster(Block):
    """One PostgreSQL cluster to protect; the block's name is the cluster's."""

    _block_type_name = "Pgproof Cluster"
    _block_type_slug = "pgproof-cluster"
    _description = "A PostgreSQL cluster that pgproof protects: [clusters.NAME] of pgproof.toml."

    dsn: str = Field(title="DSN", description="How to connect to the source, without a password")
    password: SecretStr | None = Field(None, title="Password", description="Of the role; else ~/.pgpass")
    repository: PgproofRepository = Field(title="Repository", description="Where backups and WAL are stored")
    copies: list[PgproofRepository] = Field(
        default_factory=list, title="Copies", description="Other repositories that get every WAL file, too"
    )
    standbys: list[str] = Field(
        default_factory=list, title="Standbys", description="DSNs of servers asked for missing WAL"
    )
    system_identifier: str | None = Field(
        None,
        title="System Identifier",
        pattern="^[0-9]+$",  # text: over 2^53 a browser would lose digits
        description="Of the cluster; everything of another one is refused",
    )
    bin_directory: str | None = Field(
        None, title="Bin Directory", description="Of the server programs on the worker; else the usual places"
    )
    state_directory: str | None = Field(
        None, title="State Directory", description="Data Docs of drills; default: ~/.local/state/pgproof"
    )
    suite: str | None = Field(
        None, title="Suite", description="Great Expectations suite: an absolute path on the worker"
    )
    backup: BackupConfig = Field(BackupConfig(), title="Backup")
    wal: WalConfig = Field(WalConfig(), title="WAL")
    retention: RetentionConfig = Field(RetentionConfig(), title="Retention")
    targets: TargetsConfig = Field(TargetsConfig(), title="Targets")
    drill: DrillConfig = Field(DrillConfig(), title="Drill")
    schedules: SchedulesConfig = Field(SchedulesConfig(), title="Schedules")
    pgbackrest: PgBackRestConfig | None = Field(None, title="pgBackRest")
    barman: BarmanConfig | None = Field(None, title="Barman")
    directory: DirectoryConfig | None = Field(None, title="Directory")
    expectations: list[ExpectationConfig] = Field(default_factory=list, title="Expectations")
    checks: list[SqlCheckConfig] = Field(default_factory=list, title="Checks")

    def config(self, name: str) -> Config:
        """The configuration that a pgproof.toml with the same values would give.

        Args:
            name: of the cluster.

        Raises:
            ConfigError: a value is wrong.
        """
        blocks = {"main": self.repository, **{f"copy-{n}": one for n, one in enumerate(self.copies, 1)}}
        repositories = {key: _given(one.section(f"{name}_{key}")) for key, one in blocks.items()}
        own = {"password", "repository", "copies", "state_directory", "system_identifier"}
        cluster = {
            key: getattr(self, key) for key in type(self).model_fields if key not in own and key[0] != "_"
        }
        cluster["copies"] = [key for key in blocks if key != "main"]
        if self.password is not None:
            cluster["password"] = by_environment(f"{name}_password", self.password)
        if self.system_identifier is not None:
            cluster["system_identifier"] = int(self.system_identifier)
        tree: dict[str, Any] = {"repositories": repositories, "clusters": {name: _given(cluster)}}
        if self.state_directory is not None:
            tree["state_directory"] = self.state_directory
        return parse(tree, Path(f"{PREFIX}{self.get_block_type_slug()}/{name}"))


def register() -> list[str]:
    """Make both types known to the server, so that the UI offers them; their names. Run it as often as wanted."""
    kinds = (PgproofRepository, PgproofCluster)
    for kind in kinds:
        kind.register_type_and_schema()
    return [kind.get_block_type_slug() for kind in kinds]


def by_environment(name: str, secret: SecretStr) -> str:
    """Put a secret where the engine finds it, in this process only; the reference to it.

    The engine gives no variable that starts with PG to the programs that it runs.
    """
    variable = "PGPROOF_BLOCK_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    os.environ[variable] = secret.get_secret_value()
    return f"env:{variable}"


def _endpoint(credentials: AwsCredentials | MinIOCredentials | None) -> str | None:
    endpoint: str | None = getattr(getattr(credentials, "aws_client_parameters", None), "endpoint_url", None)
    return endpoint


def _given(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if value is not None}
