"""The order of a run: whole files, those that take longest first, and what shares an expensive server together.

``make profile`` measures the seconds again; a file that it does not know yet comes first.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SECONDS = Path(__file__).with_name("seconds.json")  # file to the seconds that it took
_UNKNOWN = 1e6
_FIXTURE = "prefect"
# Their tests share one server of Prefect, which takes ten CPU seconds to start
_SHARED = {
    "tests/flows/": _FIXTURE,
    "tests/alerts/": _FIXTURE,
    "tests/deployments/test_deploy.py": _FIXTURE,
    "tests/deployments/test_queues.py": _FIXTURE,
    "tests/fleet/test_sortie.py": _FIXTURE,
    "tests/trouble/": "trouble",
}


def group_of(path: str) -> str:
    """What a file's tests run together with, in one worker: the file alone, or all that share a server.

    Args:
        path: of the file, from the project's directory.
    """
    return next((group for start, group in _SHARED.items() if path.startswith(start)), path)


def recorded() -> dict[str, float]:
    """The seconds that each file took, with its fixtures."""
    found: dict[str, float] = json.loads(SECONDS.read_text())
    return found


def arrange(items: list[pytest.Item]) -> None:
    """Put the groups that take longest first; the order within a group stays.

    Raises:
        UsageError: a file would start another server of those that are shared.
    """
    seconds, total = recorded(), dict[str, float]()
    for path in dict.fromkeys(item.location[0] for item in items):
        total[group_of(path)] = total.get(group_of(path), 0.0) + seconds.get(path, _UNKNOWN)
    for item in items:
        if _FIXTURE in getattr(item, "fixturenames", ()) and group_of(item.location[0]) != _FIXTURE:
            raise pytest.UsageError(f"{item.location[0]} uses {_FIXTURE}: name it in tests/order.py")
    items.sort(key=lambda item: -total[group_of(item.location[0])])
