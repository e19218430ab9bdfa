"""A store keeps objects under keys; this is the contract that every store must pass.

The suite is tests/contracts/test_stores.py. *Must*: breaking it loses data.

- ``put`` returns only after the object is durable, and a reader never sees part of an object: it must be
  there whole or not at all, also after a crash or an exception from the chunks.
- ``put(create=True)`` must not replace an object: it raises ObjectExists, and then the object that is there
  is durable. When the answer to a write was lost, what this call itself has stored is no other object: its bytes, or
  its file, tell. (A store without conditional writes cannot promise it between two writers at the same moment;
  docs/repository-format.md names them.)
- ``list`` must show an object as soon as ``put`` has returned.
- "Not there" (ObjectMissing) must never be said for "could not look" (StoreUnavailable).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pgproof.errors import UsageError

CHUNK = 1 << 20


@dataclass(frozen=True, order=True, slots=True)
class ObjectInfo:
    """One object of a listing: its key, its size in bytes, and when it was stored (epoch seconds; 0 unknown)."""

    key: str
    size: int
    modified: float = field(default=0.0, compare=False)


class Store(Protocol):
    """Where objects are kept. Keys are relative, with ``/`` between parts."""

    url: str

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        """Store an object durably.

        Args:
            key: where.
            data: all of it, or its chunks; what the chunks raise is raised again and nothing is stored.
            create: refuse to replace an object.

        Raises:
            ObjectExists: ``create`` and the key is taken, by something else than what this call has stored.
            NoRoom, RepositoryReadOnly: nothing was stored.
            StoreUnavailable: nothing was stored, or the store did not say whether it was.
        """

    def get(self, key: str) -> Iterator[bytes]:
        """The object's bytes in chunks; ObjectMissing is raised before the first."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object below a prefix that ends at a ``/``, in no promised order."""

    def head(self, key: str) -> ObjectInfo:
        """Key and size; raises ObjectMissing."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""


def check_key(key: str) -> str:
    """A key, when every store can hold it and it cannot lead out of the repository.

    Raises:
        UsageError: a part is empty, ``.`` or ``..``, or holds a backslash or a control character.
    """
    for part in key.split("/"):
        if part in ("", ".", "..") or "\\" in part or not part.isprintable():
            raise UsageError(
                f"object key {key!r} cannot be used",
                "Its parts between slashes are not empty, not . or .., and have no backslash "
                "and no control character.",
            )
    return key


class Source:
    """The chunks of a ``put``, which remember what they raised: that is no error of the store.

    Args:
        data: all of it, or its chunks.
    """

    def __init__(self, data: bytes | Iterable[bytes]) -> None:
        self._chunks = [data] if isinstance(data, bytes) else data
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except GeneratorExit:  # the store gave up, and says why
            raise
        except BaseException as error:
            self.failure = error
            raise


def within(store: Store, seconds: float) -> Store:
    """A store that tries a request again for no longer than this."""
    limited = getattr(store, "within", None)
    return store if limited is None else limited(seconds)


def read(store: Store, key: str) -> bytes:
    """A whole small object."""
    return b"".join(store.get(key))
