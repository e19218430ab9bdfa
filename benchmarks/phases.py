"""Phases: where the time of a restore drill goes, from its proof records."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.report import number
from benchmarks.shop import Shop
from tests.servers.postgres import PGPROOF, PROJECT

_CLIENTS = 8
# In the order of a drill; the record has those that there were
MEANING = {
    "fence": "snapshots held: the exact cut is found, catalogs and tables are read",
    "extract": "the backup's files are fetched, checked and put in place",
    "combine": "an incremental backup is joined with what it builds on",
    "verify": "`pg_verifybackup`",
    "fetch": "WAL is fetched",
    "targets": "recovery targets are tried, without their replay",
    "start": "the copy's server starts",
    "replay": "it replays WAL, to targets and to the cut",
    "count": "its tables are read",
    "compare": "catalogs are read; everything is compared",
    "check": "the log, page checksums, `amcheck`, indexes",
}


@dataclass(frozen=True)
class Drilled:
    """One drill, as its proof has it, and the seconds that the command took."""

    proof: dict[str, Any]
    wall: float

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase, and of all besides: start-up, plans, Great Expectations, the evidence."""
        known = {name: float(seconds) for name, seconds in self.proof["phases"].items()}
        return {**known, "the rest": self.wall - sum(known.values())}


def drills(shop: Shop, count: int, seconds: int) -> list[Drilled]:
    """Back the cluster up, write for a while, and prove the backup some times.

    Raises:
        BenchmarkError: a drill proved nothing.
    """
    shop.source.backup()
    shop.pgbench("-n", "-c", str(_CLIENTS), "-j", "2", "-T", str(seconds))
    shop.rest()
    return [_drilled(shop) for _ in range(count)]


def _drilled(shop: Shop) -> Drilled:
    began = time.perf_counter()
    words = [*PGPROOF, "--config", str(shop.source.config_path), "drill", "main", "--json"]
    settings = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, capture_output=True, text=True, env=settings, stdin=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    if done.returncode != 0:
        raise BenchmarkError(f"the drill ended with {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
    return Drilled(json.loads(done.stdout), wall)


def table(found: Sequence[Drilled], size: int) -> str:
    """The section about the phases, as Markdown.

    Args:
        found: the drills.
        size: bytes of the cluster's databases.
    """
    first = found[0].proof
    loads = {name: first["restored_bytes"] for name in ("extract", "combine", "verify")}
    loads |= {name: first["wal_bytes"] for name in ("fetch", "replay")}
    loads |= {name: size for name in ("fence", "count")}
    tables, rows = len(first["tables"]), sum(item["source_rows"] for item in first["tables"])
    lines = [
        "## A drill by phase",
        "",
        f"`pgproof drill`, {len(found)} of them: {first['restored_bytes'] / 1e6:,.0f} MB of backup, "
        f"{first['wal_bytes'] / 1e6:,.0f} MB of WAL, {tables} tables with {rows:,} rows. MB/s are of the backup, of "
        f"the WAL, or of the {size / 1e6:,.0f} MB of databases with their indexes.",
        "",
        "| phase | seconds | min to max | MB/s | what happens |",
        "|---|---:|---:|---:|---|",
    ]
    walls = [drilled.wall for drilled in found]
    lines += [
        _row(name, MEANING[name], _seconds(found, name), loads) for name in MEANING if _seconds(found, name)
    ]
    rest = "start of the command, plans, Great Expectations, the evidence"
    lines.append(_row("the rest", rest, _seconds(found, "the rest"), loads))
    lines.append(_row("whole", "from the command's start to its end", walls, loads))
    rto = [float(drilled.proof["rto_seconds"]) for drilled in found]
    lines.append(_row("RTO", "of it: what a recovery takes", rto, loads))
    return "\n".join([*lines, ""])


def _seconds(found: Sequence[Drilled], name: str) -> list[float]:
    return [drilled.phases[name] for drilled in found if name in drilled.phases]


def _row(name: str, meaning: str, values: Sequence[float], loads: Mapping[str, int]) -> str:
    median = statistics.median(values)
    speed = number(loads[name] / median / 1e6) if name in loads and median else ""
    reach = f"{number(min(values))} to {number(max(values))}"
    return f"| {name} | {number(median)} | {reach} | {speed} | {meaning} |"
