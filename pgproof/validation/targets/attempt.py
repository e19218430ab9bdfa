"""An attempt at the targets of one drill: read the copy's WAL, plan, and try each in the copy before its first cut."""

from __future__ import annotations

import hashlib
import pwd
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.config import DrillConfig
from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN
from pgproof.validation.checks.check import EVERY_DATABASE
from pgproof.validation.fences.fence import Fence, NotChecked
from pgproof.validation.scratch import Scratch
from pgproof.validation.targets.plan import plan_targets
from pgproof.validation.targets.stretch import read_stretch, stretch_of
from pgproof.validation.targets.trial import TargetResult, Trial

WHAT = "recovery targets"


@dataclass(frozen=True, slots=True)
class WalOfCopy:
    """What a copy can replay.

    Args:
        timeline: that recovery follows.
        first: name of the first segment.
        start: where recovery begins, the backup's start LSN.
        stop: where the copy is consistent, the backup's stop LSN.
    """

    timeline: int
    first: str
    start: LSN
    stop: LSN


@dataclass(frozen=True, slots=True)
class Targets:
    """What came of the targets of a drill.

    Args:
        results: one each.
        not_checked: why there are none, or fewer.
        seconds: of all of it.
        replay: of them, those of recovery.
    """

    results: tuple[TargetResult, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()
    seconds: float = 0.0
    replay: float = 0.0

    @property
    def finding(self) -> str:
        """How the first missed target was missed; empty when none was."""
        missed = [result for result in self.results if result.finding]
        if not missed:
            return ""
        more = f" (and {len(missed) - 1} more targets)" if len(missed) > 1 else ""
        return f"recovery target {missed[0]} was missed: {missed[0].finding}{more}"

    def as_records(self) -> list[dict[str, Any]]:
        """What the proof record keeps."""
        return [result.as_record() for result in self.results]


def seed_of(fence: Fence) -> int:
    """The seed of a drill that was given none: another one for each fence, and the same when a step is repeated."""
    return int.from_bytes(hashlib.sha256(fence.identifier.encode()).digest()[:4], "big")


def try_targets(
    drill: DrillConfig,
    fence: Fence,
    scratch: Scratch,
    wal: WalOfCopy | None,
    bin_directory: Path,
    owner: pwd.struct_passwd | None,
    seed: int | None,
) -> Targets:
    """Choose targets between the backup and the first cut, and recover the copy to each.

    Args:
        drill: settings; ``targets`` says how many.
        fence: of the source.
        scratch: of the copy, which no server has opened yet.
        wal: what it can replay; None is not known.
        bin_directory: of its major version.
        owner: account of the server when we are root.
        seed: of the choice; None takes that of the fence.
    """
    if drill.targets == 0:
        return _none("drill.targets is 0")
    if wal is None:
        return _none("where the backup ended is not known")
    started = time.monotonic()
    seed = seed_of(fence) if seed is None else seed
    cut = min(database.cut for database in fence.databases if database.cut is not None)
    stretch = stretch_of(scratch, fence, wal.timeline, wal.stop, cut)
    try:
        records = read_stretch(scratch, bin_directory, fence, wal.timeline, wal.first, wal.start)
        planned = plan_targets(records, stretch, drill.targets, seed)
    except ObjectDamaged as error:  # recovery itself comes to it, and says more
        return _none(f"{error.fact}", time.monotonic() - started)
    if not planned:
        return _none("too little was committed between the backup and the cut", time.monotonic() - started)
    trial = Trial(
        scratch,
        bin_directory,
        fence.bootstrap_role,
        owner,
        drill.replay_timeout,
        drill.preload_libraries,
        seed,
    )
    trial.run(planned)
    left_out = [result for result in trial.results if result.reason]
    return Targets(
        tuple(trial.results),
        tuple(NotChecked(EVERY_DATABASE, f"recovery target {r}", r.reason) for r in left_out),
        time.monotonic() - started,
        sum(result.replay for result in trial.results),
    )


def _none(reason: str, seconds: float = 0.0) -> Targets:
    return Targets((), (NotChecked(EVERY_DATABASE, WHAT, reason),), seconds)
