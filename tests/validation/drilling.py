"""A drill as the tests run it: with something done to the source, the fence or the copy on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pgproof.validation.checks.check import EVERY_DATABASE
from pgproof.validation.comparing import OnDatabase, compare_restored
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Restored, make_proof, restore_scratch
from pgproof.validation.evidence import store_evidence
from pgproof.validation.fences.fence import NEVER_CHECKED, Fence, NotChecked, write_fence
from pgproof.validation.fences.fencing import _Fencer, take_fence
from pgproof.validation.proof import Proof
from pgproof.validation.targets.attempt import WHAT
from tests.servers.postgres import Source, now

_NO_TARGETS = NotChecked(EVERY_DATABASE, WHAT, "drill.targets is 0")


@dataclass
class Drill:
    """A drill that came to its end."""

    fence: Fence
    restored: Restored
    comparison: Comparison
    proof: Proof

    @property
    def equal(self) -> set[str]:
        """Tables that are equal, without the schema ``public``."""
        return {short(table.table) for table in self.comparison.tables if table.equal}

    @property
    def not_checked(self) -> dict[str, str]:
        """What is not compared, to the reason; without what no drill looks at, checks, and targets that none wanted."""
        apart = {NEVER_CHECKED, _NO_TARGETS}
        apart |= {item for check in self.comparison.checks for item in check.not_checked}
        items = [item for item in self.proof.not_checked if item not in apart]
        return {short(item.what): item.reason for item in items}


def short(title: str) -> str:
    return title.removeprefix("public.")


def fence_of(source: Source) -> Fence:
    archive = source.archive
    fence = take_fence(source.cluster, lambda system: archive, now)
    write_fence(archive, fence)
    return fence


@contextmanager
def restored_copy(source: Source, fence: Fence, label: str | None = None) -> Iterator[Restored]:
    restored = restore_scratch(source.cluster, source.archive, fence, label)
    try:
        yield restored
    finally:
        restored.scratch.remove()


def nothing(database: str, dsn: str) -> None:
    """What a drill does on each database unless told."""


def drill(
    source: Source,
    fence: Fence | None = None,
    on_database: OnDatabase = nothing,
    *,
    checked: bool = True,
) -> Drill:
    """Prove the newest backup.

    Args:
        checked: with the configured checks and recovery targets; both have tests of their own.
    """
    fence = fence or fence_of(source)
    cluster = source.cluster
    if not checked:
        less = cluster.drill.model_copy(update={"checks": (), "targets": 0})
        cluster = cluster.model_copy(update={"drill": less})
    with restored_copy(source, fence) as restored:
        comparison = compare_restored(cluster, fence, restored, on_database)
    proof = make_proof(source.archive, fence, restored.label, now, restored=restored, comparison=comparison)
    store_evidence(source.archive, proof, None)
    return Drill(fence, restored, comparison, proof)


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something between the snapshots of a fence and the counting under them."""
    original = _Fencer._archived_commits

    def patched(self: _Fencer, burst: object) -> object:
        commits = original(self, burst)  # type: ignore[arg-type]
        action()
        return commits

    monkeypatch.setattr(_Fencer, "_archived_commits", patched)


def sessions(source: Source) -> list[tuple[str, str]]:
    """State and last query of every session of pgproof on the source."""
    return source.sql(
        "SELECT state, query FROM pg_stat_activity WHERE usename = 'pgproof' AND backend_type = 'client backend'"
    )
