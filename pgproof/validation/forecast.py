"""A forecast is what a restore would take now, by the speeds that the last drills measured, with their spread.

The model is simple, so that it can be checked with a pencil. For each drill:

    bytes of the backup / its extract speed  [+ the same bytes / its combine speed, of an incremental backup]
    + bytes of WAL / its fetch speed  +  its seconds of start  +  bytes of WAL / its replay speed

The forecast is the median over the drills; the spread is their fastest and their slowest. It errs on the slow side: a
restore fetches WAL ahead while it replays, a drill fetches all of it first. Tried with 332 MB of files and 654 MB of
WAL after three drills of 350 to 450 MB of WAL: forecast 16.1 s (15.8 to 17.3), restored and recovered in 11.4 s.

It knows nothing of what no drill met: another machine, a cold cache, a network that others use, WAL of another kind. So
it says when it reaches far beyond what was drilled, and when there are too few drills for a spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgproof.validation.proof import Proof

ENOUGH = 3  # drills; of fewer the spread says nothing
_FAR = 10  # times as much as any drill did


@dataclass(frozen=True, slots=True)
class Load:
    """What a restore has to do: raw bytes of backups to put back, how many of them, and bytes of WAL to replay."""

    backup: int
    backups: int
    wal: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a restore of a load would take.

    Args:
        load: what there is to do.
        seconds: the median of the drills; None when there is no drill to forecast from.
        fastest, slowest: of the drills.
        drills: how many it is made from.
        cautions: why it may be wrong, sentences without a full stop.
    """

    load: Load
    seconds: float | None
    fastest: float = 0.0
    slowest: float = 0.0
    drills: int = 0
    cautions: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "backup_bytes": self.load.backup,
            "wal_bytes": self.load.wal,
            "seconds": self.seconds,
            "fastest": self.fastest,
            "slowest": self.slowest,
            "drills": self.drills,
            "cautions": list(self.cautions),
        }


def forecast(load: Load, drills: Sequence[Proof]) -> Forecast:
    """Forecast a restore.

    Args:
        load: what it has to do.
        drills: the last ones that measured a recovery time; those of older versions, without speeds, are left out.
    """
    usable = [proof for proof in drills if {"extract", "replay"} <= set(proof.bytes_per_second)]
    if not usable:
        return Forecast(load, None, cautions=("no drill has measured how fast a restore is",))
    times = [_seconds(load, proof) for proof in usable]
    middle, ends = statistics.median(times), (min(times), max(times))
    cautions = _cautions(load, usable)
    return Forecast(load, round(middle, 1), round(ends[0], 1), round(ends[1], 1), len(usable), cautions)


def _seconds(load: Load, proof: Proof) -> float:
    speed = proof.bytes_per_second
    seconds = load.backup / speed["extract"] + proof.phases.get("start", 0.0)
    seconds += load.wal / speed["replay"]
    if "fetch" in speed:  # of the drill's copy, which has all WAL before it replays
        seconds += load.wal / speed["fetch"]
    if load.backups > 1:  # combining reads and writes as much as extracting does, where nobody measured it
        seconds += load.backup / speed.get("combine", speed["extract"])
    return seconds


def _cautions(load: Load, drills: Sequence[Proof]) -> tuple[str, ...]:
    found = []
    if len(drills) < ENOUGH:
        found.append(f"made from {len(drills)} of the {ENOUGH} drills that a spread needs")
    most = max(proof.wal_bytes for proof in drills)
    if load.wal > _FAR * most:
        found.append(f"it replays {load.wal:,} bytes of WAL, and no drill replayed more than {most:,}")
    largest = max(proof.restored_bytes for proof in drills)
    if load.backup > _FAR * largest:
        found.append(
            f"it puts back {load.backup:,} bytes of files, and no drill put back more than {largest:,}"
        )
    if load.backups > 1 and not any("combine" in proof.bytes_per_second for proof in drills):
        found.append("no drill has combined backups yet; taken to be as fast as extracting")
    return tuple(found)
