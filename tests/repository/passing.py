"""A store that passes on every call to a real one, of which a test changes what it is about: a seam of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgproof.repository.store import ObjectInfo, Store


class Passing:
    """The real store under another hand.

    Args:
        inner: the real one.
    """

    def __init__(self, inner: Store) -> None:
        self.inner, self.url = inner, inner.url

    def reach(self) -> Store:
        """The real store, asked for by every call."""
        return self.inner

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        self.reach().put(key, data, create=create)

    def get(self, key: str) -> Iterator[bytes]:
        return self.reach().get(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.reach().list(prefix)

    def head(self, key: str) -> ObjectInfo:
        return self.reach().head(key)

    def delete(self, key: str) -> None:
        self.reach().delete(key)
