"""The proof record: what it names, and how its verdict comes about."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgproof.backups.catalog import NOT_EQUAL, NOT_EXACT, NOT_RECOVERED, PROVEN
from pgproof.config import RepositoryConfig
from pgproof.errors import ObjectDamaged, RecoveryFailed
from pgproof.repository.repository import Archive, create_repository
from pgproof.validation.comparison import Comparison, TableComparison
from pgproof.validation.cut import Snapshot
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.evidence import store_evidence
from pgproof.validation.fence import NEVER_CHECKED, DatabaseFence, Fence, NotChecked
from pgproof.validation.proof import Proof, read_proof
from pgproof.validation.scratch import Scratch
from pgproof.wal.lsn import LSN

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
UNLOGGED = NotChecked("shop", "public.cache", "unlogged: it comes back empty after recovery")
EQUAL = Comparison((TableComparison("shop", "public.orders", 5, 5, "17", "17"),))
DIFFERENT = Comparison((TableComparison("shop", "public.orders", 5, 4, "17", "16"),))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    repository = create_repository(RepositoryConfig(url=f"file://{tmp_path}/repository"))
    return repository.archive("main", 7711489348342484992)


@pytest.fixture
def fence(archive: Archive) -> Fence:
    database = DatabaseFence("shop", Snapshot(10, 12, frozenset({11})), LSN.parse("0/5000028"), "")
    return Fence(
        "20261123T120000000000Z",
        "main",
        archive.system_identifier,
        NOON,
        1,
        170010,
        16 << 20,
        LSN.parse("0/5000100"),
        "postgres",
        (database,),
        (UNLOGGED,),
    )


def restored(tmp_path: Path) -> Restored:
    wal = ("000000010000000000000004", "000000010000000000000005", 2)
    return Restored(
        Scratch(tmp_path),
        "20261123T110000Z-full",
        1,
        wal,
        1000,
        {"extract": 1.0, "fetch": 0.5, "replay": 0.25},
    )


def proof_of(archive: Archive, fence: Fence, **rest: object) -> Proof:
    return make_proof(archive, fence, "20261123T110000Z-full", lambda: NOON, **rest)  # type: ignore[arg-type]


def test_invariant_7_a_proof_names_backup_wal_cut_and_what_was_not_checked(
    archive: Archive, fence: Fence, tmp_path: Path
) -> None:
    proof = proof_of(archive, fence, restored=restored(tmp_path), comparison=EQUAL)
    key = store_evidence(archive, proof, None)
    stored = json.loads((tmp_path / "repository" / key).read_text())
    assert stored["backup"] == "20261123T110000Z-full"
    assert stored["wal"] == ["000000010000000000000004", "000000010000000000000005", 2]
    assert stored["cuts"] == {"shop": "0/5000028"}
    assert [item["what"] for item in stored["not_checked"]] == ["public.cache", NEVER_CHECKED.what]
    assert stored["system_identifier"] == "7711489348342484992"
    assert stored["rto_seconds"] == 1.75
    assert read_proof(archive, proof.identifier) == proof


@pytest.mark.parametrize(
    ("rest", "verdict", "summary"),
    [
        ({"comparison": EQUAL}, PROVEN, "1 table with 5 rows are equal"),
        (
            {"comparison": DIFFERENT},
            NOT_EQUAL,
            "shop: public.orders: source has 5 rows, restored has 4",
        ),
        ({"comparison": Comparison(())}, NOT_EXACT, "nothing was compared"),
        ({}, NOT_EXACT, "nothing was compared"),
        ({"failure": RecoveryFailed("it ended", "Early.")}, NOT_RECOVERED, "it ended DETAIL: Early."),
        (
            {"comparison": EQUAL, "expectations": {"success": False, "summary": "6 of 7 met"}},
            NOT_EQUAL,
            "expectations failed: 6 of 7 met",
        ),
    ],
)
def test_verdict(archive: Archive, fence: Fence, rest: dict[str, object], verdict: str, summary: str) -> None:
    proof = proof_of(archive, fence, **rest)
    assert (proof.verdict, proof.summary) == (verdict, summary)


def test_without_an_exact_cut_nothing_is_proven(archive: Archive, fence: Fence) -> None:
    inexact = replace(fence, databases=(replace(fence.databases[0], cut=None, reason="no commit came"),))
    proof = proof_of(archive, inexact, comparison=EQUAL)
    assert (proof.verdict, proof.summary) == (NOT_EXACT, "shop: no commit came")


@pytest.mark.parametrize("missing", ["backup", "at", "not_checked", "wal", "system_identifier"])
def test_a_record_without_a_field_is_damaged(archive: Archive, fence: Fence, missing: str) -> None:
    tree = proof_of(archive, fence, comparison=EQUAL).as_dict()
    del tree[missing]
    with pytest.raises(ObjectDamaged):
        Proof.from_dict(tree)
