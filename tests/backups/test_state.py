"""States of backups: what drills and verifications make of them, how they become stale, and who relies on them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest

from pgproof.backups.catalog import CHAIN, VERIFICATION, BackupEntry, Catalog, read_catalog
from pgproof.backups.state import RECORD, ProofAge, State, missing_wal, proof_age, state_of
from pgproof.backups.verification import Verification, read_verification, write_verification
from pgproof.config import RepositoryConfig
from pgproof.repository.lease import hold_lease
from pgproof.repository.repository import Archive, create_repository
from pgproof.restore.cautions import cautions, stale_proof
from pgproof.retention.expire import expire, gather_facts
from pgproof.retention.plan import plan_expire
from pgproof.retention.unread import with_unread_held
from tests.retention.archives import (
    LAYOUT,
    NOON,
    SYSTEM,
    entry,
    facts,
    policy,
    store_backup,
    store_proof,
    wal,
)

DAY = 86400.0
LIMIT = 8 * DAY
_numbers = count()


@pytest.fixture
def archive() -> Archive:
    """An archive with the backups one, two (which builds on one) and three, a day apart."""
    made = create_repository(RepositoryConfig(url=f"memory://states-{next(_numbers)}"))
    archive = made.archive(LAYOUT.cluster, SYSTEM)
    for known in (
        entry("one", NOON, 3),
        entry("two", NOON + timedelta(days=1), 5, parent="one"),
        entry("three", NOON + timedelta(days=2), 7, last=8),
    ):
        store_backup(archive, known)
    return archive


def after(days: float) -> datetime:
    return NOON + timedelta(days=days)


def state(archive: Archive, label: str, days: float = 2.5) -> State:
    found = read_catalog(archive).entry(label)
    return state_of(found, after(days), LIMIT)


def verified(archive: Archive, label: str, days: float, fault: str = "") -> None:
    write_verification(archive, Verification(label, after(days), not fault, 0 if fault else 7, fault=fault))


class TestWhatIsKnown:
    def test_complete_then_verified_then_proven(self, archive: Archive) -> None:
        assert state(archive, "one") == State("complete", NOON, RECORD)
        verified(archive, "one", 0.5)
        assert state(archive, "one") == State("verified", after(0.5), VERIFICATION)
        store_proof(archive, "one", after(1), "proven")
        assert state(archive, "one") == State("proven", after(1), "")
        assert read_catalog(archive).entry("one").verified_at == after(0.5)

    @pytest.mark.parametrize("verdict", ["not equal", "not sound", "not recovered"])
    def test_a_failed_drill_ends_a_proof_and_a_verification_does_not_undo_it(
        self, archive: Archive, verdict: str
    ) -> None:
        store_proof(archive, "one", after(1), "proven")
        store_proof(archive, "one", after(2), verdict)
        verified(archive, "one", 2.2)
        failed = State("failed", after(2), "", reason="its last drill failed: 2 tables differ")
        assert state(archive, "one") == failed
        store_proof(archive, "one", after(2.4), "proven")
        assert state(archive, "one").name == "proven"

    def test_not_exact_says_nothing_of_the_backup(self, archive: Archive) -> None:
        store_proof(archive, "one", after(1), "proven")
        store_proof(archive, "one", after(2), "not exact")
        assert state(archive, "one") == State("proven", after(1), "")

    def test_a_newer_failed_verification_ends_a_proof_and_an_older_one_does_not(
        self, archive: Archive
    ) -> None:
        store_proof(archive, "three", after(2.2), "proven")
        verified(archive, "three", 2.1, "an object is missing")
        assert state(archive, "three").name == "proven"
        verified(archive, "three", 2.3, "an object is missing")
        reason = "its verification failed: an object is missing"
        assert state(archive, "three") == State("failed", after(2.3), VERIFICATION, reason=reason)
        verified(archive, "three", 2.4)  # it was put back
        assert state(archive, "three").name == "proven"

    def test_what_builds_on_damaged_bytes_has_failed_with_them(self, archive: Archive) -> None:
        store_proof(archive, "two", after(1.5), "proven")
        verified(archive, "one", 2, "an object is missing")
        reason = "its verification failed: it builds on one: an object is missing"
        assert state(archive, "two") == State("failed", after(2), VERIFICATION, reason=reason)
        assert state(archive, "three").name == "complete"
        store_proof(archive, "two", after(2.2), "proven")  # it was put back, and this drill read it
        assert state(archive, "two").name == "proven"

    def test_what_builds_on_a_backup_that_failed_its_drill_has_failed_until_it_is_proven(
        self, archive: Archive
    ) -> None:
        store_proof(archive, "one", after(2), "not equal")
        reason = "its chain failed: it builds on one: 2 tables differ"
        assert state(archive, "two") == State("failed", after(2), CHAIN, reason=reason)
        store_proof(archive, "two", after(1.5), "proven")  # before, of other WAL
        assert state(archive, "two").name == "proven"

    def test_wal_that_is_gone(self, archive: Archive) -> None:
        records = [found.record for found in read_catalog(archive).entries]
        for info in wal(1, [3, 8]):
            archive.store.put(info.key, b"segment")
        lacking = missing_wal(archive, records)
        assert lacking == {
            "two": "WAL segment 000000010000000000000005 of its own is not in the archive",
            "three": "WAL segment 000000010000000000000007 of its own is not in the archive",
        }
        store_proof(archive, "two", after(2), "proven")
        found = state_of(read_catalog(archive).entry("two"), after(2.5), LIMIT, lacking["two"])
        assert found == State("taken", after(1), RECORD, reason=lacking["two"])

    def test_proofs_of_backups_that_have_expired_are_not_read(self, archive: Archive) -> None:
        """They are never removed, and after years there are thousands of them."""
        store_proof(archive, "one", after(1), "proven")
        for name in ("20251101T000000Z-gone", "20251102T000000Z-barman-gone"):
            archive.store.put(f"{LAYOUT.proofs}{name}.json", b"not even JSON")
        assert read_catalog(archive).entry("one").state == "proven"
        for name in ("20251101T000000Z-barman-one", "renamed"):
            key = f"{LAYOUT.proofs}{name}.json"
            archive.store.put(key, b"not even JSON")
            assert [unread for unread, _ in read_catalog(archive).unread] == [key]
            archive.store.delete(key)


class TestStale:
    def test_a_proof_and_a_verification_become_stale_and_a_record_does_not(self, archive: Archive) -> None:
        store_proof(archive, "one", after(1), "proven")
        verified(archive, "three", 3)
        assert not state(archive, "one", 9).stale
        assert state(archive, "one", 9.001) == State("proven", after(1), "", stale=True)
        assert not state(archive, "three", 11).stale
        assert state(archive, "three", 11.001) == State("verified", after(3), VERIFICATION, stale=True)
        assert not state(archive, "two", 999).stale

    def test_a_clock_that_was_set_back_makes_nothing_stale(self, archive: Archive) -> None:
        store_proof(archive, "one", after(5), "proven")
        assert not state(archive, "one", 1).stale
        assert proof_age(read_catalog(archive), after(1), LIMIT).seconds == 0

    def test_the_newest_proof_counts_and_one_that_failed_since_does_not(self, archive: Archive) -> None:
        store_proof(archive, "one", after(3), "proven")
        store_proof(archive, "three", after(4), "proven")
        assert proof_age(read_catalog(archive), after(5), LIMIT) == ProofAge("three", after(4), DAY, LIMIT)
        store_proof(archive, "three", after(6), "not equal")
        found = proof_age(read_catalog(archive), after(12), LIMIT)
        assert (found.label, found.at, found.stale) == ("one", after(3), True)
        assert found.failed == "backup three failed its last drill: 2 tables differ"

    def test_while_nothing_is_proven_the_oldest_backup_tells_for_how_long(self, archive: Archive) -> None:
        catalog = read_catalog(archive)
        assert proof_age(catalog, after(8), LIMIT) == ProofAge("", None, 8 * DAY, LIMIT)
        assert not proof_age(catalog, after(8), LIMIT).stale
        assert proof_age(catalog, after(8.1), LIMIT).stale
        assert proof_age(Catalog(()), after(999), LIMIT) == ProofAge("", None, 0.0, LIMIT)


class TestWhoRelies:
    def test_a_stale_proof_protects_from_expiry_and_a_failed_verification_does_not_count_as_proof(
        self,
    ) -> None:
        """Retention never looks at the age of a proof: there is no better one."""
        old = entry("old", NOON, 3, proven=True)
        proven = entry("proven", NOON + timedelta(days=1), 5, proven=True)
        newest = entry("newest", NOON + timedelta(days=99), 9)
        plan = plan_expire(facts([old, proven, newest], now=after(100), daily=1))
        assert plan.kept == ("proven", "newest")
        failed = BackupEntry(
            proven.record, proven.proven_at, "an object is missing", None, None, after(99), VERIFICATION
        )
        plan = plan_expire(facts([old, failed, newest], now=after(100), daily=1))
        assert plan.kept == ("old", "newest")
        (verdict,) = plan.expired
        assert verdict.reasons[-1] == "failed its verification: an object is missing"

    def test_a_restore_says_what_it_is_not_sure_of(self, archive: Archive) -> None:
        store_proof(archive, "two", after(1.5), "proven")
        store_proof(archive, "one", after(2), "not recovered")
        catalog = read_catalog(archive)
        assert cautions(catalog.entry("two"), catalog, archives=True) == (
            "it builds on backup one, which failed its last drill: 2 tables differ",
        )
        assert stale_proof(catalog.entry("two"), after(9), LIMIT) == ()
        assert stale_proof(catalog.entry("two"), after(13.5), LIMIT) == (
            "backup two was proven 12 days ago, on 2026-11-25; that proof is stale",
        )
        verified(archive, "one", 3, "an object is missing")
        catalog = read_catalog(archive)
        assert cautions(catalog.entry("two"), catalog, archives=True)[0] == (
            "the verification of backup two failed: it builds on one: an object is missing"
        )


class TestTheRecord:
    def test_it_comes_back_as_it_was_stored_and_is_replaced(self, archive: Archive) -> None:
        first = Verification("one", after(1), True, 7, 1234)
        write_verification(archive, first)
        assert read_verification(archive, "one") == first
        second = Verification("one", after(2), False, fault="an object is missing")
        write_verification(archive, second)
        assert read_verification(archive, "one") == second
        assert read_verification(archive, "two") is None

    def test_a_field_of_a_later_version_is_left_out(self, archive: Archive) -> None:
        tree = Verification("one", after(1), True, 7, 1234).as_dict() | {"later": 1}
        archive.write_json(LAYOUT.verification("one"), tree)
        assert read_verification(archive, "one") == Verification("one", after(1), True, 7, 1234)

    @pytest.mark.parametrize(
        "bad",
        [
            {"at": "yesterday"},
            {"at": "2026-11-23T12:00:00"},
            {"ok": 1},
            {"ok": False},
            {"fault": "x"},
            {"label": "two"},
            {"objects": None},
            {"software": 5},
        ],
        ids=range(8),
    )
    def test_bad(self, archive: Archive, bad: dict[str, Any]) -> None:
        """It may hide a failure, so nothing may expire on its account; a restore goes on without it."""
        tree = Verification("one", after(1), True, 7, 1234).as_dict() | bad
        archive.store.put(LAYOUT.verification("one"), json.dumps(tree).encode())
        found = read_catalog(archive)
        assert [key for key, _ in found.unread] == [LAYOUT.verification("one")]
        assert found.entry("one").state == "complete"
        kept = with_unread_held(found, LAYOUT).entry("one")
        assert (kept.state, kept.hold is not None) == ("failed", True)

    def test_it_goes_with_its_backup(self, archive: Archive) -> None:
        verified(archive, "one", 1)
        store_proof(archive, "three", after(2.1), "proven")
        limits = policy(daily=1)
        plan = plan_expire(gather_facts(archive, limits, after(50)))
        assert plan.remove_backups == ("two", "one")
        with hold_lease(archive.store, LAYOUT.lease, "expire") as lease:
            expire(archive, plan, lease)
        assert read_verification(archive, "one") is None
        assert list(archive.store.list(LAYOUT.backup("one"))) == []

    def test_what_a_race_with_expire_leaves_is_torn_and_no_backup(self, archive: Archive) -> None:
        verified(archive, "gone", 1)
        found = read_catalog(archive)
        assert found.torn == ("gone",)
        assert [known.label for known in found.entries] == ["one", "two", "three"]
