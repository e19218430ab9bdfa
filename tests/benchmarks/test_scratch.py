from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scratch
from benchmarks.errors import BenchmarkError
from benchmarks.tools.plain import Copy
from benchmarks.tools.tool import Site
from benchmarks.workload import Workload


def test_a_directory_of_others_is_refused_and_never_cleared(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BenchmarkError) as raised:
        scratch.make(tmp_path, None, 0)
    assert str(raised.value) == f"{tmp_path} is not empty and no benchmark made it; name an empty or new one"
    scratch.clear(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_ours_is_held_by_one_run_and_cleared(tmp_path: Path) -> None:
    place = scratch.make(tmp_path / "new", None, 0)
    (place / "workload").mkdir()
    with pytest.raises(BenchmarkError) as raised:
        scratch.make(place, None, 0)
    assert str(raised.value) == f"{place} is used by another run"
    scratch.clear(place)
    assert not place.exists()


def test_a_path_that_would_have_to_be_quoted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as raised:
        scratch.make(tmp_path / "a%p", None, 0)
    assert str(raised.value) == (
        f"{tmp_path}/a%p has a character that would have to be quoted; choose another path"
    )
    assert not (tmp_path / "a%p").exists()


def test_too_little_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"GB free, and 8388608 GB are needed$"):
        scratch.make(tmp_path / "new", None, 1 << 53)


def workload(directory: Path) -> Workload:
    made = Workload(directory, Path("/nowhere"), ("A" * 24, "B" * 24))
    (made.wal / "archive_status").mkdir(parents=True)
    return made


def test_the_files_that_wait_are_those_that_were_named(tmp_path: Path) -> None:
    made = workload(tmp_path)
    status = made.wal / "archive_status"
    for name in ("0" * 24 + ".ready", "A" * 24 + ".done", "00000002.history.ready"):
        (status / name).touch()
    made.mark(made.segments)
    assert sorted(entry.name for entry in status.iterdir()) == [
        "0" * 24 + ".done",
        "00000002.history.done",
        "A" * 24 + ".ready",
        "B" * 24 + ".ready",
    ]
    made.done("A" * 24)
    made.mark(())
    assert {entry.suffix for entry in status.iterdir()} == {".done"}


def test_only_whole_segments_count_as_stored(tmp_path: Path) -> None:
    site = Site(tmp_path, tmp_path / "spool", tmp_path / "data", workload(tmp_path / "workload"))
    site.repository.mkdir()
    one, two = "00000001000000000000000A", "00000001000000000000000B"
    for name in (f"{one}.zst", f"{one}-0123456789abcdef.zst", two, f"{two[:-1]}C.partial.zst", ".tmp-1"):
        (site.repository / name).touch()
    (site.repository / f"{two[:-1]}D.00000028.backup").touch()
    assert Copy().stored(site) == 2
