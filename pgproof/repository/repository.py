"""A repository: a store with a format, opened for one cluster as an archive of one system identifier."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

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
from pgproof.repository.credentials import Credentials
from pgproof.repository.layout import FORMAT_VERSION, ROOT_KEY, Layout
from pgproof.repository.opening import impatient, open_store
from pgproof.repository.patience import Say, silent
from pgproof.repository.seal import MEND, sealed, unsealed
from pgproof.repository.store import Store, read
from pgproof.secret import resolve_secret


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
