"""Damage that no table's hash shows: each kind is found by a check, named and located, and the drill proves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.commands import drill as command
from pgproof.errors import DestinationRefused
from pgproof.validation.checks import amcheck
from pgproof.validation.checks.page_checksums import OFF
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import Restored
from pgproof.validation.proof import Proof, read_proof
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import fence_of, restored_copy

pytestmark = pytest.mark.usefixtures("plain")

Damage = Callable[[Path], None]
PAGE = 8192


@pytest.fixture(scope="module", params=[15, 17, 18])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """15 and 17 without page checksums, which are off there unless asked for; 18 with them."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as made:
        made.sql(
            "CREATE TABLE orders AS SELECT g AS id, 'order-' || g AS note FROM generate_series(1, 1000) g"
        )
        made.sql(
            "CREATE UNIQUE INDEX orders_id ON orders (id); CREATE INDEX orders_brin ON orders USING brin (id)"
        )
        made.sql("VACUUM FREEZE")
        made.sql("CHECKPOINT")
        made.backup()
        yield made


def configure(source: Source, *checks: str, extra: str = "") -> None:
    """These checks, and no recovery target, which starts another server and has tests of its own."""
    source.write_config(cluster=f"drill.checks = {json.dumps(checks)}\ndrill.targets = 0", extra=extra)


def drill(
    source: Source, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Restored], None] | None = None
) -> Proof:
    """The proof of a drill whose copy is damaged before it is recovered."""
    restore = command.restore_scratch

    def damaged(*words: Any) -> Restored:
        restored = restore(*words)
        if damage is not None:
            damage(restored)
        return restored

    monkeypatch.setattr(command, "restore_scratch", damaged)
    code, out, err = answer(source, "drill", "main", "--json")
    assert err == ""
    proof = read_proof(source.archive, json.loads(out)["identifier"])
    assert code == (0 if proof.proven else 1)
    assert list((source.root / "scratch").iterdir()) == []
    return proof


def results(proof: Proof) -> dict[str, Any]:
    return {check["name"]: check["ok"] for check in proof.checks if check["database"] != "template1"}


def not_checked(proof: Proof) -> dict[str, str]:
    return {item.what: item.reason for item in proof.not_checked if item.database != "template1"}


def file_of(source: Source, relation: str) -> str:
    return str(source.sql(f"SELECT pg_relation_filepath('{relation}')")[0][0])


def on(source: Source, relation: str, change: Callable[[bytearray], None]) -> Callable[[Restored], None]:
    """Damage to a relation's first file in the copy."""

    def damage(restored: Restored) -> None:
        path = restored.scratch.data / file_of(source, relation)
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)

    return damage


def lose_entry(index: bytearray) -> None:
    """Mark one entry of the first leaf as dead (ItemIdData.lp_flags), as a scan would that found its row gone."""
    index[PAGE + 24 + 4 * 4 + 1] |= 0x80
    index[PAGE + 24 + 4 * 4 + 2] |= 0x01


def swap_entries(index: bytearray) -> None:
    """Two entries of the first leaf change places, as under another collation."""
    first, second = PAGE + 24 + 4 * 4, PAGE + 24 + 5 * 4
    index[first : first + 4], index[second : second + 4] = (
        index[second : second + 4],
        index[first : first + 4],
    )


def flip_in_hole(page: bytearray) -> None:
    """One bit between pd_lower and pd_upper of the last page, where nothing is stored."""
    start = len(page) - PAGE
    lower = int.from_bytes(page[start + 12 : start + 14], "little")
    page[start + lower + 40] ^= 0x01


# ---- nothing is done


def test_all_checks_of_a_sound_copy(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    own = '[[clusters.main.checks]]\nname = "a thousand"\ndatabase = "postgres"\n'
    own += 'sql = "SELECT count(*) FROM orders"\nexpect = 1000\n'
    configure(source, "log", "checksums", "amcheck", "indexes", "dump", extra=own)
    proof = drill(source, monkeypatch)
    rows = sum(item["source"] for item in proof.objects)
    equal = f"1 table with 1,000 rows are equal, and {rows:,} rows of system catalogs"
    assert (proof.verdict, proof.summary) == ("proven", equal)
    checksums = True if source.major >= 18 else None
    assert results(proof) == {
        "log": True,
        "checksums": checksums,
        "amcheck": True,
        "indexes": True,
        "dump": True,
        "a thousand": True,
    }
    missing = {} if checksums else {"check checksums": OFF}
    told = not_checked(proof)
    assert told.items() >= missing.items()
    assert "public.orders_brin" not in told
    assert proof.phases["check"] > 0


def test_no_checks(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(source)
    proof = drill(source, monkeypatch)
    assert (proof.verdict, proof.checks, proof.phases["check"]) == ("proven", (), 0)


def test_parent_check(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_config(cluster='drill.checks = ["amcheck"]\ndrill.parent_check = true')
    proof = drill(source, monkeypatch)
    assert (proof.verdict, results(proof)) == ("proven", {"amcheck": True})
    checked = "b-trees and GIN indexes" if source.major >= 18 else "b-trees"
    assert not_checked(proof)["public.orders_brin"] == f"a brin index: amcheck checks {checked}"


def test_a_machine_without_amcheck(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amcheck, "_create_extension", lambda connection, extension: "not installed here")
    configure(source, "amcheck")
    proof = drill(source, monkeypatch)
    assert (proof.verdict, results(proof)) == ("proven", {"amcheck": None})
    assert not_checked(proof)["check amcheck"] == "not installed here"


# ---- damage


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lose_entry, 'lacks matching index tuple within index "orders_id"'),
        (swap_entries, 'item order invariant violated for index "orders_id"'),
    ],
)
def test_an_index_that_answers_wrongly(
    source: Source, monkeypatch: pytest.MonkeyPatch, change: Damage, finding: str
) -> None:
    configure(source, "amcheck")
    if source.major >= 18:
        finding = "invalid page in block 1 of relation"  # its checksum tells first
    proof = drill(source, monkeypatch, on(source, "orders_id", change))
    assert proof.verdict == "not sound"
    assert proof.summary.startswith("amcheck of postgres: public.orders_id: ")
    assert finding in proof.summary
    assert all(table["equal"] for table in proof.tables)


def test_a_brin_index_that_misses_rows(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first range is said to begin and end elsewhere (BrinTuple): amcheck has no check for that."""

    def move(index: bytearray) -> None:
        start = 2 * PAGE
        at = int.from_bytes(index[start + 24 : start + 26], "little") & 0x7FFF
        length = int.from_bytes(index[start + 26 : start + 28], "little") >> 1
        index[start + at + length - 8 : start + at + length] = bytes([9, 0, 0, 0, 10, 0, 0, 0])

    configure(source, "amcheck", "indexes")
    proof = drill(source, monkeypatch, on(source, "orders_brin", move))
    assert proof.verdict == "not sound"
    if source.major >= 18:
        assert "it cannot be read: invalid page in block 2" in proof.summary  # its checksum tells first
    else:
        start = r"indexes of postgres: public.orders_brin: row \(\d,\d+\) is not found by its own value"
        assert re.match(start, proof.summary)
    assert all(table["equal"] for table in proof.tables)


def test_without_checks_such_an_index_is_called_proven(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(source)
    assert drill(source, monkeypatch, on(source, "orders_id", lose_entry)).verdict == "proven"


def test_a_bit_where_nothing_is_stored(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only page checksums can see it; without them nobody does, and nothing is lost by it."""
    configure(source, "log", "checksums")
    proof = drill(source, monkeypatch, on(source, "orders_id", flip_in_hole))
    if source.major < 18:
        assert (proof.verdict, results(proof)) == ("proven", {"log": True, "checksums": None})
        return
    assert proof.verdict == "not sound"
    name = file_of(source, "orders_id")
    start = f'checksums of every database: postgres: public.orders_id, file "{name}", block '
    assert proof.summary.startswith(start)
    assert "calculated checksum " in proof.summary


def test_a_recovery_that_complains(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a transaction that never was, as a botched copy of a data directory leaves it."""

    def damage(restored: Restored) -> None:
        digits = 16 if source.major >= 17 else 8
        path = restored.scratch.data / "pg_twophase" / f"{0x7FFFFF00:0{digits}X}"
        path.write_bytes(bytes(100))
        path.chmod(0o600)

    configure(source, "log")
    proof = drill(source, monkeypatch, damage)
    assert proof.verdict == "not sound"
    # 17 and 18 then miss the file, as its name has an epoch that they do not expect
    assert proof.summary.startswith(
        "log of every database: startup: WARNING: removing future two-phase state file for transaction 2147483392"
    )


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_relation_whose_check_ends_the_server(
    source: Source, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As a damaged page can; a verdict names it. A signal from outside accuses no backup."""
    check = amcheck._check_one

    def crash(inspection: Any, connection: Any, relation: Any) -> None:
        if relation.title == "public.orders_id":
            os.kill(connection.info.backend_pid, number)
        check(inspection, connection, relation)

    monkeypatch.setattr(amcheck, "_check_one", crash)
    source.write_config(cluster='drill.checks = ["amcheck"]\ndrill.workers = 1')
    proof = drill(source, monkeypatch)
    if number == signal.SIGKILL:
        assert (proof.verdict, proof.summary) == (
            "not exact",
            "the scratch server was ended in one of its processes, by signal 9 while the copy was checked "
            "DETAIL: That was at amcheck of postgres: public.orders_id. Whether damage there ended it or something "
            "else did is open. HINT: run the drill again; where it ends in the same place, run pg_amcheck on the "
            "source, too. dmesg shows whether memory was short",
        )
        return
    assert proof.verdict == "not sound"
    assert proof.summary.startswith(
        "amcheck of postgres: public.orders_id: the copy's server ended while this was checked: "
    )
    assert "the copy had ended" in not_checked(proof).values()


# ---- the user's own


OWN = [
    ("SELECT 1 WHERE false", '"rows"', "it expects rows, and there are none"),
    (
        "SELECT id FROM orders ORDER BY id",
        '"no rows"',
        "it expects no rows, and there are 1000, such as: 1; 2; 3",
    ),
    ("SELECT count(*) FROM orders", "999", "it expects 999, and gets 1000"),
    ("SELECT 1 / (id - 7) FROM orders", "1", "it could not run: division by zero"),
    ("SELECT 'per % cent'", '"per % cent"', ""),
]


@pytest.mark.parametrize(("query", "expect", "finding"), OWN, ids=range(len(OWN)))
def test_a_check_of_ones_own(
    source: Source, monkeypatch: pytest.MonkeyPatch, query: str, expect: str, finding: str
) -> None:
    own = f'[[clusters.main.checks]]\nname = "mine"\ndatabase = "postgres"\nsql = "{query}"\nexpect = {expect}\n'
    configure(source, extra=own)
    proof = drill(source, monkeypatch)
    assert results(proof) == {"mine": not finding}
    if finding:
        assert (proof.verdict, proof.summary) == ("not sound", f"mine of postgres: {finding}")


CANNOT = {
    "slow": (
        "postgres",
        "SELECT pg_sleep(60)",
        "canceling statement due to statement timeout; its statement_timeout is 1 s",
    ),
    "lost": ("absent", "SELECT 1", "its database was not fenced"),
    "typo": (
        "postgres",
        "SELECT nothing FROM orders",
        'it could not run: column "nothing" does not exist',
    ),
    "write": (
        "postgres",
        "DELETE FROM orders",
        "it could not run: cannot execute DELETE in a read-only transaction",
    ),
}


def test_checks_of_ones_own_that_say_nothing_and_of_no_database(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot run accuses no backup."""
    own = ""
    for name, (database, query, _) in CANNOT.items():
        own += f'[[clusters.main.checks]]\nname = "{name}"\ndatabase = "{database}"\nsql = "{query}"\n'
        own += "statement_timeout = 1\n"
    configure(source, extra=own)
    proof = drill(source, monkeypatch)
    assert (proof.verdict, results(proof)) == ("proven", dict.fromkeys(CANNOT))
    assert (
        not_checked(proof).items() >= {f"check {name}": why for name, (_, _, why) in CANNOT.items()}.items()
    )


def test_a_copy_that_was_opened_is_not_compared_again(source: Source) -> None:
    """Such as by a task that is tried again: it would be called not recovered, through no fault of the backup."""
    configure(source, "amcheck")
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        assert compare_restored(source.cluster, fence, restored).equal
        with pytest.raises(DestinationRefused) as caught:
            compare_restored(source.cluster, fence, restored)
    assert str(caught.value) == (
        f'the copy in "{restored.scratch.root}" was opened for writing already\n'
        "DETAIL: It is not at its cut any more.\nHINT: run the drill again"
    )


def test_a_finding_is_shown(source: Source) -> None:
    own = '[[clusters.main.checks]]\nname = "mine"\ndatabase = "postgres"\nsql = "SELECT 1"\nexpect = 2\n'
    configure(source, "log", extra=own)
    code, out, err = answer(source, "drill", "main")
    assert (code, err) == (1, "")
    assert "NOT SOUND: mine of postgres: it expects 2, and gets 1" in out
    assert "  check mine of postgres: 1 found, 1 checked in" in out
    assert "    it expects 2, and gets 1\n" in out
    assert "  check log of every database: ok, " in out
    assert os.listdir(source.root / "scratch") == []
