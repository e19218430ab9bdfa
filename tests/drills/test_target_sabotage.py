"""Recovery that stops elsewhere than it was told: caught, named, and without harm to the copy.

The saboteur is a ``postgres`` in front of the real one. It alters the recovery settings of the command line, but only
those of recovery targets; the exact cut stays as it is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.backups.catalog import NOT_RECOVERED, PROVEN
from pgproof.postgres.control import read_control
from pgproof.timelines.lsn import LSN
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.fences.fence import Fence, NotChecked
from pgproof.validation.progress import forget
from pgproof.validation.targets.plan import Stretch, draw_wishes
from pgproof.validation.targets.trial import title_of
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import drill, fence_of, restored_copy

STRETCH = Stretch(LSN(1), LSN(1 << 20), 1)


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        for number in range(8):
            source.sql("INSERT INTO t VALUES (%s)", number)
        source.archive_now()
        yield source


def seed_for(kind: str, *, exclusive: bool) -> int:
    """A seed whose targets are all of this side, with values on the edge: a commit's own time, LSN or xid."""
    count = {"time": 1, "lsn": 2, "xid": 3}[kind]
    for seed in range(10_000):
        wishes = draw_wishes(STRETCH, count, seed)
        if all((wish.exclusive, wish.fraction) == (exclusive, 0.0) for wish in wishes):
            return seed
    raise AssertionError("no seed wishes for this")


@contextmanager
def tampered(source: Source, old: str, new: str) -> Iterator[None]:
    """A setting of every recovery to a target is another one."""
    directory = source.root / "sabotage"
    directory.mkdir(exist_ok=True)
    for program in source.bin.iterdir():
        if program.name != "postgres" and not (directory / program.name).exists():
            (directory / program.name).symlink_to(program)
    script = f"""#!/bin/sh
case "$*" in *'in *.history'*)
  for word; do
    shift
    case "$word" in {old}) word={shlex.quote(new)};; esac
    set -- "$@" "$word"
  done;;
esac
exec {shlex.quote(str(source.bin / "postgres"))} "$@"
"""
    (directory / "postgres").write_text(script)
    (directory / "postgres").chmod(0o755)
    source.write_config(f'bin_directory = "{directory}"')
    try:
        yield
    finally:
        source.write_config()


def commit(canary: dict[str, Any]) -> str:
    return f"transaction {canary['xid']} at LSN {canary['lsn']}"


def drilled_against(source: Source, kind: str, *, exclusive: bool) -> dict[str, Any]:
    """The proof of a drill with a target of this kind, whose copy is told the opposite of ``exclusive``."""
    asked, told = ("off", "on") if exclusive else ("on", "off")
    words = ["--targets", {"time": "1", "lsn": "2", "xid": "3"}[kind], "--json"]
    with tampered(source, f"recovery_target_inclusive={asked}", f"recovery_target_inclusive={told}"):
        seed = str(seed_for(kind, exclusive=exclusive))
        code, out, err = answer(source, "drill", "main", "--seed", seed, *words)
    proof: dict[str, Any] = json.loads(out)
    assert (code, err, proof["verdict"]) == (1, "", NOT_RECOVERED)
    return proof


@pytest.mark.parametrize("kind", ["time", "lsn", "xid"])
def test_one_commit_late(source: Source, kind: str) -> None:
    """``recovery_target_inclusive`` is on where it must be off: the commit at the target is there."""
    proof = drilled_against(source, kind, exclusive=True)
    late = next(t for t in proof["targets"] if t["kind"] == kind)
    assert (late["ok"], late["last_found"]) == (False, late["next_expected"])
    time = late["next_expected"]["time"].replace("T", " ")
    assert late["finding"] == (
        f"recovery stopped too late, by 1 commit: {commit(late['next_expected'])} of {time} must not be there and is "
        f"(the last commit must be that of {commit(late['last_expected'])})"
    )
    first = next(t for t in proof["targets"] if not t["ok"])
    more = sum(not t["ok"] for t in proof["targets"]) - 1
    rest = f" (and {more} more targets)" if more else ""
    assert proof["summary"] == f"recovery target {title_of(first)} was missed: {first['finding']}{rest}"
    # the copy went on to the cut all the same, and was compared there
    assert [table["equal"] for table in proof["tables"]] == [True]


@pytest.mark.parametrize("kind", ["time", "lsn", "xid"])
def test_one_commit_early(source: Source, kind: str) -> None:
    """``recovery_target_inclusive`` is off where it must be on: the commit at the target is missing."""
    proof = drilled_against(source, kind, exclusive=False)
    early = next(t for t in proof["targets"] if t["kind"] == kind)
    assert (early["ok"], early["next_found"]) == (False, early["last_expected"])
    time = early["last_expected"]["time"].replace("T", " ")
    assert early["finding"] == (
        f"recovery stopped too early, by 1 commit: {commit(early['last_expected'])} of {time} must be there and is not "
        f"(the last commit must be that of {commit(early['last_expected'])})"
    )
    assert [table["equal"] for table in proof["tables"]] == [True]


def test_a_target_that_is_never_met(source: Source) -> None:
    """A time in another century: recovery comes to the end of WAL, and PostgreSQL refuses to go on."""
    with tampered(source, "recovery_target_time=2*", "recovery_target_time=2099-01-01 00:00:00+00"):
        code, out, err = answer(source, "drill", "main", "--targets", "2", "--seed", "1", "--json")
    proof = json.loads(out)
    assert (code, err, proof["verdict"]) == (1, "", NOT_RECOVERED)
    missed = next(t for t in proof["targets"] if t["kind"] == "time")
    assert (missed["ok"], missed["last_found"], missed["replayed"]) == (False, None, None)
    assert missed["finding"].endswith(
        "startup FATAL: recovery ended before configured recovery target was reached"
    )
    assert proof["summary"].startswith(f"recovery target {title_of(missed)} was missed: the server in ")


# ---- the copy stays closed


def test_invariant_a_copy_is_closed_until_it_has_been_compared(source: Source) -> None:
    """After all targets, at the cut, the copy is still in recovery and on its only timeline."""
    seen: list[tuple[bool, int, bool, list[str]]] = []

    def look(database: str, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            row: Any = connection.execute(
                "SELECT pg_is_in_recovery(), timeline_id FROM pg_control_checkpoint()"
            ).fetchone()
        data = Path(restored.scratch.data)
        histories = [path.name for path in (data / "pg_wal").glob("*.history")]
        seen.append((*row, (data / "recovery.signal").exists(), histories))

    source.write_config("drill.targets = 5")
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        comparison = compare_restored(source.cluster, fence, restored, look, 3)
    assert seen == [(True, 1, True, [])]
    assert [result.ok for result in comparison.targets.results] == [True] * len(comparison.targets.results)
    assert len(comparison.targets.results) > 2


def fail_in_the_comparison(source: Source, fence: Fence, restored: Restored) -> None:
    """A first try that goes no further than the first database."""

    def fail(database: str, dsn: str) -> None:
        raise ConnectionError("the worker is gone")

    with pytest.raises(ConnectionError, match=r"^the worker is gone$"):
        compare_restored(source.cluster, fence, restored, fail)


def test_a_step_that_is_repeated_leaves_out_the_targets(source: Source) -> None:
    """The copy may be past them; to try again would accuse the backup."""
    source.write_config("drill.targets = 2")
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        fail_in_the_comparison(source, fence, restored)
        assert read_control(source.bin, restored.scratch.data).state == "shut down in recovery"
        forget(restored.scratch.root)  # as a try of another process, which knows nothing of this one
        elsewhere = compare_restored(source.cluster, fence, restored)
    proof = make_proof(source.archive, fence, restored.label, now, restored=restored, comparison=elsewhere)
    assert proof.verdict == PROVEN, proof.summary
    reason = "an earlier try of this drill has recovered the copy already"
    assert [(t["ok"], t["finding"]) for t in proof.targets] == [(None, reason)] * len(proof.targets)
    assert proof.targets


def test_what_was_found_at_the_targets_stays_when_the_comparison_is_repeated(source: Source) -> None:
    source.write_config("drill.targets = 2")
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        fail_in_the_comparison(source, fence, restored)
        again = compare_restored(source.cluster, fence, restored)
    assert again.targets.results
    assert [result.ok for result in again.targets.results] == [True] * len(again.targets.results)
    assert restored.phases["targets"] > 0


def test_invariant_a_copy_that_cannot_be_held_is_not_opened(source: Source) -> None:
    """A transaction with more subtransactions than a snapshot has room for: no hot standby, so no pause at a target.

    PostgreSQL would open the copy instead, and the comparison at the cut would be lost.
    """
    with source.connect() as connection:
        connection.execute("BEGIN")
        for number in range(70):
            connection.execute(f"SAVEPOINT s{number}".encode())
            connection.execute("INSERT INTO t VALUES (-1)")
        source.backup()
        source.sql("INSERT INTO t VALUES (100)")
        found = drill(source)
        connection.execute("ROLLBACK")
    assert found.proof.verdict == PROVEN, found.proof.summary
    reasons = [t["finding"] for t in found.proof.targets]
    assert reasons == [
        "the copy could not be read there: a transaction with over 64 subtransactions ran from before the backup "
        "until then",
        "recovery to an earlier target came to no good end",
    ]
    assert [t["ok"] for t in found.proof.targets] == [None, None]
    assert [
        NotChecked("every database", f"recovery target {title_of(t)}", t["finding"])
        for t in found.proof.targets
    ] == [item for item in found.proof.not_checked if item.what.startswith("recovery target ")]
