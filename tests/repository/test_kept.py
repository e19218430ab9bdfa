"""Chunks that are kept, to go through them again."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.repository.kept import Kept

CHUNKS = [bytes([number]) * 100_000 for number in range(100)]


def drawn(count: list[int]) -> Iterator[bytes]:
    for chunk in CHUNKS:
        count[0] += 1
        yield chunk


@pytest.mark.parametrize("first", [0, 1, 50, 100])
def test_what_was_taken_comes_again(first: int) -> None:
    count = [0]
    kept = Kept(drawn(count), 10_000_000)
    assert len(list(itertools.islice(kept, first))) == first
    assert kept.whole
    assert b"".join(kept) == b"".join(CHUNKS)
    assert b"".join(kept) == b"".join(CHUNKS)
    assert count == [100]


def test_more_than_the_limit_is_not_kept() -> None:
    kept = Kept(drawn([0]), 5_000_000)
    assert b"".join(kept) == b"".join(CHUNKS)
    assert not kept.whole
    assert Kept(drawn([0]), 0).whole  # nothing was taken yet


def test_nothing_is_kept_where_there_is_no_room() -> None:
    kept = Kept(drawn([0]), 1 << 60)
    assert b"".join(kept) == b"".join(CHUNKS)
    assert not kept.whole


def test_what_is_kept_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed leaves nothing of it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Kept(drawn([0]), 1 << 30)
    assert sum(map(len, kept)) == 10_000_000
    assert kept.whole
    assert list(tmp_path.iterdir()) == []
