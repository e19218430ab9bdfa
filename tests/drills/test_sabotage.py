"""The restored side is sabotaged: every defect is caught, named and located, and recorded as a proof that is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.commands import drill as command
from pgproof.repository.repository import StoredObject
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.validation import scratch as scratch_module
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.expectations import judgement, suites
from pgproof.validation.fences.fence import DatabaseFence, Fence, TableContent
from pgproof.validation.fences.fencing import _Fencer
from pgproof.validation.fences.fingerprint import Fingerprint
from pgproof.validation.proof import Proof, read_proof
from pgproof.wal.records import CommitRecord, read_records
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import fence_of, restored_copy

Edit = Callable[[Fence], Fence]
Sabotage = Callable[[Restored], None]


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql(
            "CREATE TABLE orders AS SELECT g AS id, 'order-' || g AS note FROM generate_series(1, 1000) g"
        )
        made.sql("CREATE TABLE lines (id int); CREATE TABLE empty (a int, b text)")
        made.sql("CREATE DATABASE second STRATEGY file_copy")
        made.sql("CREATE TABLE other AS SELECT g FROM generate_series(1, 10) g", database="second")
        made.backup()
        yield made


@dataclass
class Bench:
    """A source whose next drill is tampered with."""

    source: Source
    monkeypatch: pytest.MonkeyPatch

    def edit_fence(self, edit: Edit) -> None:
        take = command.take_fence
        self.monkeypatch.setattr(command, "take_fence", lambda *words: edit(take(*words)))

    def sabotage_copy(self, sabotage: Sabotage) -> None:
        restore = command.restore_scratch

        def sabotaged(*words: Any) -> Restored:
            restored = restore(*words)
            sabotage(restored)
            return restored

        self.monkeypatch.setattr(command, "restore_scratch", sabotaged)

    def commit_around_the_fence(self) -> None:
        """One commit just before the snapshots, and two just after them."""
        original = _Fencer._archived_commits
        self.source.sql("INSERT INTO lines VALUES (1)")

        def patched(fencer: _Fencer, burst: Any) -> Any:
            self.source.sql("INSERT INTO lines VALUES (2)")
            self.source.sql("INSERT INTO lines VALUES (3)")
            return original(fencer, burst)

        self.monkeypatch.setattr(_Fencer, "_archived_commits", patched)

    def drill(self) -> Proof:
        """The proof that ``pgproof drill`` shows, which is the one it recorded; it never proves."""
        code, out, err = answer(self.source, "drill", "main", "--json")
        assert (code, err) == (1, "")
        shown = json.loads(out)
        stored = read_proof(self.source.archive, shown["identifier"])
        assert shown == json.loads(json.dumps(stored.as_dict())) | {"key": shown["key"]}
        assert not stored.proven
        return stored


@pytest.fixture
def bench(source: Source, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(suites, "available", lambda: False)  # Great Expectations has tests of its own
    return Bench(source, monkeypatch)


def test_the_bench_proves_when_nothing_is_done(bench: Bench) -> None:
    code, out, err = answer(bench.source, "drill", "main", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["verdict"] == "proven"


# ---- what the fence says


def table(fence: Fence, name: str, **changes: Any) -> Fence:
    def edited(content: TableContent) -> TableContent:
        return replace(content, **changes) if content.name == name else content

    return replace(
        fence,
        databases=tuple(replace(d, tables=tuple(edited(t) for t in d.tables)) for d in fence.databases),
    )


def without(fence: Fence, name: str) -> Fence:
    return replace(
        fence,
        databases=tuple(
            replace(d, tables=tuple(t for t in d.tables if t.name != name)) for d in fence.databases
        ),
    )


def with_table(fence: Fence, content: TableContent) -> Fence:
    first = replace(fence.databases[0], tables=(*fence.databases[0].tables, content))
    return replace(fence, databases=(first, *fence.databases[1:]))


def renamed(fence: Fence, name: str) -> Fence:
    return replace(
        fence,
        databases=tuple(replace(d, database=name) if d.database == "second" else d for d in fence.databases),
    )


EDITS: list[tuple[str, Edit, str]] = [
    (
        "a row too few",
        lambda f: table(f, "orders", fingerprint=replace(content(f, "orders"), rows=1001)),
        r"postgres: public\.orders: source has 1001 rows, restored has 1000",
    ),
    (
        "another hash",
        lambda f: table(f, "orders", fingerprint=replace(content(f, "orders"), hash="7")),
        r"postgres: public\.orders: 1000 rows each, but hash 7 became -?\d+",
    ),
    (
        "a table missing",
        lambda f: with_table(f, TableContent("public", "lost", ("a",), Fingerprint(5, "1"))),
        r"postgres: public\.lost: missing from the restored cluster; the source has 5 rows",
    ),
    (
        "an empty table missing",
        lambda f: with_table(f, TableContent("public", "lost", ("a",), Fingerprint(0, "0"))),
        r"postgres: public\.lost: missing from the restored cluster; the source has 0 rows",
    ),
    (
        "a table too many",
        lambda f: without(f, "orders"),
        r"postgres: public\.orders: not in the source; the restored cluster has 1000 rows",
    ),
    (
        "an empty table too many",
        lambda f: without(f, "empty"),
        r"postgres: public\.empty: not in the source; the restored cluster has 0 rows",
    ),
    (
        "other columns",
        lambda f: table(f, "empty", columns=("a", "c")),
        r"postgres: public\.empty: columns a, c became a, b",
    ),
    (
        "a database missing",
        lambda f: renamed(f, "third"),
        r"third: public\.other: missing from the restored cluster; the source has 10 rows",
    ),
    (
        "two tables at once",
        lambda f: without(table(f, "other", columns=("x",)), "orders"),
        r"postgres: public\.orders: not in the source; .* \(and 1 more tables\)",
    ),
]


def content(fence: Fence, name: str) -> Fingerprint:
    return next(t.fingerprint for d in fence.databases for t in d.tables if t.name == name)


@pytest.fixture(scope="module")
def copy(source: Source) -> Iterator[tuple[Fence, Restored]]:
    """A fence and a restored copy that may be compared again and again, as it is not opened to be checked."""
    fence = fence_of(source)
    with restored_copy(source, fence) as restored:
        yield fence, restored


@pytest.mark.parametrize(("edit", "summary"), [e[1:] for e in EDITS], ids=[e[0] for e in EDITS])
def test_a_difference_is_named(
    source: Source, copy: tuple[Fence, Restored], edit: Edit, summary: str
) -> None:
    fence, restored = edit(copy[0]), copy[1]
    unchecked = source.cluster.drill.model_copy(update={"checks": ()})
    cluster = source.cluster.model_copy(update={"drill": unchecked})
    comparison = compare_restored(cluster, fence, restored)
    proof = make_proof(source.archive, fence, restored.label, now, restored=restored, comparison=comparison)
    assert proof.verdict == "not equal"
    assert re.fullmatch(summary, proof.summary), proof.summary
    assert any(not t["equal"] and t["table"] in proof.summary for t in proof.tables)


def test_a_difference_is_recorded_and_fails_the_command(bench: Bench) -> None:
    bench.edit_fence(EDITS[0][1])
    proof = bench.drill()
    assert proof.verdict == "not equal"
    assert re.fullmatch(EDITS[0][2], proof.summary)
    (entry,) = read_catalog(bench.source.archive).entries
    assert (entry.state, entry.failed) == ("failed", proof.summary)


def test_a_role_that_is_not_there_is_told_at_once(bench: Bench) -> None:
    bench.edit_fence(lambda f: replace(f, bootstrap_role="nobody here"))
    proof = bench.drill()
    assert proof.verdict == "not recovered"
    assert "the restored copy refuses connections" in proof.summary
    assert 'role "nobody here" does not exist' in proof.summary


# ---- where recovery ends


def commits(bench: Bench, restored: Restored, fence: Fence) -> list[CommitRecord]:
    first, last = (WalSegment.parse(name, fence.segment_size) for name in restored.wal[:2])
    found = read_records(bench.source.bin, restored.scratch.wal, first.start, last.end, fence.timeline)
    return [record for record in found if isinstance(record, CommitRecord) and record.committed]


def moved(fence: Fence, lsn: LSN) -> Fence:
    def edited(database: DatabaseFence) -> DatabaseFence:
        return replace(database, cut=lsn)

    return replace(fence, databases=tuple(edited(d) for d in fence.databases))


@pytest.mark.parametrize("by", [-4, 1, 2])
def test_recovery_that_stops_at_another_commit(bench: Bench, by: int) -> None:
    """The cut is exact to one transaction, on either side; before it lie three empty canaries of the drill."""
    bench.commit_around_the_fence()
    fences: list[Fence] = []
    take, restore = command.take_fence, command.restore_scratch
    bench.monkeypatch.setattr(command, "take_fence", lambda *w: fences.append(take(*w)) or fences[0])
    compare = judgement.compare_restored

    def elsewhere(cluster: Any, fence: Fence, restored: Restored, *words: Any) -> Any:
        listed = commits(bench, restored, fence)
        here = next(number for number, record in enumerate(listed) if record.lsn == fence.cut)
        return compare(cluster, moved(fence, listed[here + by].lsn), restored, *words)

    bench.monkeypatch.setattr(judgement, "compare_restored", elsewhere)
    proof = bench.drill()
    if by < 0:
        assert proof.verdict == "not equal"
        assert re.fullmatch(
            r"postgres: public\.lines: source has (\d+) rows, restored has \d+", proof.summary
        )
        (lines,) = [t for t in proof.tables if t["table"] == "public.lines"]
        assert lines["restored_rows"] == lines["source_rows"] - 1
    else:
        # the fence itself did not see a transaction that the copy has: known before a row is counted
        assert proof.verdict == "not exact"
        assert re.match(
            r"transaction \d+ is committed in the copy and was not seen at the fence", proof.summary
        )
    assert restore is command.restore_scratch


def test_a_cut_in_the_middle_of_a_record_is_refused(bench: Bench) -> None:
    bench.commit_around_the_fence()
    bench.edit_fence(lambda f: moved(f, LSN((f.cut or 0) + 8)))
    proof = bench.drill()
    assert proof.verdict == "not recovered"
    assert "recovery stopped elsewhere than at the cut" in proof.summary


# ---- WAL of the copy


def last_segment(restored: Restored) -> Path:
    return restored.scratch.wal / restored.wal[1]


def older_copy(restored: Restored) -> None:
    path = last_segment(restored)
    path.write_bytes((restored.scratch.wal / restored.wal[0]).read_bytes())


def removed(restored: Restored) -> None:
    last_segment(restored).unlink()


def zeroed(restored: Restored) -> None:
    path = last_segment(restored)
    path.write_bytes(bytes(path.stat().st_size))


def torn(restored: Restored) -> None:
    path = last_segment(restored)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 3)


def flipped(restored: Restored) -> None:
    path = last_segment(restored)
    wal = bytearray(path.read_bytes())
    wal[60] ^= 0x10
    path.write_bytes(wal)


@pytest.mark.parametrize("sabotage", [older_copy, removed, zeroed, torn, flipped])
def test_wal_that_is_not_what_was_archived(bench: Bench, sabotage: Sabotage) -> None:
    bench.source.sql("INSERT INTO lines VALUES (4)")
    bench.sabotage_copy(sabotage)
    proof = bench.drill()
    assert proof.verdict == "not recovered"
    assert proof.wal[1] in proof.summary, proof.summary


# ---- files of the copy


def heap(bench: Bench, restored: Restored) -> Path:
    return restored.scratch.data / bench.source.sql("SELECT pg_relation_filepath('orders')")[0][0]


def flip_note(path: Path) -> None:
    """One bit of one value: order-7 becomes order-6 or so."""
    page = bytearray(path.read_bytes())
    at = page.index(b"order-777") + 8
    page[at] ^= 0x01
    path.write_bytes(page)


def test_a_bit_that_flips_while_files_are_extracted(bench: Bench) -> None:
    make_startable = scratch_module.make_startable
    name = bench.source.sql("SELECT pg_relation_filepath('orders')")[0][0]

    def flipping(data: Path, **options: Any) -> None:
        make_startable(data, **options)
        flip_note(data / name)

    bench.monkeypatch.setattr(scratch_module, "make_startable", flipping)
    proof = bench.drill()
    assert proof.verdict == "not recovered"
    assert "are not those of the backup manifest" in proof.summary
    assert f'checksum mismatch for file "{name}"' in proof.summary


def test_a_bit_that_flips_after_the_files_were_checked(bench: Bench) -> None:
    bench.sabotage_copy(lambda restored: flip_note(heap(bench, restored)))
    proof = bench.drill()
    assert proof.verdict == "not equal"
    assert re.fullmatch(r"postgres: public\.orders: 1000 rows each, but hash .* became .*", proof.summary)


def test_a_file_that_is_lost_after_the_files_were_checked(bench: Bench) -> None:
    bench.sabotage_copy(lambda restored: heap(bench, restored).unlink())
    proof = bench.drill()
    assert proof.verdict == "not equal"
    assert re.fullmatch(
        r'postgres: public\.orders: cannot be read in the restored cluster: could not open file "base/\S+": '
        r"No such file or directory; the source has 1000 rows",
        proof.summary,
    )


def test_a_page_whose_header_is_damaged(bench: Bench) -> None:
    def damage(restored: Restored) -> None:
        path = heap(bench, restored)
        page = bytearray(path.read_bytes())
        page[8192 + 10 : 8192 + 20] = b"\xff" * 10
        path.write_bytes(page)

    bench.sabotage_copy(damage)
    proof = bench.drill()
    assert proof.verdict == "not equal"
    assert "postgres: public.orders: cannot be read in the restored cluster: invalid page in block 1 of" in (
        proof.summary
    )


def test_a_file_that_lost_its_end(bench: Bench) -> None:
    def shorten(restored: Restored) -> None:
        path = heap(bench, restored)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)

    bench.sabotage_copy(shorten)
    proof = bench.drill()
    assert proof.verdict == "not equal"
    assert re.fullmatch(r"postgres: public\.orders: source has 1000 rows, restored has \d+", proof.summary)


def test_a_copy_whose_catalog_is_damaged(bench: Bench) -> None:
    """A database that cannot even be connected to."""

    def damage(restored: Restored) -> None:
        oid = bench.source.sql("SELECT oid FROM pg_database WHERE datname = 'second'")[0][0]
        (restored.scratch.data / "base" / str(oid) / "PG_VERSION").unlink()

    bench.sabotage_copy(damage)
    proof = bench.drill()
    assert proof.verdict == "not recovered"
    assert 'restored database "second" cannot be read' in proof.summary


def test_a_scratch_directory_that_is_gone_says_nothing_of_the_backup(bench: Bench) -> None:
    bench.sabotage_copy(lambda restored: restored.scratch.remove())
    code, _, err = answer(bench.source, "drill", "main")
    assert code == 43
    assert re.search(r'pgproof: scratch directory "\S+" is not there any more', err)


def test_a_failing_expectation_is_not_proven(source: Source) -> None:
    source.write_config(
        extra="[[clusters.main.expectations]]\n"
        'database = "postgres"\ntable = "public.orders"\n'
        'type = "expect_table_row_count_to_equal"\nkwargs = {value = 999}\n'
    )
    code, out, err = answer(source, "drill", "main", "--json")
    source.write_config()
    proof = json.loads(out)
    assert (code, err) == (1, "")
    assert proof["verdict"] == "not equal"
    assert proof["summary"] == (
        "expectations failed: 7 of 8 expectations met; "
        "expect_table_row_count_to_equal {'value': 999} found 1000"
    )
    assert all(t["equal"] for t in proof["tables"])
    results = StoredObject(**proof["evidence"][-1])
    assert results.key == proof["key"].removesuffix(".json") + "/great_expectations.json.zst"
    assert set(json.loads(b"".join(source.archive.open_checked(results)))) == {
        "main-restore-equals-source",
        "main-postgres-1-expect_table_row_count_to_equal",
    }
    assert Path(proof["expectations"]["data_docs"]).is_file()
