"""The records of a drill: what they say, that they come back as they were stored, and the verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.catalog import NOT_EQUAL, NOT_EXACT, NOT_RECOVERED, PROVEN
from pgproof.errors import NotProven, ObjectDamaged, ObjectMissing, RecoveryFailed, WalGap
from pgproof.validation.as_restored import WHAT, AsRestored
from pgproof.validation.catalogs.object_comparison import ObjectComparison
from pgproof.validation.comparison import MISSING, Comparison, TableComparison, compare_database
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.evidence import store_evidence
from pgproof.validation.expectations.suites import ExpectationOutcome
from pgproof.validation.fences.fence import (
    NEVER_CHECKED,
    Fence,
    NotChecked,
    TableContent,
    read_fence,
    write_fence,
)
from pgproof.validation.fences.fingerprint import Fingerprint
from pgproof.validation.proof import AS_RESTORED, IN_ISOLATION, Proof, read_proof, write_proof
from pgproof.validation.scratch import Scratch
from pgproof.validation.speeds import RESTORING, recovery_seconds
from tests.validation.values import AT, SYSTEM, archive, compared, comparison, content, database, fence

RESTORED = Restored(
    Scratch(Path("/nowhere")),
    "20261123T200000Z",
    3,
    ("000000030000000000000004", "000000030000000000000006", 3),
    1234567,
    {
        "extract": 1.5,
        "verify": 0.25,
        "fetch": 0.5,
        "start": 0.25,
        "replay": 2.0,
        "count": 2.0,
        "compare": 7.0,
    },
    software={"restored": "PostgreSQL 17.10"},
)


def proof(**changes: Any) -> Proof:
    values: dict[str, Any] = {"restored": RESTORED, "comparison": comparison()} | changes
    return make_proof(
        archive("proofs"), values.pop("fence", fence()), "20261123T200000Z", lambda: AT, **values
    )


# ---- invariant 7


def test_invariant_7_a_proof_names_backup_wal_cut_and_what_was_not_checked() -> None:
    slow = NotChecked("shop", "public.slow", "in the copy: it took too long")
    found = proof(comparison=comparison(not_checked=(slow,)))
    assert found.identifier == "20261123T212715112664Z-20261123T200000Z"
    assert (found.cluster, found.system_identifier, found.at) == ("main", SYSTEM, AT)
    assert found.backup == "20261123T200000Z"
    assert found.fence == "20261123T212715112664Z"
    assert (found.timeline, found.wal) == (3, ("000000030000000000000004", "000000030000000000000006", 3))
    assert found.cuts == {"shop": "0/5000028"}
    assert found.not_checked == (NotChecked("shop", "public.lost", "unlogged"), slow, NEVER_CHECKED)
    assert found.rto_seconds == 4.25  # extract, fetch, start and replay
    assert found.phases == {"fence": 0.25, **RESTORED.phases}
    assert found.wal_bytes == 0x5000028 - 0x400000
    assert found.bytes_per_second == {
        "extract": 823044.7,
        "verify": 4938268.0,
        "fetch": 159383632.0,
        "replay": 39845908.0,
    }
    assert found.rows_per_second == {"source": 112.0, "copy": 1.5}
    assert found.restored_bytes == 1234567
    assert found.rows == 3
    assert list(found.software) == ["pgproof", "postgresql", "restored", "platform"]
    assert found.software["postgresql"] == found.software["restored"] == "PostgreSQL 17.10"
    assert found.tables == (
        {
            "database": "shop",
            "table": "public.t",
            "source_rows": 3,
            "restored_rows": 3,
            "source_hash": "11",
            "restored_hash": "11",
            "sampled": False,
            "note": "",
            "equal": True,
        },
    )


def test_a_drill_that_ended_early_names_what_it_knows() -> None:
    found = proof(restored=None, comparison=None, failure=WalGap('WAL segment "X" is missing', "Detail."))
    assert (found.verdict, found.summary) == (NOT_RECOVERED, 'WAL segment "X" is missing DETAIL: Detail.')
    assert (found.wal, found.tables, found.restored_bytes, found.rto_seconds) == (("", "", 0), (), 0, 0)
    assert (found.phases, found.wal_bytes, found.bytes_per_second) == ({"fence": 0.25}, 0, {})
    assert (found.recovered, found.rto_met) == (False, None)
    assert not found.proven
    assert found.not_checked == (NotChecked("shop", "public.lost", "unlogged"), NEVER_CHECKED)


def test_a_copy_that_came_to_no_cut_measured_no_recovery_time() -> None:
    stopped = replace(RESTORED, phases={"extract": 1.5, "fetch": 0.5})
    found = proof(restored=stopped, comparison=None, failure=RecoveryFailed("it ended"), rto_target=60)
    assert (found.rto_seconds, found.rto_met) == (0, None)
    assert found.bytes_per_second == {"extract": 823044.7, "fetch": 159383632.0}


@pytest.mark.parametrize(("target", "met"), [(None, None), (4.25, True), (4.2, False), (3600, True)])
def test_the_target_of_the_recovery_time(target: float | None, met: bool | None) -> None:
    assert proof(rto_target=target).rto_met is met


def test_combining_is_part_of_a_recovery() -> None:
    found = proof(restored=replace(RESTORED, phases={**RESTORED.phases, "combine": 2.0}))
    assert found.rto_seconds == 6.25
    assert found.bytes_per_second["combine"] == 617283.5


# ---- verdicts

UNEQUAL = comparison(compared(), compared("public.u", 3, 2))
VERDICTS = [
    ({}, PROVEN, "1 table with 3 rows are equal"),
    ({"expectations": {"success": True}}, PROVEN, "1 table with 3 rows are equal"),
    ({"comparison": UNEQUAL}, NOT_EQUAL, "shop: public.u: source has 3 rows, restored has 2"),
    (
        {"expectations": {"success": False, "summary": "6 of 7 met; x"}},
        NOT_EQUAL,
        "expectations failed: 6 of 7 met; x",
    ),
    (
        {"comparison": UNEQUAL, "expectations": {"success": False, "summary": "x"}},
        NOT_EQUAL,
        "shop: public.u: source has 3 rows, restored has 2",
    ),
    ({"failure": RecoveryFailed("it ended", "Log.")}, NOT_RECOVERED, "it ended DETAIL: Log."),
    ({"failure": ObjectDamaged("object damaged")}, NOT_RECOVERED, "object damaged"),
    ({"failure": NotProven("transaction 7 is committed")}, NOT_EXACT, "transaction 7 is committed"),
    ({"comparison": None}, NOT_EXACT, "nothing was compared"),
    (
        {"comparison": Comparison(())},
        NOT_EXACT,
        "nothing was compared: shop: public.lost: unlogged",
    ),
    (
        {"fence": fence(database("shop", "0/5000028", content("t")), database("other", None))},
        NOT_EXACT,
        "other: no commit after the fence",
    ),
    (
        {"fence": fence(database("other", None)), "failure": RecoveryFailed("it ended")},
        NOT_EXACT,
        "other: no commit after the fence",
    ),
]


@pytest.mark.parametrize(("values", "verdict", "summary"), VERDICTS, ids=range(len(VERDICTS)))
def test_verdict(values: dict[str, Any], verdict: str, summary: str) -> None:
    found = proof(**values)
    assert (found.verdict, found.summary) == (verdict, summary)
    assert found.proven == (verdict == PROVEN)


# ---- round trips


def as_stored(tree: dict[str, Any]) -> Any:
    return json.loads(json.dumps(tree, ensure_ascii=False))


@pytest.mark.parametrize(
    "value",
    [
        fence(),
        fence(database("shop", None)),
        fence(database('O\'Neill \\ "db" ü', "0/1", content('a "b".c%s', 1 << 53, "9" * 30)), database()),
        replace(fence(), software={}, not_checked=()),
    ],
    ids=range(4),
)
def test_a_fence_comes_back_as_it_was_stored(value: Fence) -> None:
    assert Fence.from_dict(as_stored(value.as_dict())) == value
    stored = archive("fences")
    key = f"fences-{id(value)}"
    write_fence(stored, replace(value, identifier=key))
    assert read_fence(stored, key) == replace(value, identifier=key)


def test_a_proof_comes_back_as_it_was_stored() -> None:
    stored = archive("proofs")
    for found in (proof(), proof(comparison=UNEQUAL), proof(expectations={"success": True, "suites": {}})):
        assert Proof.from_dict(as_stored(found.as_dict())) == found
        found = replace(found, identifier=f"proof-{id(found)}")
        assert write_proof(stored, found) == f"main/{SYSTEM}/proofs/{found.identifier}.json"
        assert read_proof(stored, found.identifier) == found


def test_system_identifiers_are_text_in_json() -> None:
    """A JSON number loses digits beyond 2^53 in many readers."""
    assert as_stored(fence().as_dict())["system_identifier"] == str(SYSTEM)
    assert as_stored(proof().as_dict())["system_identifier"] == str(SYSTEM)


def test_what_is_not_there() -> None:
    with pytest.raises(ObjectMissing) as caught:
        read_fence(archive("empty"), "20260101T000000Z")
    assert caught.value.fact == 'fence "20260101T000000Z" does not exist'
    with pytest.raises(ObjectMissing) as caught:
        read_proof(archive("empty"), "20260101T000000Z")
    assert caught.value.fact == 'proof "20260101T000000Z" does not exist'


BAD_VALUES = [
    {"at": "yesterday"},
    {"at": 7},
    {"at": None},
    {"not_checked": [{"database": "x"}]},
    {"not_checked": 5},
    {"system_identifier": "x"},
    {"surprise": 1},
]
BAD_FENCES = [
    *BAD_VALUES,
    {"end_lsn": "0-1"},
    {"end_lsn": 17},
    {"databases": None},
    {"databases": [None]},
    {"databases": [{"database": "x"}]},
    {"databases": [as_stored(fence().as_dict())["databases"][0] | {"cut": "x"}]},
    {"databases": [as_stored(fence().as_dict())["databases"][0] | {"cut": 5}]},
    {"databases": [as_stored(fence().as_dict())["databases"][0] | {"snapshot": "1:2"}]},
    {"databases": [as_stored(fence().as_dict())["databases"][0] | {"tables": [{}]}]},
]


@pytest.mark.parametrize("bad", BAD_FENCES, ids=range(len(BAD_FENCES)))
def test_fence_bad(bad: dict[str, Any]) -> None:
    with pytest.raises(ObjectDamaged) as caught:
        Fence.from_dict(as_stored(fence().as_dict()) | bad)
    assert caught.value.fact == 'fence "20261123T212715112664Z" cannot be read'


@pytest.mark.parametrize("bad", [*BAD_VALUES, {"tables": 5}, {"wal": None}], ids=range(len(BAD_VALUES) + 2))
def test_proof_bad(bad: dict[str, Any]) -> None:
    found = proof()
    with pytest.raises(ObjectDamaged) as caught:
        Proof.from_dict(as_stored(found.as_dict()) | bad)
    assert caught.value.fact == f'proof "{found.identifier}" cannot be read'


@pytest.mark.parametrize("tree", [None, [], "text", 7, {}])
def test_a_record_that_is_no_record(tree: Any) -> None:
    for read in (Fence.from_dict, Proof.from_dict):
        with pytest.raises(ObjectDamaged) as caught:
            read(tree)
        assert caught.value.fact.endswith('"?" cannot be read')


def test_the_results_are_stored_before_the_proof_that_names_them() -> None:
    stored = archive("evidence")
    found = proof()
    outcome = ExpectationOutcome(True, "7 of 7 expectations met", {}, {"suite": {"success": True}})
    found, key = store_evidence(stored, found, outcome)
    base = f"main/{SYSTEM}/proofs/{found.identifier}"
    names = [f"{name}.parquet" for name in ("tables", "objects", "differences", "checks", "cuts", "targets")]
    assert [item.key for item in found.evidence] == [
        *(f"{base}/{name}" for name in names),
        f"{base}/great_expectations.json.zst",
    ]
    keys = [info.key for info in stored.store.list(stored.layout.proofs)]
    assert sorted(keys) == sorted([key, *(item.key for item in found.evidence)])
    results = b"".join(stored.open_checked(found.evidence[-1]))
    assert json.loads(results) == {"suite": {"success": True}}
    assert Proof.from_dict(stored.read_json(key)) == found
    assert "results" not in outcome.as_dict()


# ---- comparisons

DIFFERENCES = [
    (compared(), ""),
    (compared("t", 0, 0), ""),
    (compared("t", 3, 2), "source has 3 rows, restored has 2"),
    (compared("t", 3, MISSING), "missing from the restored cluster; the source has 3 rows"),
    (compared("t", MISSING, 0), "not in the source; the restored cluster has 0 rows"),
    (TableComparison("d", "t", 3, 3, "11", "12"), "3 rows each, but hash 11 became 12"),
    (compared("t", 3, 3, "columns a became b"), "columns a became b"),
    (compared("t", 3, 2, "columns a became b"), "columns a became b; source has 3 rows, restored has 2"),
    (
        compared("t", 3, MISSING, "cannot be read in the restored cluster: x"),
        "cannot be read in the restored cluster: x; the source has 3 rows",
    ),
    (compared("t", MISSING, MISSING, "cannot be read"), "cannot be read"),
]


@pytest.mark.parametrize(("table", "difference"), DIFFERENCES, ids=range(len(DIFFERENCES)))
def test_a_difference_in_words(table: TableComparison, difference: str) -> None:
    assert table.equal == (difference == "")
    assert table.difference() == difference


def test_a_summary_names_the_first_difference() -> None:
    assert comparison(compared(), compared("public.u")).summary() == "2 tables with 6 rows are equal"
    assert comparison(compared("a", 1, 2), compared("b", 1, 3)).summary() == (
        "shop: a: source has 1 rows, restored has 2 (and 1 more tables)"
    )
    assert Comparison(()).summary() == "nothing was compared"
    objects = (ObjectComparison("(cluster)", "roles", 20, 20),)
    assert Comparison((), objects=objects).summary() == "no tables, and 20 rows of system catalogs are equal"


def test_every_table_of_either_side_is_a_row() -> None:
    source = database("shop", "0/1", content("both"), content("lost"), content("damaged"))
    restored = [content("both"), content("surplus", 1), content("damaged", 0, "")]
    found = compare_database(source, restored, {"public.damaged": "invalid page"})
    assert {table.table: table.difference() for table in found} == {
        "public.both": "",
        "public.damaged": "cannot be read in the restored cluster: invalid page; the source has 3 rows",
        "public.lost": "missing from the restored cluster; the source has 3 rows",
        "public.surplus": "not in the source; the restored cluster has 1 rows",
    }


def test_columns_are_compared_by_name_and_order() -> None:
    source = database("shop", "0/1", content("t"))
    (found,) = compare_database(source, [replace(content("t"), columns=("ü", "id"))])
    assert found.difference() == "columns id, ü became ü, id"


def test_tables_whose_names_have_dots_are_not_confused() -> None:
    one = TableContent("a.b", "c", (), Fingerprint(1, "1"))
    two = TableContent("a", "b.c", (), Fingerprint(2, "2"))
    found = compare_database(database("shop", "0/1", one, two), [two, one])
    assert {table.table: table.equal for table in found} == {'"a.b".c': True, 'a."b.c"': True}
    found = compare_database(database("shop", "0/1", one, two), [one])
    assert [table.table for table in found if not table.equal] == ['a."b.c"']


# ---- a restore as a user is told to make it

BY_A_USER = AsRestored(phases={"extract": 2.0, "start": 0.5, "replay": 1.5}, seconds=4.5)


def test_the_recovery_time_is_that_of_a_user_where_it_was_measured() -> None:
    found = proof(as_restored=BY_A_USER, rto_target=3600)
    assert (found.rto_seconds, found.rto_way, found.verdict) == (4.0, AS_RESTORED, PROVEN)
    assert "fetch" not in found.phases
    copied = recovery_seconds(RESTORED.phases)
    assert found.phases == {
        "fence": 0.25,
        **BY_A_USER.phases,
        "copy": copied,
        **{name: s for name, s in RESTORED.phases.items() if name not in RESTORING},
    }
    assert Proof.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_a_restore_that_fails_for_a_user_counts_no_time_and_leaves_the_verdict() -> None:
    found = proof(as_restored=AsRestored(("it ended",), seconds=1.5), rto_target=3600)
    assert (found.verdict, found.proven, found.restore_findings) == (PROVEN, True, ("it ended",))
    assert (found.rto_seconds, found.recovered, found.rto_met) == (0.0, False, None)
    assert found.phases == {"fence": 0.25, "tried": 1.5, **RESTORED.phases}


def test_what_could_not_be_tried_is_not_checked_and_the_copy_is_measured() -> None:
    found = proof(as_restored=AsRestored(not_checked=("no room",)))
    assert NotChecked("every database", WHAT, "no room") in found.not_checked
    assert (found.rto_seconds, found.rto_way) == (4.25, IN_ISOLATION)
    assert not found.tried_as_restored
    skipped = proof(as_restored=AsRestored(skipped="drill.as_restored is 0"))
    assert skipped.phases == {"fence": 0.25, **RESTORED.phases}
    assert proof(as_restored=BY_A_USER).tried_as_restored
