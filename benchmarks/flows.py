"""What Prefect adds: the chain over its bare engine calls, and a gap check from its order to its end in a worker.

    python -m benchmarks.flows [--repetitions 5] [--json]

A small cluster of PostgreSQL 17, a Prefect server of its own on SQLite, and a worker are made and removed again.
*Overhead* is the wall time of a whole ``protect`` run less the time inside the engine calls of the same run, so that
a busy machine disturbs both alike. Of the gap check the server's own times are read: when it was ordered, when the
worker took it, when its flow began, and when it was done.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prefect.states import Scheduled

from tests.servers.fleet import QUIET
from tests.servers.postgres import PROJECT, Source, running_source
from tests.trouble.plant import Plant, running_plant

ENGINE = {
    "tasks.base_backup": ("take_backup",),
    "tasks.wal": ("check_wal",),
    "tasks.validation": (
        "read_catalog",
        "take_fence",
        "write_fence",
        "read_fence",
        "restore_scratch",
        "make_proof",
        "store_evidence",
    ),
    "pgproof.validation.expectations.judgement": ("compare_restored",),
    "tasks.retention": ("plan_now", "expire"),
}
GOALS = {"overhead of protect": 3.0, "gap check, due by its schedule to completed": 5.0}


@dataclass
class Meter:
    """Seconds inside the engine; a call within a call counts once."""

    seconds: float = 0.0
    _depth: int = 0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            self._depth += 1
            started = time.monotonic()
            try:
                return call(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.monotonic() - started

        return measured


@contextmanager
def metered() -> Iterator[Meter]:
    """The engine calls of the tasks are timed for the time of a block."""
    from pgproof.validation.expectations.suites import ExpectationRun

    meter = Meter()
    places = [(importlib.import_module(module), name) for module, names in ENGINE.items() for name in names]
    places.append((ExpectationRun, "finish"))  # type: ignore[arg-type]
    kept = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, call in kept:
        setattr(place, name, meter.timed(call))
    try:
        yield meter
    finally:
        for place, name, call in kept:
            setattr(place, name, call)


def protect_once(source: Source) -> dict[str, float]:
    """One run of the chain in this process, against the server."""
    from flows.protect import protect

    with metered() as meter:
        started = time.monotonic()
        protect("main", str(source.config_path))
        wall = time.monotonic() - started
    return {
        "protect, whole run": wall,
        "protect, engine calls": meter.seconds,
        "overhead of protect": wall - meter.seconds,
    }


def gap_check_once(plant: Plant) -> dict[str, float]:
    """One run in the worker, by the server's clock."""
    run = plant.order("wal-gap-check")
    plant.wait_for(run, "Completed")
    with plant.client() as client:
        states = client.read_flow_run_states(run)
    at: dict[str, float] = {}
    for state in states:
        at.setdefault(state.name or "", state.timestamp.timestamp())
    return {
        "gap check, ordered to taken by the worker": at["Pending"] - at["Scheduled"],
        "gap check, taken to begun": at["Running"] - at["Pending"],
        "gap check, begun to completed": at["Completed"] - at["Running"],
        "gap check, ordered to completed": at["Completed"] - at["Scheduled"],
    }


def scheduled_once(plant: Plant) -> dict[str, float]:
    """One run that its schedule had made before it was due, as nearly all are: from that moment to its end."""
    due = datetime.now(UTC) + timedelta(seconds=9)
    with plant.client() as client:
        deployment = client.read_deployment_by_name("wal-gap-check/main")
        run = client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=due)).id
    done = plant.wait_for(run, "Completed")
    assert done.end_time is not None
    return {"gap check, due by its schedule to completed": done.end_time.timestamp() - due.timestamp()}


def import_once() -> dict[str, float]:
    """What a worker's process pays before a flow begins; Great Expectations and pandas are not part of it."""
    names = "flows.protect, flows.wal_gap_check"
    heavy = "[m for m in ('great_expectations', 'pandas') if m in sys.modules]"
    program = f"import sys, time; t = time.monotonic(); import {names}; print(time.monotonic() - t, {heavy})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    seconds, rest = done.stdout.strip().split(" ", 1)
    assert rest == "[]", rest
    return {"import of the flows": float(seconds)}


def measure(repetitions: int) -> dict[str, list[float]]:
    """Every row with its values; the first run of each is left out, as it fills caches."""
    found: dict[str, list[float]] = {}

    def repeat(once: Callable[[], dict[str, float]]) -> None:
        once()
        for _ in range(repetitions):
            for name, value in once().items():
                found.setdefault(name, []).append(value)

    with running_source(17) as source:
        source.sql(
            "CREATE TABLE orders AS SELECT g AS id, g * 1.5 AS amount FROM generate_series(1, 10000) g"
        )
        source.archive_now()
        # a gap check that its schedule began would keep the measured one out, and it would never complete
        source.write_config(cluster=QUIET)
        with running_plant(source) as plant:
            from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings

            with temporary_settings({PREFECT_API_URL: plant.api, PREFECT_LOGGING_LEVEL: "WARNING"}):
                repeat(lambda: protect_once(source))
            plant.start_worker()
            repeat(lambda: gap_check_once(plant))
            repeat(lambda: scheduled_once(plant))
    repeat(import_once)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.repetitions)
    if chosen.json:
        print(json.dumps(found, indent=2))
        return 0
    print("| seconds | median | min to max | n | goal |\n|---|---:|---:|---:|---:|")
    for name, values in found.items():
        goal = f"under {GOALS[name]:.0f}" if name in GOALS else ""
        reach = f"{min(values):.2f} to {max(values):.2f}"
        print(f"| {name} | {statistics.median(values):.2f} | {reach} | {len(values)} | {goal} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
