"""A proof: this backup and this WAL, restored then, to this cut, equal to the source; and what was not checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import PROVEN
from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.repository.repository import Archive, StoredObject
from pgproof.repository.shape import moment, shaped
from pgproof.validation.fences.fence import NotChecked

AS_RESTORED = "as a user restores"
IN_ISOLATION = "on the drill's copy"


@dataclass(frozen=True, slots=True)
class Proof:
    """The record of one restore drill (invariant 7).

    Args:
        verdict: proven, not equal, not sound, not exact, or not recovered.
        summary: one line that says why.
        wal: first and last segment that recovery had.
        cuts: database to LSN.
        several_cuts: why the databases do not share one cut; empty when they do.
        tables: the comparison, a dict for each table.
        not_checked: what the proof does not cover.
        warnings: of the backup's record, of PostgreSQL's programs that ended well, which tablespaces WAL creates, and
            of a restore as a user is told to make it.
        phases: seconds of fence, extract, combine, verify, fetch, targets, start, replay, count, compare and check.
        rto_seconds: from the first byte fetched to a server that answers at the cut; 0 when there was none.
        expectations: summary of the Great Expectations suites, when they ran.
        origin: of another tool's backup: ``kind``, ``title`` and ``version``; empty for our own.
        checks: what was looked at besides the comparison, a dict for each.
        objects: the comparison of what is no table, a dict for each database and kind.
        evidence: the objects stored beside the record, before it.
        targets: recovery targets that the copy was recovered to, a dict for each.
        wal_bytes: that were replayed.
        bytes_per_second: of the phases that restore; rows_per_second: of counting, on the source and in the copy.
        rto_target: seconds that a recovery might take when the drill was made; None where nobody said.
        rto_way: how the recovery time was measured: of a restore as a user is told to make it, or of the drill's copy.
        as_restored: what came of such a restore: ``ok`` (None when it was not tried), ``findings``, ``not_checked``,
            ``skipped``, ``configuration_files``, ``seconds``.
    """

    identifier: str
    at: datetime
    cluster: str
    system_identifier: int
    backup: str
    verdict: str
    summary: str
    fence: str
    timeline: int
    wal: tuple[str, str, int]
    cuts: dict[str, str]
    tables: tuple[dict[str, Any], ...]
    not_checked: tuple[NotChecked, ...]
    phases: dict[str, float]
    rto_seconds: float
    restored_bytes: int
    software: dict[str, str] = field(default_factory=dict)
    expectations: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    checks: tuple[dict[str, Any], ...] = ()
    objects: tuple[dict[str, Any], ...] = ()
    several_cuts: str = ""
    evidence: tuple[StoredObject, ...] = ()
    targets: tuple[dict[str, Any], ...] = ()
    wal_bytes: int = 0
    bytes_per_second: dict[str, float] = field(default_factory=dict)
    rows_per_second: dict[str, float] = field(default_factory=dict)
    rto_target: float | None = None
    warnings: tuple[str, ...] = ()
    rto_way: str = IN_ISOLATION
    as_restored: dict[str, Any] = field(default_factory=dict)

    @property
    def tried_as_restored(self) -> bool:
        """Whether a restore was made as a user is told to make it, whatever came of it."""
        return self.as_restored.get("ok") is not None

    @property
    def restore_findings(self) -> tuple[str, ...]:
        """Why a restore as a user is told to make it does not give what the drill proved; empty when it does."""
        return tuple(self.as_restored.get("findings", ()))

    @property
    def recovered(self) -> bool:
        """Whether a server answered at the cut, so that the drill measured a recovery time."""
        return self.rto_seconds > 0

    @property
    def rto_met(self) -> bool | None:
        """Whether the recovery time that was measured was within the target; None when either is not known."""
        if not self.recovered or self.rto_target is None:
            return None
        return self.rto_seconds <= self.rto_target

    @property
    def proven(self) -> bool:
        return self.verdict == PROVEN

    @property
    def rows(self) -> int:
        return sum(max(0, table["source_rows"]) for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        tree = asdict(self)
        tree["system_identifier"] = str(self.system_identifier)  # over 2^53: a JSON number would lose digits
        tree["at"] = self.at.isoformat()
        return tree

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Proof:
        """Read a proof as the repository holds it.

        Raises:
            ObjectDamaged: a value is missing or cannot be read.
        """
        try:
            values = {**tree, "at": moment(tree["at"]), "tables": tuple(tree["tables"])}
            values["system_identifier"] = int(tree["system_identifier"])
            values["wal"] = tuple(tree["wal"])
            values["checks"] = tuple(tree.get("checks", ()))
            values["objects"] = tuple(tree.get("objects", ()))
            values["evidence"] = tuple(StoredObject(**item) for item in tree.get("evidence", ()))
            values["warnings"] = tuple(tree.get("warnings", ()))
            values["targets"] = tuple(tree.get("targets", ()))
            values["not_checked"] = tuple(NotChecked(**item) for item in tree["not_checked"])
            return shaped(cls(**values))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = tree.get("identifier", "?") if isinstance(tree, dict) else "?"
            raise ObjectDamaged(f'proof "{name}" cannot be read', f"{error!r}.") from error


def proof_key(archive: Archive, identifier: str) -> str:
    """Where a proof lies."""
    return f"{archive.layout.proofs}{identifier}.json"


def write_proof(archive: Archive, proof: Proof) -> str:
    """Store a proof; its key."""
    key = proof_key(archive, proof.identifier)
    archive.write_json(key, proof.as_dict())
    return key


def read_proof(archive: Archive, identifier: str) -> Proof:
    """Read a stored proof.

    Raises:
        ObjectMissing: there is none of this identifier.
    """
    try:
        return Proof.from_dict(archive.read_json(proof_key(archive, identifier)))
    except ObjectMissing as error:
        raise ObjectMissing(f'proof "{identifier}" does not exist', error.fact) from error
