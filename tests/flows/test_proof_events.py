"""Events of proofs and targets: their payloads, and that the flows emit them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flows.restore_validation import restore_validation
from flows.wal_gap_check import wal_gap_check
from pgproof.backups.record import BackupRecord
from pgproof.backups.state import ProofAge
from tasks.events import CHECKED, CURRENT, Event
from tasks.events import WHOLE as NO_GAP
from tasks.proof_events import (
    FAILED,
    FRESH,
    MADE,
    RPO_BREACHED,
    RPO_MET,
    RTO_BREACHED,
    RTO_MET,
    STALE,
    age_events,
    proof_events,
    rpo_events,
)
from tasks.standing import BELOW, RECENT
from tests.flows.runs import Run, events_of, run, until
from tests.flows.test_events import WHOLE
from tests.servers.postgres import Source
from tests.validation.test_proof import UNEQUAL, proof
from tests.validation.values import AT

KEY = "main/1/proofs/x.json"


def named(events: list[Event]) -> dict[str, dict[str, Any]]:
    return {event.name: event.payload for event in events}


class TestPayloads:
    def test_a_proof_within_the_target(self) -> None:
        made = proof(rto_target=60)
        found = named(proof_events("main", made, KEY))
        assert found == {
            MADE: {
                "what": "backup 20261123T200000Z of cluster main is proven: 1 table with 3 rows are equal",
                "meaning": "it can be restored and is equal to the source",
                "command": "pgproof list main",
                "backup": "20261123T200000Z",
                "verdict": "proven",
                "summary": "1 table with 3 rows are equal",
                "proof": KEY,
                "tables": 1,
                "rows": 3,
                "not_checked": 2,
            },
            RTO_MET: {
                "what": "recovery of cluster main took 4.2 s for 1.2 MB and 79.7 MB of WAL",
                "meaning": "the target is 1 min: met",
                "command": "pgproof objectives main",
                "seconds": 4.25,
                "target_seconds": 60,
                "backup": "20261123T200000Z",
                "slowest_phase": "replay",
                "phases": made.phases,
            },
        }

    def test_a_backup_that_is_not_equal_and_too_slow(self) -> None:
        found = named(proof_events("main", proof(comparison=UNEQUAL, rto_target=4), KEY))
        assert list(found) == [FAILED, RTO_BREACHED]
        assert found[FAILED]["what"] == (
            "backup 20261123T200000Z of cluster main is not equal: shop: public.u: source has 3 rows, restored has 2"
        )
        assert found[FAILED]["meaning"] == (
            "a restore no longer chooses this backup by itself; older proven ones are kept"
        )
        assert found[RTO_BREACHED]["meaning"] == "the target is 4.0 s: a real recovery would miss it, too"

    def test_not_exact_accuses_nobody(self) -> None:
        (event,) = proof_events("main", proof(comparison=None, restored=None, rto_target=4), KEY)
        assert event.name == FAILED
        assert (
            event.payload["meaning"]
            == "this says nothing of the backup, and an older proof of it still holds"
        )
        assert event.payload["command"] == "pgproof drill main --backup 20261123T200000Z"

    def test_what_would_be_lost(self) -> None:
        ((met,), (breached,)) = (
            rpo_events("main", WHOLE),
            rpo_events("main", replace(WHOLE, rpo_seconds=301.0)),
        )
        assert (met.name, met.payload) == (
            RPO_MET,
            {
                "what": "at most 3.8 s of commits of cluster main would be lost if the source died now",
                "meaning": "the target is 5 min: met",
                "command": "pgproof objectives main",
                "seconds": 3.8,
                "target_seconds": 300,
                "newest_commit": "2026-11-23T13:00:00+00:00",
            },
        )
        assert breached.name == RPO_BREACHED
        assert breached.payload["meaning"] == "the target is 5 min: exceeded"
        assert breached.payload["command"] == "pgproof doctor main"
        (unknown,) = rpo_events("main", replace(WHOLE, rpo_seconds=None, doubts=("it is away",)))
        assert (unknown.name, unknown.payload["seconds"]) == (RPO_BREACHED, None)
        assert unknown.payload["meaning"] == "the target is 5 min: not met, because it is away"

    def test_a_proof_that_is_too_old(self) -> None:
        day = 86400.0
        (fresh,) = age_events("main", ProofAge("one", AT, 8 * day, 8 * day))
        assert (fresh.name, fresh.payload["what"]) == (FRESH, "the newest proof of cluster main is 8 d old")
        assert age_events("main", ProofAge("", None, 8 * day, 8 * day)) == []
        (event,) = age_events("main", ProofAge("one", AT, 9 * day, 8 * day))
        assert (event.name, event.payload) == (
            STALE,
            {
                "what": "the newest proof of cluster main is 9 d old",
                "meaning": "nobody has seen for over 8 d that a backup can be restored",
                "command": "pgproof drill main",
                "backup": "one",
                "proven_at": AT.isoformat(),
                "age_seconds": 9 * day,
                "limit_seconds": 8 * day,
            },
        )
        (event,) = age_events("main", ProofAge("", None, 9 * day, 8 * day))
        assert (
            event.payload["what"]
            == "no backup of cluster main is proven, and there have been backups for 9 d"
        )
        assert (event.payload["backup"], event.payload["proven_at"]) == (None, None)


@pytest.fixture(scope="module")
def backup(shop: Source) -> BackupRecord:
    return shop.backup()


@pytest.fixture(autouse=True)
def as_before(shop: Source) -> Iterator[None]:
    yield
    shop.write_config()


def events(done: Run, last: str) -> dict[str, dict[str, Any]]:
    """The payloads of the events of a run, each name once, when one that is emitted last has come."""
    wanted = f"prefect.flow-run.{done.flow_run.id}"

    def of_this_run() -> list[dict[str, Any]]:
        return [e for e in events_of("main") if wanted in {r["prefect.resource.id"] for r in e["related"]}]

    found = until(of_this_run, lambda seen: last in {event["event"] for event in seen})
    assert len({event["event"] for event in found}) == len(found)
    return {event["event"]: event["payload"] for event in found}


def test_nothing_is_proven_yet_and_then_it_is(shop: Source, config: str, backup: BackupRecord) -> None:
    """The gap check notices what no drill could tell: that there was none."""
    shop.write_config(cluster="drill.stale_after = 1")
    shop.sql("SELECT pg_sleep(1.1)")
    before = run(wal_gap_check, "main", config)
    shop.write_config()
    drilled = run(restore_validation, "main", config)
    after = run(wal_gap_check, "main", config)
    assert before.state.is_completed()  # it is told, and is no fault of the WAL
    assert before.attempts == {"check WAL archive": 1, "look at backups and storage": 1}
    seen = events(before, BELOW)
    assert set(seen) == {CHECKED, NO_GAP, CURRENT, RPO_MET, RECENT, STALE, BELOW}
    assert seen[STALE]["backup"] is None
    assert seen[STALE]["limit_seconds"] == 1
    made = events(drilled, RTO_MET)
    assert list(made) == [MADE, RTO_MET]
    assert made[MADE]["backup"] == backup.label
    assert made[MADE]["proof"] == drilled.state.result()
    assert made[RTO_MET]["target_seconds"] == 3600
    assert "; target 1 h, met |" in drilled.artifact("pgproof-main-proof")
    assert set(events(after, BELOW)) == {CHECKED, NO_GAP, CURRENT, RPO_MET, RECENT, FRESH, BELOW}


def test_targets_that_are_missed(shop: Source, config: str, backup: BackupRecord) -> None:
    shop.write_config(cluster="targets.rto = 0\ntargets.rpo = 0")
    drilled = run(restore_validation, "main", config)
    shop.sql("INSERT INTO orders VALUES (-1, 1)")  # in a segment that is not archived
    checked = run(wal_gap_check, "main", config)
    assert drilled.state.is_completed()  # it asks for a proof, and there is one
    found = events(drilled, RTO_BREACHED)
    assert list(found) == [MADE, RTO_BREACHED]
    assert found[RTO_BREACHED]["seconds"] > 0
    assert "; target 0.0 s, **MISSED** |" in drilled.artifact("pgproof-main-proof")
    assert checked.state.is_failed()  # more than the target would be lost
    assert RPO_BREACHED in events(checked, RPO_BREACHED)


def test_a_drill_that_failed(shop: Source, config: str, backup: BackupRecord) -> None:
    path = shop.repository_path / backup.volumes[0].object.key
    content, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(content[:-20])
    try:
        done = run(restore_validation, "main", config, backup=backup.label)
    finally:
        path.write_bytes(content)
        path.chmod(mode)
    found = events(done, FAILED)
    assert list(found) == [FAILED]  # nothing was recovered, so no recovery time was measured
    assert found[FAILED]["verdict"] == "not recovered"
    assert found[FAILED]["summary"].startswith(f'object "{backup.volumes[0].object.key}" is damaged DETAIL: ')
