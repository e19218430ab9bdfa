"""The flow ``restore-validation``."""

from __future__ import annotations

from prefect import flow

from pgproof.errors import NotProven, RestoreDiffers, UsageError
from pgproof.validation.choice import Policy
from pgproof.validation.origins.choice import OriginKind
from tasks.artifacts import show_proof
from tasks.events import emit
from tasks.lineage import emit_lineage, proof_lineage
from tasks.proof_events import proof_events
from tasks.validation import (
    VERDICTS,
    StoredProof,
    choose_backup,
    compare_with_source,
    fence_source,
    prove_elsewhere,
    record_proof,
    restore_as_a_user_does,
    restore_backup,
    restores_as_user,
)


@flow(name="restore-validation", flow_run_name="restore validation of {cluster}")
def restore_validation(
    cluster: str,
    config: str | None = None,
    backup: str | None = None,
    policy: Policy = "newest",
    origin: OriginKind | None = None,
) -> str:
    """Prove a backup: restore it, recover it to the exact cut, compare every table with the source.

    At three in the morning: NOT EQUAL names the table and both values; keep older backups (`pgproof hold`) and
    drill them. NOT EXACT says nothing of the backup; run it again. The source is only read. RestoreDiffers: the data is
    good, and the source's configuration keeps a restore of it from starting; the finding names the setting.

    Args:
        cluster: as pgproof.toml names it
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        backup: label of the one to prove; empty chooses by the policy
        policy: which backup is proven when none is named; least recently proven gives every backup its turn
        origin: another tool whose backup is proven, restored by it; newest and oldest are the policies of this
    """
    if origin is not None:
        stored = prove_origin(cluster, config, origin, backup, policy)
    else:
        stored = prove(cluster, config, choose_backup(cluster, config, backup, policy))
    refuse_unproven(cluster, stored)
    return stored.key


def prove(cluster: str, config: str | None, label: str) -> StoredProof:
    """The steps of a drill; whatever comes of it is recorded, and the scratch copy is removed."""
    fence = fence_source(cluster, config)
    restored = compared = failure = as_restored = None
    try:
        if restores_as_user(cluster, config):
            as_restored = restore_as_a_user_does(cluster, fence, label, config)
        restored = restore_backup(cluster, fence, label, config)
        compared = compare_with_source(cluster, fence, restored, config)
    except VERDICTS as error:
        failure = error
    finally:
        if restored is not None:
            restored.scratch.remove()
    if compared is not None and restored is not None:
        restored = compared.restored
    stored = record_proof(cluster, fence, label, restored, compared, failure, config, as_restored)
    show_proof(cluster, stored)
    emit(cluster, proof_events(cluster, stored.proof, stored.key))
    emit_lineage(proof_lineage(cluster, stored))
    return stored


def prove_origin(
    cluster: str, config: str | None, origin: OriginKind, backup: str | None, policy: Policy
) -> StoredProof:
    """The drill of another tool's backup; it decides the state of no backup of ours.

    Raises:
        UsageError: the policy is none of these backups.
    """
    if backup is None and policy not in ("newest", "oldest"):
        raise UsageError(
            f'cannot choose a backup of {origin} by policy "{policy}"',
            "Only our own backups remember when they were drilled.",
            "choose newest or oldest, or name a backup",
        )
    stored = prove_elsewhere(cluster, origin, backup, policy == "oldest", config)
    show_proof(cluster, stored)
    emit_lineage(proof_lineage(cluster, stored))
    return stored


def refuse_unproven(cluster: str, stored: StoredProof) -> None:
    """Fail the run when there is no proof, so that its alert goes out.

    Raises:
        NotProven: with the verdict.
        RestoreDiffers: the data is proven, and a restore as a user is told to make it is not.
    """
    proof = stored.proof
    if not proof.proven:
        again = f"pgproof drill {cluster} --from {proof.origin['kind']}" if proof.origin else ""
        raise NotProven(
            f'backup "{proof.backup}" of cluster "{cluster}" is {proof.verdict}',
            f"{proof.summary}. The evidence is {stored.key}.",
            again or f"pgproof list {cluster}; pgproof drill {cluster} --backup LABEL",
        )
    if proof.restore_findings:
        raise RestoreDiffers(
            f'backup "{proof.backup}" of cluster "{cluster}" is proven, and a restore as README tells it fails',
            f"{'; '.join(proof.restore_findings)}. The evidence is {stored.key}.",
            f"change the setting or file that is named on the source; then pgproof backup {cluster}",
        )
