"""The order of a run: whole files, those that take longest first, and what shares an expensive server together.

``make profile`` measures the seconds again; a file that it does not know yet comes first.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SECONDS = Path(__file__).with_name("seconds.json")  # file to the seconds that it took
_UNKNOWN = 1e6
_SHARED = "prefect"  # the fixture of a server that the tests of several files share
_TROUBLE = "tests/trouble"  # its files share one, too


def recorded() -> dict[str, float]:
    """The seconds that each file took, with its fixtures."""
    found: dict[str, float] = json.loads(SECONDS.read_text())
    return found


def arrange(items: list[pytest.Item]) -> None:
    """Put the groups that take longest first, and mark each test with its group for ``--dist loadgroup``.

    A group is a file; or all files that use one of the servers that take ten CPU seconds to start.
    """
    groups: dict[str, str] = {}
    for item in items:
        path = item.location[0]
        own = _TROUBLE if path.startswith(_TROUBLE) else path
        groups[path] = _SHARED if _SHARED in getattr(item, "fixturenames", ()) else groups.get(path, own)
    seconds, total = recorded(), dict.fromkeys(groups.values(), 0.0)
    for path, group in groups.items():
        total[group] += seconds.get(path, _UNKNOWN)
    items.sort(key=lambda item: -total[groups[item.location[0]]])  # the order within a group stays
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.location[0]]))
