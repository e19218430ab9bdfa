"""Lineage: what was made of what. A cluster is the source of a backup, and a backup and its WAL are that of a proof.

Prefect calls such things assets, and tells of them by events. Its decorator ``materialize`` wants their keys before the
task runs, and a backup has its label when it is taken; so the same events are emitted here, as ``AssetContext`` of
prefect/context.py does, from a flow's body: once a run, however often its tasks were tried.

A key is a URI of at most 512 characters without some of them (prefect/types/names.py). It is made of the repository's
URL and of names, never of a DSN: the server stores and shows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefect.events import emit_event

from pgproof.repository.layout import Layout
from pgproof.validation.proof import Proof
from pgproof.wording import size
from tasks.base_backup import TakenBackup
from tasks.validation import StoredProof

REFERENCED = "prefect.asset.referenced"
SUCCEEDED = "prefect.asset.materialization.succeeded"
FAILED = "prefect.asset.materialization.failed"  # a drill that proved nothing
_BY = "pgproof"
_LONGEST_KEY = 512
_NOT_IN_A_KEY = re.compile(r"[\x00-\x20#?&%\"'<>\[\]{}|\\^`]")


@dataclass(frozen=True, slots=True)
class Asset:
    """A thing that something else was made of.

    Args:
        key: a URI, by which Prefect knows it.
        name: for people.
    """

    key: str
    name: str

    @property
    def resource(self) -> dict[str, str]:
        return {"prefect.resource.id": self.key, "prefect.resource.name": self.name}


@dataclass(frozen=True, slots=True)
class Lineage:
    """One thing that a run made.

    Args:
        made: the thing.
        description: one line on it.
        of: what it was made of.
        event: whether that went well.
        metadata: plain values.
    """

    made: Asset
    description: str
    of: tuple[Asset, ...]
    event: str
    metadata: dict[str, Any]


def cluster_asset(cluster: str, system_identifier: int) -> Asset:
    """The source: a cluster's name and its system identifier, as another cluster may have the name tomorrow."""
    return Asset(f"postgres://{_clean(cluster)}/{system_identifier}", f"cluster {cluster}")


def stored_asset(repository: str, layout: Layout, key: str, name: str) -> Asset:
    """Something in a repository.

    Args:
        repository: its URL.
        layout: of the cluster.
        key: of the object, or of the directory.
        name: for people.
    """
    parts = urlsplit(repository)
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip(
        "/"
    )  # what stands before @ may be a secret
    found = _clean(f"{parts.scheme}://{place}/{key.rstrip('/')}")
    if len(found) > _LONGEST_KEY:  # the repository's path is; what is below its root is not
        found = f"pgproof://{key.rstrip('/')}"
    return Asset(found, f"{name} of cluster {layout.cluster}")


def backup_lineage(cluster: str, taken: TakenBackup) -> Lineage:
    """A base backup: made of its cluster, and an incremental one of its parent, too.

    Args:
        cluster: its name.
        taken: the backup.
    """
    record = taken.record
    layout = Layout(record.cluster, record.system_identifier)
    of = [cluster_asset(cluster, record.system_identifier)]
    if record.parent:
        of.append(_backup(taken.repository, layout, record.parent))
    metadata = {
        "backup": record.label,
        "kind": record.kind,
        "parent": record.parent,
        "proven": False,  # a proof of its own tells when it is
        "raw_size": record.raw_size,
        "stored_size": record.stored_size,
        "timeline": record.timeline,
        "start_lsn": str(record.start_lsn),
        "stop_lsn": str(record.stop_lsn),
        "stopped_at": record.stopped_at.isoformat(),
        "seconds": taken.seconds,
    }
    what = f"{record.kind} base backup, {size(record.stored_size)}, not proven yet"
    return Lineage(_backup(taken.repository, layout, record.label), what, tuple(of), SUCCEEDED, metadata)


def proof_lineage(cluster: str, stored: StoredProof) -> Lineage:
    """A proof: made of a backup, of the WAL after it, and of the cluster that both were compared with.

    Args:
        cluster: its name.
        stored: the proof, whatever its verdict.
    """
    proof = stored.proof
    layout = Layout(proof.cluster, proof.system_identifier)
    of = [cluster_asset(cluster, proof.system_identifier), _drilled(stored, layout)]
    if not proof.origin:  # another tool replays the WAL of its own archive
        wal, what = f"{layout.wal}{proof.timeline:08X}", f"WAL of timeline {proof.timeline}"
        of.append(stored_asset(stored.repository, layout, wal, what))
    first, last, segments = proof.wal
    metadata = {
        "backup": proof.backup,
        "proven": proof.proven,
        "verdict": proof.verdict,
        "summary": proof.summary,
        "timeline": proof.timeline,
        "first_segment": first,
        "last_segment": last,
        "segments": segments,
        "cuts": dict(proof.cuts),
        "tables": len(proof.tables),
        "rows": proof.rows,
        "not_checked": len(proof.not_checked),
        "restored_bytes": proof.restored_bytes,
        "rto_seconds": proof.rto_seconds,
    }
    made = stored_asset(stored.repository, layout, stored.key, f"proof {proof.identifier}")
    what = f"backup {proof.backup} is {proof.verdict}: {proof.summary}"
    return Lineage(made, what, tuple(of), SUCCEEDED if proof.proven else FAILED, metadata)


def _backup(repository: str, layout: Layout, label: str) -> Asset:
    return stored_asset(repository, layout, layout.backup(label), f"backup {label}")


def _drilled(stored: StoredProof, layout: Layout) -> Asset:
    """The backup that was restored; another tool's lies in a repository of its own."""
    proof: Proof = stored.proof
    if proof.origin:
        key = _clean(f"{proof.origin['kind']}://{layout.root}/{proof.backup}")
        return Asset(key, f"{proof.origin['title']} backup {proof.backup} of cluster {layout.cluster}")
    return _backup(stored.repository, layout, proof.backup)


def emit_lineage(lineage: Lineage) -> None:
    """Tell the server of this run what was made, and of what; nothing waits for it, and nothing fails by it."""
    for asset in lineage.of:
        emit_event(REFERENCED, asset.resource)
    related = [{"prefect.resource.id": one.key, "prefect.resource.role": "asset"} for one in lineage.of]
    related.append({"prefect.resource.id": _BY, "prefect.resource.role": "asset-materialized-by"})
    resource = lineage.made.resource | {"prefect.asset.description": lineage.description}
    emit_event(lineage.event, resource, related=related, payload=lineage.metadata)


def _clean(text: str) -> str:
    """Without what a key must not have."""
    return _NOT_IN_A_KEY.sub("-", text)
