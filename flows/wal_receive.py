"""The flow ``wal-receive``."""

from __future__ import annotations

from prefect import flow

from pgproof.errors import WalGap
from pgproof.wal.receiving.receive import ReceiveResult
from tasks.receive import receive_wal


@flow(name="wal-receive", flow_run_name="WAL receive of {cluster}")
def wal_receive(cluster: str, config: str | None = None, seconds: int = 86340) -> dict[str, object]:
    """Stream WAL from a replication slot into the repository, so that seconds are lost with the server.

    At three in the morning: a run that failed is replaced within a minute and goes on where it ended; the server
    keeps the WAL meanwhile. It stays away: look at the last run's log, and how much the slot holds back with
    `SELECT slot_name, wal_status, safe_wal_size FROM pg_replication_slots`. A hole means that some points in time
    cannot be recovered: run `pgproof wal check`, and take a base backup now.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        seconds: how long a run lasts; the next one goes on
    """
    received = receive_wal(cluster, config, seconds)
    refuse_holes(cluster, received)
    return received.as_dict()


def refuse_holes(cluster: str, received: ReceiveResult) -> None:
    """Fail the run when the server had removed WAL, so that its alert goes out.

    Raises:
        WalGap: with every hole.
    """
    if not received.holes:
        return
    holes = ", ".join(f"{hole.first} to {hole.end} on timeline {hole.timeline}" for hole in received.holes)
    raise WalGap(
        f'WAL of cluster "{cluster}" was not received',
        f"The server had removed {holes}.",
        f"pgproof wal check {cluster} tells whether the repository has it; if not: pgproof backup {cluster}",
    )
