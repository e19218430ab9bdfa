"""The flow ``restore-cluster``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow

from pgproof.errors import InvalidTarget
from pgproof.restore.plan import RestoreRequest
from pgproof.restore.target import RecoveryTarget
from tasks.artifacts import show_restore
from tasks.restore import plan_cluster_restore, restore_files

TargetKind = Literal["end", "time", "lsn", "xid", "name", "immediate"]
_EXAMPLES = {
    "time": "2026-11-23 20:15:00+01:00",
    "lsn": "1/6F0000A8",
    "xid": "742",
    "name": "before_migration",
}


@flow(name="restore-cluster", flow_run_name="restore {cluster} into {destination}")
def restore_cluster(
    cluster: str,
    destination: str,
    config: str | None = None,
    target: TargetKind = "end",
    target_value: str | None = None,
    exclusive: bool = False,
    target_timeline: str | None = None,
    backup: str | None = None,
    tablespaces: dict[str, str] | None = None,
    standby: bool = False,
    target_action: Literal["pause", "promote", "shutdown"] = "pause",
    take_over: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Restore a cluster into a directory on the worker; it recovers when you start it.

    At three in the morning: everything is checked before the first write. Without Prefect, `pgproof restore` does
    the same; without pgproof, docs/runbooks/restore-by-hand.md does.

    Args:
        cluster: as pgproof.toml names it
        destination: data directory to make, on the worker; it is empty or not there
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        target: where recovery stops. end: of all that is archived; immediate: as soon as the backup is consistent;
            time, lsn, xid (a transaction) or name (of a restore point): at the value below
        target_value: a time with its zone, such as 2026-11-23 20:15:00+01:00; a position in WAL, such as 1/6F0000A8;
            a transaction ID; or the name of a restore point
        exclusive: stop just before the target; with time, lsn and xid
        target_timeline: follow this timeline, a number; default: the newest that continues the backup
        backup: label of the one to restore; default: the newest proven one from which the target can be reached
        tablespaces: old path to new path, such as {"/srv/fast": "/srv/new/fast"}
        standby: make a standby that follows the archive
        target_action: what the server does at the target; paused, it answers queries until you promote it
        take_over: nothing isolates the restored cluster, and it archives on into this repository; only when the old
            server is gone for good
        dry_run: show the plan and write nothing
    """
    stop = recovery_target(target, target_value, exclusive=exclusive, timeline=target_timeline)
    spaces = tablespaces or {}
    request = RestoreRequest(Path(destination), stop, backup, spaces, standby, target_action, take_over)
    plan = plan_cluster_restore(cluster, request, config)
    after = [] if dry_run else restore_files(cluster, plan, config)
    show_restore(cluster, plan.steps(), plan.warnings, after)
    return after


def recovery_target(
    kind: TargetKind, value: str | None, *, exclusive: bool = False, timeline: str | None = None
) -> RecoveryTarget:
    """The target that a run form means: a value where the kind needs one, and only there.

    Raises:
        InvalidTarget: a value is missing, too many, or cannot be read.
    """
    if kind in _EXAMPLES:
        if not value:
            raise InvalidTarget(
                f"recovery target {kind} needs a value", hint=f"target_value such as {_EXAMPLES[kind]}"
            )
        return RecoveryTarget.build(**{kind: value}, exclusive=exclusive, timeline=timeline)  # type: ignore[arg-type]
    if value:  # taken for none, it would recover to elsewhere than was meant
        raise InvalidTarget(
            f"recovery target {kind} takes no value",
            f'Given was "{value}".',
            f"choose target {', '.join(_EXAMPLES)}, or leave target_value out",
        )
    return RecoveryTarget.build(immediate=kind == "immediate", exclusive=exclusive, timeline=timeline)
