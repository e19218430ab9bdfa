"""An event is something that happened while WAL was received: a kind, a sentence, and its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReceiveEvent:
    """One event.

    Args:
        kind: connected, slot, segment, part, timeline, hole, trouble, recovered, disconnected or stopped.
        text: one line for a person.
        values: for a program; LSNs and names as text.
    """

    kind: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def bad(self) -> bool:
        """Whether a person should look."""
        return self.kind in ("hole", "trouble", "disconnected")

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.kind, "text": self.text, **self.values}


Report = Callable[[ReceiveEvent], None]


def event(kind: str, text: str, **values: Any) -> ReceiveEvent:
    """An event; values as keywords."""
    return ReceiveEvent(kind, text, values)
