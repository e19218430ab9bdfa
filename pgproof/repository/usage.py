"""Usage is how full a repository is: of a directory the share of its file system, of any store the bytes in it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pgproof.config import RepositoryConfig
from pgproof.errors import StoreUnavailable
from pgproof.repository.posix import PosixStore
from pgproof.repository.store import Store


@dataclass(frozen=True, slots=True)
class Usage:
    """What is used, and what may be.

    Args:
        url: of the repository.
        free, total: bytes of the file system; None where there is none.
        used_limit: per cent of it that may be used; 0 is no limit.
        stored: bytes in the whole repository; None when nobody counted.
        size_limit: bytes that may be in it; 0 is no limit.
    """

    url: str
    free: int | None = None
    total: int | None = None
    used_limit: float = 0.0
    stored: int | None = None
    size_limit: int = 0

    @property
    def used_percent(self) -> float | None:
        """Of the file system, as ``df`` counts it: what is kept for root is not there for us."""
        if self.free is None or not self.total:
            return None
        return 100.0 * (self.total - self.free) / self.total

    @property
    def fills_up(self) -> bool:
        """More of the file system is used than may be."""
        return 0 < self.used_limit < (self.used_percent or 0.0)

    @property
    def too_large(self) -> bool:
        """More is stored than may be."""
        return 0 < self.size_limit < (self.stored or 0)

    @property
    def above(self) -> bool:
        return self.fills_up or self.too_large

    @property
    def known(self) -> bool:
        """Whether there is a limit, and something was measured to hold against it."""
        return (self.used_limit > 0 and self.used_percent is not None) or (
            self.size_limit > 0 and self.stored is not None
        )


def measure_usage(config: RepositoryConfig, store: Store) -> Usage:
    """Measure what there is a limit for; what is stored is counted only then, because that lists every object.

    Args:
        config: of the repository, with its limits.
        store: that it is in.

    Raises:
        StoreUnavailable: it could not be looked at.
    """
    free, total = _file_system(store) if config.used_limit else (None, None)
    stored = sum(info.size for info in store.list()) if config.size_limit else None
    return Usage(store.url, free, total, config.used_limit, stored, config.size_limit)


def _file_system(store: Store) -> tuple[int | None, int | None]:
    """Bytes free and in all, for an account that is not root (``f_bavail`` of statvfs)."""
    if not isinstance(store, PosixStore):
        return None, None
    try:
        state = os.statvfs(store.root)
    except OSError as error:
        raise StoreUnavailable(
            f'could not look at the file system of "{store.url}"', f"{error.strerror}."
        ) from error
    kept = state.f_bfree - state.f_bavail  # for root
    return state.f_bavail * state.f_frsize, (state.f_blocks - kept) * state.f_frsize
