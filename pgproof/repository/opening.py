"""The store that a repository's URL names, with its credentials, its pace and its patience."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pgproof.config import RepositoryConfig
from pgproof.errors import ConfigError
from pgproof.repository.credentials import Credentials, store_settings
from pgproof.repository.objects import ObjectStore, retry_settings
from pgproof.repository.pace import Pace
from pgproof.repository.patience import Patience, Say, silent
from pgproof.repository.posix import PosixStore
from pgproof.repository.store import Store


def impatient(config: RepositoryConfig) -> RepositoryConfig:
    """A repository whose store is given a second: for who asks again by himself, or wants to know how it is now."""
    return config.model_copy(update={"patience": 0})


def open_store(config: RepositoryConfig, credentials: Credentials | None = None, say: Say = silent) -> Store:
    """The store that a repository's URL names; nothing is read or written yet.

    Args:
        config: of the repository.
        credentials: from a prefect-aws block; otherwise those of the configuration, of the environment, of a
            profile, of the container or the machine.
        say: told that the store does not answer well, and until when it is tried.

    Raises:
        ConfigError: the URL cannot be read, or the credentials cannot be used.
    """
    parts = _split(config.url)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        if parts.netloc or not path.is_absolute():
            raise ConfigError(
                f'repository URL "{config.url}" is not absolute',
                hint="file:///var/lib/pgproof has three slashes",
            )
        return PosixStore(path)
    if parts.scheme == "memory":
        return _memory_store(config.url)
    if parts.scheme == "s3" and parts.netloc:
        return _object_store(
            config, _s3(config, parts.netloc, unquote(parts.path).strip("/"), credentials), say
        )
    if parts.scheme in ("gs", "az", "azure") and parts.netloc:
        return _object_store(config, functools.partial(_from_url, config.url), say)
    raise ConfigError(
        f'repository URL "{config.url}" cannot be used',
        "pgproof knows file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix and memory://.",
    )


def _object_store(config: RepositoryConfig, connect: Callable[[dict[str, Any]], Any], say: Say) -> Store:
    """A store whose requests are tried again for as long as the configuration says.

    Args:
        config: of the repository.
        connect: makes a store of the obstore package with these time limits.
        say: as above.
    """
    from obstore.exceptions import BaseError

    pace = Pace(config.answer_timeout, config.least_rate)
    patience = Patience(config.patience, config.total_patience, config.command_timeout, say)
    try:
        inner = connect(pace.limits())
    except (BaseError, ValueError) as error:
        raise ConfigError(f'repository URL "{config.url}" cannot be used', _first_line(error)) from error
    return ObjectStore(inner, config.url, connect, patience, pace, config.retry_buffer)


def _from_url(url: str, limits: dict[str, Any]) -> Any:
    from obstore.store import from_url

    settings: Any = {"retry_config": retry_settings(), "client_options": limits}
    return from_url(url, **settings)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f'repository URL "{url}" cannot be used', f"{error}.") from error
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ConfigError(
            f'repository URL "{url}" cannot be used',
            "? and # in a path are written %3F and %23; nothing follows it.",
        )
    return parts


def _first_line(error: Exception) -> str:
    return f"{str(error).splitlines()[0].rstrip('.')}."


@functools.cache
def _memory_store(url: str) -> Store:
    """One memory store an URL, for as long as the process lives."""
    from obstore.store import MemoryStore

    return ObjectStore(MemoryStore(), url)


def _s3(
    config: RepositoryConfig, bucket: str, prefix: str, credentials: Credentials | None
) -> Callable[[dict[str, Any]], Any]:
    """What makes an S3 store with some time limits."""
    from obstore.store import S3Store

    settings = store_settings(config, credentials)
    if config.endpoint:
        settings["endpoint"] = _checked_endpoint(config)
    plain = bool(config.endpoint and config.endpoint.startswith("http://"))

    def connect(limits: dict[str, Any]) -> S3Store:
        client: Any = {**limits, "allow_http": plain}
        retries: Any = retry_settings()
        return S3Store(bucket, prefix=prefix or None, client_options=client, retry_config=retries, **settings)

    return connect


def _checked_endpoint(config: RepositoryConfig) -> str:
    """The endpoint of an S3 store; one without a scheme would end the process in obstore."""
    parts = _split(config.endpoint or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f'endpoint "{config.endpoint}" of repository "{config.url}" is not a URL',
            hint=f"https://{(config.endpoint or '').lstrip(':/') or 's3.example.com'}",
        )
    return config.endpoint or ""
