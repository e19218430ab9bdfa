"""Pace: how slow an object store may be before a request ends, and is tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pgproof.errors import StoreUnavailable

PART = 16 << 20  # of an upload; times S3's 10,000 parts: objects up to 156 GB
STEPS = (0, 64 << 10, 1 << 20, PART, 256 << 20, 4 << 30)  # bytes that a request sends, for its time limit
_PAGE = 1 << 20  # bytes of a listing's page, or less


@dataclass(frozen=True)
class Pace:
    """How slow a store may be.

    Args:
        silence: seconds without a byte after which a request ends.
        least: bytes a second, of a request on average, below which it ends.
    """

    silence: float = 30.0
    least: int = 16 << 10

    def limits(self, step: int | None = None) -> dict[str, Any]:
        """Time limits of a request, as obstore takes them.

        A read may take as long as bytes come fast enough, which ``watch`` sees, for an object has no largest size. A
        write gives no sign of life while it sends: it ends after the time that its bytes may take.

        Args:
            step: the most bytes that the request sends; None reads objects.
        """
        silence = timedelta(seconds=self.silence)
        limits: dict[str, Any] = {"connect_timeout": min(silence, timedelta(seconds=5))}
        if step is None:
            return limits | {"timeout": timedelta(days=30), "read_timeout": silence}
        if step == 0:
            limits, step = limits | {"read_timeout": silence}, _PAGE
        return limits | {"timeout": silence + timedelta(seconds=step / self.least if self.least else 3600)}

    def watch(self, fact: str) -> Watch:
        """A watch over one read; the fact is of the error when it is too slow."""
        return Watch(self, fact)


class Watch:
    """How fast the bytes of one object come; time that its reader spends does not count.

    Args:
        pace: the least.
        fact: of the error when they come too slowly.
    """

    def __init__(self, pace: Pace, fact: str) -> None:
        self._pace, self._fact = pace, fact
        self._waited, self._bytes = 0.0, 0

    def next(self, stream: Iterator[Any]) -> Any:
        """The next piece; None at the end.

        Raises:
            StoreUnavailable: too few bytes came in the last seconds.
        """
        began = time.monotonic()
        piece = next(stream, None)
        self._waited += time.monotonic() - began
        self._bytes += len(piece or b"")
        if piece is not None and self._waited >= self._pace.silence:
            if self._bytes < self._pace.least * self._waited:
                raise StoreUnavailable(
                    self._fact,
                    f"It came with {self._bytes / self._waited:.0f} bytes a second, "
                    f"in {self._waited:.0f} s; the least is {self._pace.least}.",
                    "least_rate of the repository sets it",
                )
            self._waited, self._bytes = 0.0, 0
        return piece
