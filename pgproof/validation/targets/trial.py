"""A trial recovers the copy to each planned target in turn, and asks it which canaries are there.

It is held at each, and cannot be opened for writing: what comes after a trial is the comparison at the exact cut.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pgproof.errors import RecoveryFailed
from pgproof.postgres.faults import shortage_in
from pgproof.timelines.lsn import LSN
from pgproof.validation.checks.server_log import REFUSED_TO_OPEN
from pgproof.validation.pace import length_of, tail_of
from pgproof.validation.replay import held
from pgproof.validation.scratch import Scratch
from pgproof.validation.targets.canary import look_for
from pgproof.validation.targets.plan import CANARIES, PlannedTarget
from pgproof.wal.records import CommitRecord


@dataclass(frozen=True, slots=True)
class Found:
    """What a copy that is held at a target says.

    Args:
        committed: LSN of a canary's commit, and whether it is there.
        replayed: pg_last_wal_replay_lsn().
        last_time: of the last end of a transaction that this server replayed; None when it replayed none.
    """

    committed: dict[LSN, bool]
    replayed: LSN
    last_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What came of one target.

    Args:
        planned: the target, and what must be there.
        seed: of the choice.
        found: what is there; None when the copy could not be asked.
        finding: how the target was missed; empty when it was not.
        reason: why it could not be tried, through no fault of the backup.
        seconds: that it took, and how many of them recovery.
    """

    planned: PlannedTarget
    seed: int
    found: Found | None
    finding: str
    reason: str = ""
    seconds: float = 0.0
    replay: float = 0.0

    @property
    def ok(self) -> bool | None:
        """Whether recovery stopped there; None when it was not tried."""
        return None if self.reason else not self.finding

    def __str__(self) -> str:
        return title_of(self.as_record())

    def as_record(self) -> dict[str, Any]:
        """What the proof record keeps."""
        planned, found = self.planned, self.found
        there = found.committed if found else {}
        canaries = [*planned.before, *planned.after]
        return {
            "kind": planned.target.kind,
            "value": planned.target.value,
            "inclusive": not planned.target.exclusive,
            "timeline": planned.target.timeline,
            "place": planned.place,
            "seed": self.seed,
            "last_expected": _as_record(planned.before[-1]),
            "last_found": _as_record(next((c for c in reversed(canaries) if there.get(c.lsn)), None)),
            "next_expected": _as_record(planned.after[0]),
            "next_found": _as_record(next((c for c in canaries if there.get(c.lsn) is False), None)),
            "replayed": str(found.replayed) if found else None,
            "canaries": len(there),
            "ok": self.ok,
            "finding": self.finding or self.reason,
            "seconds": round(self.seconds, 3),
        }


def title_of(record: dict[str, Any]) -> str:
    """A target of a proof record in a few words, such as ``lsn 0/5000028 (exclusive) on timeline 1``."""
    side = "" if record["kind"] == "name" else f" ({'inclusive' if record['inclusive'] else 'exclusive'})"
    return f"{record['kind']} {record['value']}{side} on timeline {record['timeline']}"


def result_in_words(record: dict[str, Any]) -> str:
    """What came of a target of a proof record, in one line."""
    if record["finding"]:
        return str(record["finding"])
    last, following = record["last_found"], record["next_found"]
    timed = record["kind"] == "time"
    return f"{_named(last, timed)} is there, {_named(following, timed)} is not"


def _named(canary: dict[str, Any], timed: bool) -> str:
    of = f" of {canary['time']}" if timed else ""
    return f"transaction {canary['xid']}{of} at LSN {canary['lsn']}"


def _as_record(canary: CommitRecord | None) -> dict[str, Any] | None:
    if canary is None:
        return None
    time = canary.time.isoformat() if canary.time else None
    return {"lsn": str(canary.lsn), "xid": canary.xid, "time": time}


@dataclass
class Trial:
    """The trials of one copy.

    Args:
        scratch: of the copy.
        bin_directory: of its major version.
        role: that can read everything.
        owner: account of the server when we are root.
        timeout: seconds for each recovery.
        preload: libraries that recovery itself needs.
        seed: of the choice.
    """

    scratch: Scratch
    bin_directory: Path
    role: str
    owner: pwd.struct_passwd | None
    timeout: float
    preload: Sequence[str] = ()
    seed: int = 0
    results: list[TargetResult] = field(default_factory=list)

    def run(self, planned: Sequence[PlannedTarget]) -> None:
        """Recover to each target, in the order of WAL; after a recovery that failed no other is tried.

        Args:
            planned: from plan_targets.
        """
        stopped = ""
        if (
            self.scratch.log.exists() or self.scratch.killed_log.exists()
        ):  # the copy may be past its first targets
            stopped = "an earlier try of this drill has recovered the copy already"
        for target in planned:
            if stopped:
                self.results.append(TargetResult(target, self.seed, None, "", stopped))
                continue
            result = self._try(target)
            self.results.append(result)
            if result.found is None:
                stopped = "recovery to an earlier target came to no good end"

    def _try(self, planned: PlannedTarget) -> TargetResult:
        started = time.monotonic()
        said = length_of(self.scratch.log)
        replay, found, finding, reason = 0.0, None, "", ""
        try:
            with held(
                self.scratch,
                self.bin_directory,
                planned.target,
                self.role,
                self.owner,
                self.timeout,
                stop="immediate",
                preload=self.preload,
                closed=True,
            ) as dsn:
                replay = time.monotonic() - started
                found = _ask(dsn, planned)
                finding = difference(planned, found)
        except RecoveryFailed as error:
            finding = " ".join(str(error).split())
        except psycopg.Error as error:
            finding = f"the copy does not answer: {' '.join(str(error).split())}"
        if finding:
            reason = self._excuse(said)
        took = time.monotonic() - started
        return TargetResult(planned, self.seed, found, "" if reason else finding, reason, took, replay)

    def _excuse(self, said: int) -> str:
        """Why a copy was not held, when recovery is not to blame; from the server's log since then."""
        log = tail_of(self.scratch.log, said)
        if reason := shortage_in(log):
            return reason
        if REFUSED_TO_OPEN in log:
            return (
                "the copy could not be read there: a transaction with over 64 subtransactions ran from before "
                "the backup until then"
            )
        return ""


def _ask(dsn: str, planned: PlannedTarget) -> Found:
    with psycopg.connect(f"{dsn} dbname=template1", autocommit=True) as connection:
        row: Any = connection.execute(
            "SELECT pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp()"
        ).fetchone()
        committed = look_for(connection, (*planned.before, *planned.after))
        # a restartpoint, from which the next recovery goes on; so the server need not be shut down, which takes a
        # paused one up to a second
        connection.execute("CHECKPOINT")
    return Found(committed, LSN.parse(row[0] or "0/0"), row[1] and row[1].astimezone(UTC))


def difference(planned: PlannedTarget, found: Found) -> str:
    """How a target was missed, with what must be and what is there; empty when it was not missed.

    Args:
        planned: what must be there.
        found: what is there.
    """
    missing = [c for c in planned.before if found.committed.get(c.lsn) is False]
    extra = [c for c in planned.after if found.committed.get(c.lsn)]
    parts = []
    if missing:
        parts.append(_miss("too early", missing[0], len(missing), "must be there and is not"))
    if extra:
        parts.append(_miss("too late", extra[-1], len(extra), "must not be there and is"))
    if not parts and not planned.last.lsn < found.replayed <= planned.next_lsn:
        parts.append(
            f"WAL was replayed up to {found.replayed}, which is not between {planned.last.lsn} and "
            f"{planned.next_lsn}"
        )
    # recoveryStopsAfter stops at an LSN before it notes the time of the record there
    noted = planned.target.kind != "lsn" or planned.target.exclusive
    if not parts and noted and found.last_time not in (None, planned.last.time):
        parts.append(
            f"the last transaction that was replayed is of {found.last_time}; that of LSN {planned.last.lsn} "
            f"is of {planned.last.time}"
        )
    if not parts:
        return ""
    due = f"the last commit must be that of transaction {planned.before[-1].xid} at LSN {planned.before[-1].lsn}"
    return f"{'; '.join(parts)} ({due})"


def _miss(when: str, canary: CommitRecord, count: int, what: str) -> str:
    commits = "commit" if count == 1 else "commits"
    least = "at least " if count == CANARIES else ""
    return (
        f"recovery stopped {when}, by {least}{count} {commits}: transaction {canary.xid} at LSN {canary.lsn} of "
        f"{canary.time} {what}"
    )
