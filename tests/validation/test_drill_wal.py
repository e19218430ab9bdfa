"""The WAL of a drill: all that the cut needs, and nothing after it."""

from __future__ import annotations

import json

import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.timelines.segment import SEGMENT_NAME, WalSegment
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source
from tests.validation.drilling import drill, fence_of, restored_copy


def test_nothing_is_fetched_past_the_fence(source: Source) -> None:
    """What was archived after the fence must not be there: a recovery that missed its target would run on."""
    source.sql("CREATE TABLE t (g int)")
    record = source.backup()
    source.archive_now()
    fence = fence_of(source)
    later = [source.archive_now() for _ in range(3)]
    assert all(name in {path.name[:24] for path in source.repository_path.rglob("*.zst")} for name in later)
    with restored_copy(source, fence) as restored:
        names = {path.name for path in restored.scratch.wal.iterdir() if SEGMENT_NAME.fullmatch(path.name)}
    last = WalSegment.containing(1, fence.end_lsn - 1, 1 << 20)
    wanted = {
        WalSegment(1, number, 1 << 20).name for number in range(record.first_segment.number, last.number + 1)
    }
    assert names == wanted
    assert not names & set(later)


@pytest.mark.parametrize("size", [64, pytest.param(1024, marks=pytest.mark.slow)])
def test_any_size_of_wal_segments(size: int) -> None:
    """A server does not start where min_wal_size, or max_wal_size, is less than two segments."""
    with running_source(15, segment_size=size, max_wal_size=f"{4 * size}MB") as source:
        timeout = 'drill.archive_timeout = "120s"\nbackup.archive_timeout = "120s"'
        source.write_config(cluster=f'{timeout}\ndrill.checks = ["log"]\ndrill.targets = 1')
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        source.backup()
        found = drill(source)
        data = source.root / "restored"
        for command in (["restore", "main", "--to", str(data)], ["start", str(data), "--json"]):
            code, out, err = answer(source, *command)
            assert code == 0, err
        server = running_in(data)
        assert server is not None
        server.stop()
    started = json.loads(out)
    assert (started["state"], started["findings"]) == ("open", [])
    assert found.proof.proven, found.proof.summary
    assert [target["ok"] for target in found.proof.targets] == [True]
