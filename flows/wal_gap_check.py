"""The flow ``wal-gap-check``."""

from __future__ import annotations

from prefect import flow

from flows.taken import tell_backup
from flows.writer import one_writer
from pgproof.errors import PgproofError, WalGap
from pgproof.gaps.check import WalCheck
from pgproof.gaps.loss import losses, newest_is_lost, sentences
from pgproof.gaps.repair import RepairReport
from tasks.artifacts import show_wal
from tasks.base_backup import take_base_backup
from tasks.events import emit, wal_events
from tasks.proof_events import rpo_events
from tasks.standing import Standing, look_at_standing, standing_events
from tasks.wal import check_wal_archive, repair_wal_archive


@flow(name="wal-gap-check", flow_run_name="WAL gap check of {cluster}")
def wal_gap_check(
    cluster: str,
    config: str | None = None,
    content: bool = False,
    repair: bool = True,
    backup_when_lost: bool = True,
) -> dict[str, object]:
    """Look for gaps in the WAL archive, and mend what can be mended.

    At three in the morning: a gap means that some points in time cannot be recovered. What the source, a standby or
    another repository still has was brought back already. For what nobody has, the run names the windows that are
    lost; when none was left for new commits, it has taken a base backup. Prove that one: `pgproof drill`.
    It also emits how old the newest backup and proof are, and how full the repository is; what it finds there fails no
    run.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        content: read every segment, not only its name
        repair: bring back what is missing or damaged
        backup_when_lost: take a base backup when no recovery window reaches what is written now
    """
    found, mended = check_wal_archive(cluster, config, content), RepairReport()
    if repair and (not found.report.ok or any(copy.overdue for copy in found.copies)):
        mended = repair_wal_archive(cluster, config, content)
        found = check_wal_archive(cluster, config, content)
    starts_again = backup_when_lost and must_start_again(found)
    back = [(one.name, one.place) for one in mended.repaired]
    emit(cluster, [*wal_events(cluster, found, back, starts_again), *rpo_events(cluster, found)])
    show_wal(cluster, found, mended)
    looked = look_at_standing(cluster, config, return_state=True)
    standing = looked.result(raise_on_failure=False)
    if isinstance(standing, Standing):
        emit(cluster, standing_events(cluster, standing))
    follows = ""
    if starts_again:
        follows = start_again(cluster, config, content)
        show_wal(cluster, check_wal_archive(cluster, config, content), mended)
    refuse_gaps(cluster, found, follows)
    looked.result()  # a gap is told before this
    return found.as_dict()


def must_start_again(found: WalCheck) -> bool:
    """Whether every new commit is lost to recovery until there is a new base backup."""
    return not found.report.ok and newest_is_lost(found.report)


def start_again(cluster: str, config: str | None, content: bool) -> str:
    """Take a base backup, unless another run took one while this one waited; what became of it, in a sentence."""
    with one_writer(cluster):
        if not must_start_again(check_wal_archive(cluster, config, content)):
            return "A new recovery window has begun meanwhile."
        state = take_base_backup(cluster, config, return_state=True)
    taken = state.result(raise_on_failure=False)
    if isinstance(taken, BaseException):
        fact = taken.fact if isinstance(taken, PgproofError) else str(taken)
        return f"No base backup could be taken, so that no new window begins: {fact}."
    tell_backup(cluster, taken, config)
    return f"A new recovery window begins with base backup {taken.record.label}."


def refuse_gaps(cluster: str, found: WalCheck, follows: str = "") -> None:
    """Fail the run when the archive is not whole, so that its alert goes out.

    Args:
        cluster: its name.
        found: by the check.
        follows: a sentence on what was done about it.

    Raises:
        WalGap: with every finding, and the windows that are lost.
    """
    if found.ok:
        return
    lost = sentences(losses(found.report))[:20]
    order = "is not whole" if not found.report.ok else "is not in order"
    raise WalGap(
        f'the WAL archive of cluster "{cluster}" {order}',
        " ".join(["; ".join(found.findings) + ".", *lost, *([follows] if follows else [])]),
        f"pgproof wal check {cluster}" + ("" if follows else f"; then pgproof backup {cluster}"),
    )
