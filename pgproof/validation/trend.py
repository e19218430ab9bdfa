"""A trend is the recovery times of the last drills: what a recovery takes, and where that is going."""

from __future__ import annotations

from dataclasses import dataclass

from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.repository.reading import reading_ahead
from pgproof.repository.repository import Archive
from pgproof.validation.proof import Proof, proof_key, read_proof

MOST = 10  # drills that are shown and forecast from; what was faster or slower long ago says little
_READ = 60  # records that are read at most: those of drills that measured nothing lie between


@dataclass(frozen=True, slots=True)
class Trend:
    """The last drills that measured a recovery time.

    Args:
        drills: their proof records, the newest first.
        unreadable: identifiers of newer records that could not be read, or are of a later version.
    """

    drills: tuple[Proof, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def newest(self) -> Proof | None:
        return self.drills[0] if self.drills else None


def read_trend(archive: Archive, most: int = MOST) -> Trend:
    """Read the proof records of the last drills of our own backups that measured a recovery time.

    Drills of another tool's backups are left out: their files were put back by that tool.

    Args:
        archive: that holds the records.
        most: drills.

    Raises:
        StoreUnavailable: the archive could not be looked at.
    """
    newest_first = archive.record_names(archive.layout.proofs)[::-1][:_READ]
    drills: list[Proof] = []
    unreadable = []
    with reading_ahead(archive, [proof_key(archive, found) for found in newest_first[:most]]) as ahead:
        for identifier in newest_first:
            if len(drills) >= most:
                break
            try:
                proof = read_proof(ahead, identifier)
            except (ObjectDamaged, ObjectMissing):
                unreadable.append(identifier)
                continue
            if proof.recovered and not proof.origin:
                drills.append(proof)
    return Trend(tuple(drills), tuple(unreadable))
