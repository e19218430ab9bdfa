"""Blocks: a cluster and its repository kept in Prefect, filled in in its UI, instead of in a pgproof.toml.

A flow takes ``block:pgproof-cluster/NAME`` where it takes the path of a pgproof.toml; NAME is the cluster's name. The
form asks for what nobody can guess; all else is one field of TOML with the keys of pgproof.toml, read by the same
classes, so that nothing can be said in the one alone. The password is a value here, which the server encrypts and shows
as asterisks; it reaches the engine by this process's environment.

Import it where a block is used, not on top: it brings prefect-aws and boto3.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field, SecretStr, field_validator

from pgproof.config import ClusterConfig, Config, RepositoryConfig, parse
from pgproof.errors import ConfigError

PREFIX = "block:"


class _Sections(Block):
    """What both blocks have: a few fields, and one of TOML for all else, which each has last, as the form shows it."""

    if TYPE_CHECKING:
        settings: str

    @field_validator("settings", "system_identifier", "password", mode="before", check_fields=False)
    @classmethod
    def _not_said(cls, value: Any) -> Any:
        """Text that may be left out has no type of its own: the UI would ask for it by a switch."""
        return "" if value is None else value

    @field_validator("settings", mode="after", check_fields=False)
    @classmethod
    def _is_toml(cls, text: str) -> str:
        parsed(text)
        return text

    def _more(self, taken: Collection[str]) -> dict[str, Any]:
        """The keys of the field Settings.

        Args:
            taken: what the form has a field for.

        Raises:
            ConfigError: a key is said twice, or the block is of an earlier version, with a field for each key.
        """
        name = self._block_type_name
        known = {*ClusterConfig.model_fields, *RepositoryConfig.model_fields, "state_directory"}
        if old := sorted(known & set(self.model_extra or {})):
            raise ConfigError(
                f"a {name} block was made by an earlier version",
                f"It has fields of its own for: {', '.join(old)}.",
                "make the block again, with what you had changed in its field Settings",
            )
        more = parsed(self.settings)
        if twice := sorted(set(taken) & set(more)):
            raise ConfigError(
                f"the Settings of a {name} block have what has a field of its own",
                f"They name: {', '.join(twice)}.",
                "remove it from Settings, and fill in the field",
            )
        return more


class PgproofRepository(_Sections):
    """Where backups and WAL are stored."""

    _block_type_name = "Pgproof Repository"
    _block_type_slug = "pgproof-repository"
    _description = "Where pgproof stores backups and WAL: [repositories.NAME] of pgproof.toml."

    url: str = Field(
        title="URL",
        description="file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
    )
    # Two fields: a server of Prefect 3.8 cannot read a schema again in which two blocks share a field, and which two
    # fields of another block refer to ("list indices must be integers or slices" in models/block_schemas.py).
    credentials: AwsCredentials | None = Field(
        None,
        title="AWS Credentials",
        description="The access key; else that of the worker: environment, AWS profile or role",
    )
    minio_credentials: MinIOCredentials | None = Field(
        None, title="MinIO Credentials", description="The access key, instead of AWS credentials"
    )
    settings: str = Field(
        "",
        title="Settings",
        description="Anything else of [repositories.NAME], as pgproof.toml has it, a key in a line: "
        'region = "eu-central-1"',
    )

    @field_validator("credentials", "minio_credentials", mode="before")
    @classmethod
    def _left_empty(cls, value: Any) -> Any:
        """The UI saves a section that was left empty as ``{}``."""
        return None if isinstance(value, dict) and not any(value.values()) else value

    @field_validator("credentials", mode="before")
    @classmethod
    def _told_apart(cls, value: Any) -> Any:
        """A document of MinIO credentials would pass for AWS credentials, all of whose fields are optional."""
        if isinstance(value, dict) and "minio_root_user" in value:
            raise ValueError("MinIO credentials belong into the field MinIO Credentials")
        return value

    def section(self) -> dict[str, Any]:
        """The repository as pgproof.toml has it.

        Raises:
            ConfigError: there are two access keys, or Settings name what has a field.
        """
        if self.credentials is not None and self.minio_credentials is not None:
            raise ConfigError(
                "a Pgproof Repository block names two access keys",
                "It has AWS Credentials and MinIO Credentials.",
                "clear one of the two fields in the UI, under Blocks",
            )
        key = self.credentials or self.minio_credentials
        own: dict[str, Any] = {"url": self.url}
        if key is not None:
            own["credentials"] = f"{PREFIX}{key.get_block_type_slug()}/{key._block_document_name}"
        of_key = {"endpoint": _endpoint(key), "region": getattr(key, "region_name", None)}
        return {**_given(of_key), **self._more(own), **own}


class PgproofCluster(_Sections):
    """One PostgreSQL cluster to protect; the block's name is the cluster's."""

    _block_type_name = "Pgproof Cluster"
    _block_type_slug = "pgproof-cluster"
    _description = "A PostgreSQL cluster that pgproof protects: [clusters.NAME] of pgproof.toml."

    dsn: str = Field(title="DSN", description="How to connect to the source, without a password")
    password: SecretStr = Field(SecretStr(""), title="Password", description="Of the role; else ~/.pgpass")
    repository: PgproofRepository = Field(title="Repository", description="Where backups and WAL are stored")
    system_identifier: str = Field(
        "",
        title="System Identifier",
        pattern="^[0-9]*$",  # text: over 2^53 a browser would lose digits
        description="Of the cluster; everything of another one is refused",
    )
    settings: str = Field(
        "",
        title="Settings",
        description="Anything else of [clusters.NAME], as pgproof.toml has it, a key in a line: "
        "retention.daily = 14; also state_directory, and [repositories.NAME] for copies",
    )

    def config(self, name: str) -> Config:
        """The configuration that a pgproof.toml with the same values would give.

        Args:
            name: of the cluster; its secrets get names of their own from it.

        Raises:
            ConfigError: a value is wrong.
        """
        own: dict[str, Any] = {"dsn": self.dsn, "repository": "main"}
        if self.password.get_secret_value():
            own["password"] = by_environment(f"{name}_password", self.password)
        if self.system_identifier:
            own["system_identifier"] = int(self.system_identifier)
        more = self._more({*own, "password", "system_identifier", "name"})
        outside: dict[str, Any] = {
            key: more.pop(key) for key in ("state_directory", "repositories") if key in more
        }
        copies = outside.pop("repositories", {})
        if "main" in copies:
            raise ConfigError(
                "the Settings of a Pgproof Cluster block name [repositories.main]",
                "That is the repository of the block.",
                "put it into the Settings of the Pgproof Repository block",
            )
        tree: dict[str, Any] = {
            **outside,
            "repositories": {"main": self.repository.section(), **copies},
            "clusters": {name: {**more, **own}},
        }
        return parse(tree, Path(f"{PREFIX}{self.get_block_type_slug()}/{name}"))


def parsed(text: str) -> dict[str, Any]:
    """The keys of a field of TOML.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the field Settings is not valid TOML", f"{error}.") from error


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
