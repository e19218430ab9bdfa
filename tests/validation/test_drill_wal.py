"""The WAL of a drill: all that the cut needs, and nothing after it."""

from __future__ import annotations

from pgproof.timelines.segment import SEGMENT_NAME, WalSegment
from tests.servers.postgres import Source
from tests.validation.drilling import fence_of, restored_copy


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
