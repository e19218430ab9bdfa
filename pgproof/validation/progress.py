"""Progress is what the comparison of a restored copy has got through: a try after a fault goes on behind it.

A copy that was recovered to a later cut cannot go back to an earlier one, so what was found at the earlier one must
not be lost with a try. It is kept in this process, as the claim on the scratch directory is, and goes with the copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgproof.timelines.lsn import LSN

if TYPE_CHECKING:  # all of them need the scratch directory, which forgets its progress when it goes
    from pgproof.validation.checks.check import CheckResult
    from pgproof.validation.comparison import Comparison
    from pgproof.validation.fences.fence import Fence
    from pgproof.validation.targets.attempt import Targets


@dataclass(frozen=True)
class AtCut:
    """What was found at one cut.

    Args:
        parts: the comparison of each database that has this cut.
        checks: the user's own, in these databases.
        databases: their names.
        seconds: of ``start``, ``replay``, ``count`` and ``compare``.
    """

    parts: tuple[Comparison, ...]
    checks: tuple[CheckResult, ...]
    databases: frozenset[str]
    seconds: dict[str, float]


@dataclass
class Progress:
    """Of one copy.

    Args:
        targets: what came of the recovery targets, once they were tried.
        cuts: what was found at each cut that is done.
        comparison: all of it, once it is done.
        run: of Great Expectations, with the suites that are done.
    """

    targets: Targets | None = None
    cuts: dict[LSN, AtCut] = field(default_factory=dict)
    comparison: Comparison | None = None
    run: Any = None


_of: dict[Path, tuple[Fence, Progress]] = {}


def progress_of(root: Path, fence: Fence) -> Progress:
    """The progress of the copy in a scratch directory; a new one has none, nor has one that meets another fence.

    Args:
        root: of the scratch directory.
        fence: what the copy is compared with.
    """
    if root not in _of or _of[root][0] != fence:
        _of[root] = fence, Progress()
    return _of[root][1]


def forget(root: Path) -> None:
    """Forget a copy that is removed."""
    _of.pop(root, None)
