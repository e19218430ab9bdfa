"""Damage that no table's hash shows: each kind is found by a check, named and located, and the drill proves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.commands import drill as command
from pgproof.errors import DestinationRefused
from pgproof.validation.checks import amcheck
from pgproof.validation.checks.check import EVERY_DATABASE
from pgproof.validation.checks.page_checksums import OFF
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import Restored
from pgproof.validation.expectations import suites as expectations
from pgproof.validation.proof import Proof, read_proof
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import fence_of, restored_copy

Damage = Callable[[Restored], None]
PAGE = 8192
ALL = ("log", "checksums", "amcheck", "indexes", "dump")


@pytest.fixture(scope="module", params=[15, 17, 18])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """15 and 17 without page checksums, which are off there unless asked for; 18 with them."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as made:
        for name in ("orders", "swapped", "moved"):
            made.sql(
                f"CREATE TABLE {name} AS SELECT g AS id, 'order-' || g AS note FROM generate_series(1, 1000) g"
            )
            made.sql(f"CREATE UNIQUE INDEX {name}_id ON {name} (id)")
            made.sql(f"CREATE INDEX {name}_brin ON {name} USING brin (id)")
        made.sql("VACUUM FREEZE")
        made.sql("CHECKPOINT")
        made.backup()
        yield made


def configure(source: Source, *checks: str, more: str = "", extra: str = "") -> None:
    """These checks, and no recovery target, which starts another server and has tests of its own."""
    source.write_config(f"drill.checks = {json.dumps(checks)}\ndrill.targets = 0\n{more}", extra=extra)


def drill(source: Source, *damages: Damage) -> Proof:
    """The proof of a drill whose copy is damaged before it is recovered."""
    code, out, err = show(source, "--json", damages=damages)
    assert err == ""
    proof = read_proof(source.archive, json.loads(out)["identifier"])
    assert code == (0 if proof.proven else 1)
    assert list((source.root / "scratch").iterdir()) == []
    return proof


def show(source: Source, *words: str, damages: Iterable[Damage] = ()) -> tuple[int, str, str]:
    """What the command answers, as a host without Great Expectations makes a drill."""
    restore = command.restore_scratch

    def damaged(*words: Any) -> Restored:
        restored = restore(*words)
        for damage in damages:
            damage(restored)
        return restored

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expectations, "available", lambda: False)
        patch.setattr(command, "restore_scratch", damaged)
        return answer(source, "drill", "main", *words)


def results(proof: Proof) -> dict[str, Any]:
    return {check["name"]: check["ok"] for check in proof.checks if check["database"] != "template1"}


def findings(proof: Proof, name: str) -> list[str]:
    """Of one check, in the database or in every one."""
    (found,) = (
        check["findings"]
        for check in proof.checks
        if check["name"] == name and check["database"] in ("postgres", EVERY_DATABASE)
    )
    return found


def not_checked(proof: Proof) -> dict[str, str]:
    return {item.what: item.reason for item in proof.not_checked if item.database != "template1"}


def file_of(source: Source, relation: str) -> str:
    return str(source.sql(f"SELECT pg_relation_filepath('{relation}')")[0][0])


def on(source: Source, relation: str, change: Callable[[bytearray], None]) -> Damage:
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


def move_range(index: bytearray) -> None:
    """The first range of a BRIN index is said to begin and end elsewhere (BrinTuple): amcheck has no check for that."""
    start = 2 * PAGE
    at = int.from_bytes(index[start + 24 : start + 26], "little") & 0x7FFF
    length = int.from_bytes(index[start + 26 : start + 28], "little") >> 1
    index[start + at + length - 8 : start + at + length] = bytes([9, 0, 0, 0, 10, 0, 0, 0])


# ---- nothing is done


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


@pytest.fixture(scope="module")
def sound(source: Source) -> Proof:
    """All checks of a sound copy, one of one's own and some that cannot run among them."""
    own = '[[clusters.main.checks]]\nname = "a thousand"\ndatabase = "postgres"\n'
    own += 'sql = "SELECT count(*) FROM orders"\nexpect = 1000\n'
    for name, (database, query, _) in CANNOT.items():
        own += f'[[clusters.main.checks]]\nname = "{name}"\ndatabase = "{database}"\nsql = "{query}"\n'
        own += "statement_timeout = 1\n"
    configure(source, *ALL, extra=own)
    return drill(source)


def test_all_checks_of_a_sound_copy(source: Source, sound: Proof) -> None:
    rows = sum(item["source"] for item in sound.objects)
    equal = f"3 tables with 3,000 rows are equal, and {rows:,} rows of system catalogs"
    assert (sound.verdict, sound.summary) == ("proven", equal)
    checksums = True if source.major >= 18 else None
    assert results(sound) == {
        "log": True,
        "checksums": checksums,
        "amcheck": True,
        "indexes": True,
        "dump": True,
        "a thousand": True,
        **dict.fromkeys(CANNOT),
    }
    missing = {} if checksums else {"check checksums": OFF}
    told = not_checked(sound)
    assert told.items() >= missing.items()
    assert "public.orders_brin" not in told
    assert sound.phases["check"] > 0


def test_checks_of_ones_own_that_say_nothing_and_of_no_database(sound: Proof) -> None:
    """A check that cannot run accuses no backup."""
    assert sound.verdict == "proven"
    assert (
        not_checked(sound).items() >= {f"check {name}": why for name, (_, _, why) in CANNOT.items()}.items()
    )


def test_no_checks_and_an_index_that_is_called_proven_without_them(source: Source) -> None:
    configure(source)
    proof = drill(source, on(source, "orders_id", lose_entry))
    assert (proof.verdict, proof.checks, proof.phases["check"]) == ("proven", (), 0)


def test_parent_check(source: Source) -> None:
    configure(source, "amcheck", more="drill.parent_check = true")
    proof = drill(source)
    assert (proof.verdict, results(proof)) == ("proven", {"amcheck": True})
    checked = "b-trees and GIN indexes" if source.major >= 18 else "b-trees"
    assert not_checked(proof)["public.orders_brin"] == f"a brin index: amcheck checks {checked}"


def test_a_machine_without_amcheck(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amcheck, "_create_extension", lambda connection, extension: "not installed here")
    configure(source, "amcheck")
    proof = drill(source)
    assert (proof.verdict, results(proof)) == ("proven", {"amcheck": None})
    assert not_checked(proof)["check amcheck"] == "not installed here"


# ---- damage


@pytest.fixture(scope="module")
def damaged(source: Source) -> Proof:
    """Each damage in a table of its own, and a file of a transaction that never was, as botched copies leave them."""

    def add_transaction(restored: Restored) -> None:
        digits = 16 if source.major >= 17 else 8
        path = restored.scratch.data / "pg_twophase" / f"{0x7FFFFF00:0{digits}X}"
        path.write_bytes(bytes(100))
        path.chmod(0o600)

    configure(source, "log", "amcheck", "indexes")
    changes = {"orders_id": lose_entry, "swapped_id": swap_entries, "moved_brin": move_range}
    proof = drill(source, add_transaction, *(on(source, name, change) for name, change in changes.items()))
    assert proof.verdict == "not sound"
    assert all(table["equal"] for table in proof.tables)
    assert [len(findings(proof, name)) for name in ("amcheck", "indexes")] == [2, 1]
    return proof


@pytest.mark.parametrize(
    ("index", "finding"),
    [
        ("orders_id", 'lacks matching index tuple within index "orders_id"'),
        ("swapped_id", 'item order invariant violated for index "swapped_id"'),
    ],
)
def test_an_index_that_answers_wrongly(source: Source, damaged: Proof, index: str, finding: str) -> None:
    if source.major >= 18:
        finding = "invalid page in block 1 of relation"  # its checksum tells first
    (found,) = (text for text in findings(damaged, "amcheck") if text.startswith(f"public.{index}: "))
    assert finding in found


def test_a_brin_index_that_misses_rows(source: Source, damaged: Proof) -> None:
    (found,) = findings(damaged, "indexes")
    if source.major >= 18:
        assert "it cannot be read: invalid page in block 2" in found  # its checksum tells first
    else:
        assert re.match(r"public.moved_brin: row \(\d,\d+\) is not found by its own value", found)


def test_a_recovery_that_complains(damaged: Proof) -> None:
    # 17 and 18 then miss the file, as its name has an epoch that they do not expect
    found = "startup: WARNING: removing future two-phase state file for transaction 2147483392"
    assert findings(damaged, "log")[0].startswith(found)
    assert damaged.summary.startswith(f"log of every database: {found}")


def test_a_bit_where_nothing_is_stored(source: Source) -> None:
    """Only page checksums can see it; without them nobody does, and nothing is lost by it."""
    configure(source, "log", "checksums")
    proof = drill(source, on(source, "orders_id", flip_in_hole))
    if source.major < 18:
        assert (proof.verdict, results(proof)) == ("proven", {"log": True, "checksums": None})
        return
    assert proof.verdict == "not sound"
    name = file_of(source, "orders_id")
    start = f'checksums of every database: postgres: public.orders_id, file "{name}", block '
    assert proof.summary.startswith(start)
    assert "calculated checksum " in proof.summary


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
    configure(source, "amcheck", more="drill.workers = 1")
    proof = drill(source)
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


@pytest.fixture(scope="module")
def own(source: Source) -> tuple[str, Proof]:
    """All of them in one drill: what the command shows, and the proof."""
    checks = ""
    for number, (query, expect, _) in enumerate(OWN):
        checks += f'[[clusters.main.checks]]\nname = "mine {number}"\ndatabase = "postgres"\n'
        checks += f'sql = "{query}"\nexpect = {expect}\n'
    configure(source, "log", extra=checks)
    code, out, err = show(source)
    assert (code, err) == (1, "")
    assert os.listdir(source.root / "scratch") == []
    (key,) = re.findall(r"proof:(\S+)\.json", "".join(out.split()))
    return out, read_proof(source.archive, Path(key).name)


@pytest.mark.parametrize("number", range(len(OWN)))
def test_a_check_of_ones_own(own: tuple[str, Proof], number: int) -> None:
    proof, (_, _, finding) = own[1], OWN[number]
    assert results(proof)[f"mine {number}"] == (not finding)
    assert findings(proof, f"mine {number}") == ([finding] if finding else [])
    assert proof.verdict == "not sound"


def test_a_finding_is_shown(own: tuple[str, Proof]) -> None:
    out, proof = own
    assert proof.summary == "mine 0 of postgres: it expects rows, and there are none (and 3 more findings)"
    assert f"NOT SOUND: {proof.summary}" in " ".join(out.split())
    assert "  check mine 2 of postgres: 1 found, 1 checked in" in out
    assert "    it expects 999, and gets 1000\n" in out
    assert "  check log of every database: ok, " in out


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
