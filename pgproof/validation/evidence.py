"""Evidence: the proof record, with Great Expectations' complete results beside it."""

from __future__ import annotations

from pgproof.repository.repository import Archive
from pgproof.validation.expectations import ExpectationOutcome
from pgproof.validation.proof import Proof, write_proof


def store_evidence(archive: Archive, proof: Proof, outcome: ExpectationOutcome | None) -> str:
    """Store a proof; the complete results first, so that a proof never names what is not there.

    Args:
        archive: of the backup.
        proof: the record.
        outcome: of the suites, when they ran.

    Returns:
        the key of the proof record.
    """
    if outcome is not None:
        key = f"{archive.layout.proofs}{proof.identifier}/great_expectations.json"
        archive.write_json(key, outcome.results)
    return write_proof(archive, proof)
