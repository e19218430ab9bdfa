"""The flow ``base-backup``."""

from __future__ import annotations

from prefect import flow

from flows.taken import tell_backup
from flows.writer import one_writer
from tasks.base_backup import take_base_backup


@flow(name="base-backup", flow_run_name="base backup of {cluster}")
def base_backup(cluster: str, config: str | None = None, incremental: bool = False) -> str:
    """Take a base backup.

    At three in the morning: a failed run left nothing behind; run it again. When it says that WAL did not reach the
    archive, look at the source's log and at `pgproof doctor`. An incremental backup needs PostgreSQL 17.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        incremental: build on the newest backup
    """
    with one_writer(cluster):
        taken = take_base_backup(cluster, config, incremental)
    tell_backup(cluster, taken, config)
    return taken.record.label
