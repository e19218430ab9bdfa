"""A pace is how long a server took to begin to replay, and from there to its target, as its log tells."""

from __future__ import annotations

import time
from pathlib import Path


class Pace:
    """When a server began to replay (``PerformWalRecovery`` says so), seen while it is waited for."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.said = length_of(log)  # by the server of the cut before
        self._launched = time.monotonic()
        self._begun: float | None = None

    def look(self) -> bool:
        """Look whether replay has begun; always false, so that whoever waits goes on."""
        if self._begun is None and "redo starts at" in tail_of(self._log, self.said):
            self._begun = time.monotonic()
        return False

    def add_to(self, phases: dict[str, float] | None) -> None:
        """Add the seconds of both phases; all of it is ``start`` where there was nothing to replay."""
        if phases is None:
            return
        now = time.monotonic()
        begun = now if self._begun is None else self._begun
        for name, seconds in (("start", begun - self._launched), ("replay", now - begun)):
            phases[name] = round(phases.get(name, 0.0) + seconds, 3)


def length_of(log: Path) -> int:
    """Bytes that a server's log has; 0 while there is none."""
    return log.stat().st_size if log.exists() else 0


def tail_of(log: Path, since: int) -> str:
    """What a server's log says from a byte on."""
    with open(log, "rb") as file:
        file.seek(since)
        return file.read().decode(errors="replace")
