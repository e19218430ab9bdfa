"""Evidence is what a drill leaves in the repository: its data frames, Great Expectations' results, then the proof.

The proof is written last and names every other object with size and SHA-256, so that a proof never names what is not
there. What a drill that died in between has left is named by nothing, and may be removed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from pgproof.repository.repository import Archive, StoredObject
from pgproof.validation import frames
from pgproof.validation.expectations.suites import ExpectationOutcome
from pgproof.validation.proof import Proof, write_proof


def store_evidence(archive: Archive, proof: Proof, outcome: ExpectationOutcome | None) -> tuple[Proof, str]:
    """Store a proof, after everything that it names.

    Args:
        archive: of the backup.
        proof: the record.
        outcome: of the suites, when they ran.

    Returns:
        the proof as it was stored, with its ``evidence``, and its key.
    """
    base = f"{archive.layout.proofs}{proof.identifier}/"
    evidence = [*_store_frames(archive, proof, base)]
    if outcome is not None:
        # through the codec, so that it is encrypted where backups are: it may hold values of rows
        text = json.dumps(outcome.results, indent=2, ensure_ascii=False, default=str) + "\n"
        evidence.append(archive.write(f"{base}great_expectations.json", [text.encode()]))
    proof = dataclasses.replace(proof, evidence=tuple(evidence))
    return proof, write_proof(archive, proof)


def _store_frames(archive: Archive, proof: Proof, base: str) -> list[StoredObject]:
    """Every frame as plain Parquet: it holds what the record holds, and pandas reads it as it lies there."""
    if not frames.available():
        return []
    stored = []
    parts = (proof.tables, proof.objects, proof.checks, proof.cuts, proof.targets)
    for name, frame in frames.frames_of(*parts).items():
        key, content = f"{base}{name}.parquet", frames.to_parquet(frame)
        archive.store.put(key, content)
        stored.append(StoredObject(key, len(content), hashlib.sha256(content).hexdigest()))
    return stored
