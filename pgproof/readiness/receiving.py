"""Receiving: whether the slot of ``wal receive`` is there, is used, and still keeps the WAL that is missing."""

from __future__ import annotations

from pgproof.readiness.check import Answer, Question, Subject
from pgproof.wording import size


def _slot(subject: Subject) -> Answer:
    cluster, slot = subject.cluster, subject.source.slot
    name, command = cluster.wal.slot, f"pgproof wal receive {cluster.name}"
    if slot is None:
        if cluster.wal.receive:
            return Answer(False, f'there is no slot "{name}": no WAL is received', command)
        return Answer(True, f'there is no slot "{name}": WAL comes from archive_command alone')
    if slot.status == "lost" or slot.held is None:
        fact = f'slot "{name}" has lost its WAL: it fell behind by more than max_slot_wal_keep_size'
        return Answer(False, fact, f"{command}  # makes it anew; then pgproof wal check {cluster.name}")
    held = size(max(0, slot.held))
    if not slot.active:
        fact = f'nobody receives from slot "{name}", and it keeps {held} of WAL on the server'
        return Answer(False, fact, f"{command}  # or, if that is not wanted any more: {command} --drop-slot")
    if slot.status == "unreserved":
        fact = f'slot "{name}" is about to lose its WAL: it is {held} behind'
        return Answer(False, fact, f"raise max_slot_wal_keep_size, and look at what {command} says")
    return Answer(True, f'a receiver streams from slot "{name}"; {held} are not confirmed yet')


QUESTIONS = (Question("replication slot", "", _slot),)
