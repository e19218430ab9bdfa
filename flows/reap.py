"""The flow ``reap``."""

from __future__ import annotations

from prefect import flow

from tasks.life import Patience
from tasks.reaping import reap_runs


@flow(name="reap", flow_run_name="reap the dead runs of {pool}")
def reap(pool: str = "pgproof", silence: int = 180) -> dict[str, list[str]]:
    """Mark runs crashed whose process is gone, and free the concurrency slots that they held.

    At three in the morning: a run that it marked was cut off by the death of its worker or its machine; nothing half
    done is listed, and the next run of the same flow does its work. Runs that live send heartbeats, and are never
    touched; nor is any run of another work pool.

    Args:
        pool: work pool whose runs are looked at
        silence: seconds without a sign of life; taken for three heartbeats where those are longer
    """
    reaped = reap_runs(pool, Patience(silence=float(silence)))
    return {"crashed": list(reaped.runs), "freed": list(reaped.slots)}
