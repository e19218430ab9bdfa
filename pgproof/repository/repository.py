"""A repository: a store with a format, opened for one cluster as an archive of one system identifier."""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pgproof.config import ClusterConfig, RepositoryConfig
from pgproof.errors import (
    ConfigError,
    NoBackup,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    PgproofError,
    RepositoryFormat,
    RepositoryMissing,
    WrongSystem,
)
from pgproof.repository.codec import Codec, Measured, bounded
from pgproof.repository.credentials import Credentials, store_settings
from pgproof.repository.layout import FORMAT_VERSION, ROOT_KEY, Layout
from pgproof.repository.objects import ObjectStore, retry_settings
from pgproof.repository.pace import Pace
from pgproof.repository.patience import Patience, Say, silent
from pgproof.repository.posix import PosixStore
from pgproof.repository.seal import MEND, sealed, unsealed
from pgproof.repository.store import Store, read
from pgproof.secret import resolve_secret


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


def _codec(config: RepositoryConfig) -> Codec:
    reference = config.age_identity
    identity = None if reference is None else lambda: resolve_secret(reference).get_secret_value()
    return Codec(config.compression_level, config.age_recipients, identity)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a backup record names it: key, stored size in bytes, SHA-256 of the stored bytes."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Repository:
    """An opened repository.

    Args:
        store: where the objects are.
        codec: how they are written.
        identifier: the repository's own id, written when it was made.
    """

    store: Store
    codec: Codec
    identifier: str

    def archive(self, cluster: str, system_identifier: int) -> Archive:
        """The part that belongs to one system identifier of one cluster."""
        return Archive(self, Layout(cluster, system_identifier))

    def system_identifiers(self, cluster: str) -> list[int]:
        """Every system identifier that has objects under a cluster's name."""
        children = getattr(self.store, "children", None)  # a listing would go through all WAL
        if children is not None:
            found = set(children(f"{cluster}/"))
        else:
            found = {info.key.split("/")[1] for info in self.store.list(f"{cluster}/")}
        return sorted(int(text) for text in found if text.isdigit())


def create_repository(config: RepositoryConfig, credentials: Credentials | None = None) -> Repository:
    """Make a repository where there is none, or open the one that is there.

    Raises:
        RepositoryFormat: what is there has a newer format.
    """
    config = impatient(config)  # somebody waits for the answer
    with contextlib.suppress(RepositoryMissing):  # looked first: not every store knows a conditional write
        return open_repository(config, credentials)
    store = open_store(config, credentials)
    content = {"format": FORMAT_VERSION, "repository": str(uuid.uuid4())}
    try:
        store.put(ROOT_KEY, sealed(content), create=True)
    except ObjectExists:
        pass
    return open_repository(config, credentials)


def open_repository(
    config: RepositoryConfig, credentials: Credentials | None = None, say: Say = silent
) -> Repository:
    """Open a repository.

    Args:
        config, credentials, say: as of ``open_store``.

    Raises:
        RepositoryMissing: there is none at the URL; it is never made by mistake, so that an unmounted
            disk is not taken for an empty repository.
        RepositoryFormat: it was written by a newer pgproof, or is no repository.
    """
    store = open_store(config, credentials, say)
    try:
        content = unsealed(read(store, ROOT_KEY))
        version, identifier = int(content["format"]), str(content["repository"])
    except ObjectMissing as error:
        raise RepositoryMissing(
            f'there is no repository at "{config.url}"',
            f'"{ROOT_KEY}" is missing there. Is its file system mounted, its bucket the right one?',
            "pgproof init makes a new repository",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryFormat(
            f'"{ROOT_KEY}" in the repository "{config.url}" cannot be read',
            f"{error!r}.",
            f'where it is only damaged, put {{"format": {FORMAT_VERSION}, "repository": "any new UUID"}} in its place',
        ) from error
    if version > FORMAT_VERSION:
        raise RepositoryFormat(
            f'repository "{config.url}" has format {version}',
            f"This pgproof knows formats up to {FORMAT_VERSION}.",
            "pip install --upgrade pgproof",
        )
    return Repository(store, _codec(config), identifier)


@dataclass(frozen=True)
class Archive:
    """A repository as seen by one cluster: its backups, its WAL, its proofs.

    Args:
        repository: the whole.
        layout: the keys of this cluster and system identifier.
    """

    repository: Repository
    layout: Layout

    @property
    def store(self) -> Store:
        return self.repository.store

    @property
    def system_identifier(self) -> int:
        return self.layout.system_identifier

    def write(self, key: str, chunks: Iterable[bytes], *, create: bool = False) -> StoredObject:
        """Store content through the codec.

        Args:
            key: without the codec's suffix.
            chunks: the content.
            create: refuse to replace.
        """
        stored = Measured(self.repository.codec.encode(chunks))
        full_key = key + self.repository.codec.suffix
        self.store.put(full_key, stored, create=create)
        return StoredObject(full_key, stored.size, stored.sha256)

    def open(self, key: str) -> Iterator[bytes]:
        """The content of a stored object; the key has its suffix."""
        return self.repository.codec.decode(key, self.store.get(key))

    def read_whole(self, key: str, limit: int) -> bytes:
        """The content of a stored object at once.

        Args:
            key: with its suffix.
            limit: bytes that an object of its kind has at most.

        Raises:
            ObjectDamaged: it cannot be read, or there is more.
        """
        return b"".join(bounded(key, self.open(key), limit))

    def open_checked(self, stored: StoredObject) -> Iterator[bytes]:
        """The content of an object that a record names, with its size and SHA-256 checked at the end.

        Raises:
            ObjectDamaged: the stored bytes are not those that the record names.
        """
        measured = Measured(self.store.get(stored.key))
        damage: PgproofError | None = None
        try:
            yield from self.repository.codec.decode(stored.key, measured)
        except (ObjectDamaged, ConfigError) as error:
            if isinstance(error, ConfigError) and not measured.size:  # no identity to try with
                raise
            damage = error
            for _ in measured:  # read on, to name the difference below
                pass
        check_bytes(stored, measured)
        if damage is not None:
            raise damage

    def record_names(self, prefix: str) -> list[str]:
        """The names of the JSON records directly below a prefix, without ``.json``, in order."""
        names = [info.key.removeprefix(prefix) for info in self.store.list(prefix)]
        return sorted(n.removesuffix(".json") for n in names if n.endswith(".json") and "/" not in n)

    def ask_to_write(self) -> None:
        """Write an object and remove it, before work that ends with one.

        Raises:
            RepositoryReadOnly, NoRoom, StoreUnavailable: nothing can be stored now.
        """
        key = f"{self.layout.root}/probe-{uuid.uuid4().hex[:8]}"
        self.store.put(key, b"probe", create=True)
        with contextlib.suppress(PgproofError):  # who may not remove anything may drill all the same
            self.store.delete(key)

    def write_json(self, key: str, content: Any, *, create: bool = True) -> None:
        """Store a record as plain JSON, readable without any program of ours, with its seal."""
        self.store.put(key, sealed(content), create=create)

    def read_json(self, key: str) -> Any:
        """A record.

        Raises:
            ObjectMissing: it is not there.
            ObjectDamaged: it is not JSON, or not what was sealed.
        """
        try:
            return unsealed(read(self.store, key))
        except ValueError as error:
            raise ObjectDamaged(f'record "{key}" is damaged', f"{error}.", MEND) from error


def check_bytes(stored: StoredObject, measured: Measured) -> None:
    """Compare what was read with what the record names.

    Raises:
        ObjectDamaged: with both values.
    """
    if (measured.size, measured.sha256) != (stored.size, stored.sha256):
        raise ObjectDamaged(
            f'object "{stored.key}" is damaged',
            f"It has {measured.size} bytes with SHA-256 {measured.sha256}; "
            f"the record says {stored.size} bytes with {stored.sha256}.",
            "this backup cannot be restored whole; choose another with pgproof list",
        )


def check_system(expected: int | None, found: int, what: str) -> None:
    """Refuse what belongs to another cluster (invariant 6).

    Args:
        expected: the configured system identifier, or None when none is configured.
        found: the one that was met.
        what: what was met, such as ``server "shop"``.

    Raises:
        WrongSystem: they differ.
    """
    if expected is not None and expected != found:
        raise WrongSystem(
            f"{what} belongs to another cluster",
            f"Its system identifier is {found}; configured is {expected}.",
            "after pg_upgrade or initdb, set system_identifier to the new one in pgproof.toml; "
            "the old backups stay beside the new",
        )


def find_archive(repository: Repository, cluster: ClusterConfig) -> Archive:
    """The archive of a cluster, found without asking its server, which may be lost.

    Raises:
        NoBackup: the repository has nothing of this cluster.
        WrongSystem: it holds several system identifiers and none is configured.
    """
    if cluster.system_identifier is not None:
        return repository.archive(cluster.name, cluster.system_identifier)
    found = repository.system_identifiers(cluster.name)
    if not found:
        raise NoBackup(
            f'repository "{repository.store.url}" has nothing of cluster "{cluster.name}"',
            hint=f"pgproof backup {cluster.name}",
        )
    if len(found) > 1:
        raise WrongSystem(
            f'cluster "{cluster.name}" has {len(found)} system identifiers in the repository',
            f"They are {', '.join(str(system) for system in found)}.",
            "set system_identifier in the cluster's section to the one that is meant",
        )
    return repository.archive(cluster.name, found[0])
