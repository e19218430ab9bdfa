"""The flow ``wal-gap-check``."""

from __future__ import annotations

from prefect import flow

from pgproof.errors import WalGap
from pgproof.wal.check import WalCheck
from tasks.artifacts import show_wal
from tasks.wal import check_wal_archive


@flow(name="wal-gap-check", flow_run_name="WAL gap check of {cluster}")
def wal_gap_check(cluster: str, config: str | None = None, content: bool = False) -> dict[str, object]:
    """Look for gaps in the WAL archive.

    At three in the morning: a gap means that some points in time cannot be recovered. Copy the named segment
    from the source's pg_wal and run `pgproof wal push` on it; if it is gone, take a new base backup now.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        content: read every segment, not only its name
    """
    found = check_wal_archive(cluster, config, content)
    show_wal(cluster, found)
    refuse_gaps(cluster, found)
    return found.as_dict()


def refuse_gaps(cluster: str, found: WalCheck) -> None:
    """Fail the run when the archive is not whole, so that its alert goes out.

    Raises:
        WalGap: with every finding.
    """
    if found.ok:
        return
    raise WalGap(
        f'the WAL archive of cluster "{cluster}" is not whole',
        "; ".join(found.findings) + ".",
        f"pgproof wal check {cluster}; then pgproof backup {cluster}",
    )
