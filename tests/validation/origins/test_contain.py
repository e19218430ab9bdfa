"""A restored copy that leads out of its scratch directory is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.errors import DestinationRefused
from pgproof.validation.origins.foreign import contain
from pgproof.validation.scratch import Scratch


def copy(tmp_path: Path) -> Scratch:
    scratch = Scratch(tmp_path / "scratch")
    (scratch.data / "pg_tblspc").mkdir(parents=True)
    (scratch.tablespaces / "fast").mkdir(parents=True)
    (scratch.data / "postmaster.pid").write_text("1\n")
    return scratch


def test_a_map_is_written_for_where_the_tablespaces_are_now(tmp_path: Path) -> None:
    scratch = copy(tmp_path)
    (scratch.data / "pg_tblspc" / "16384").symlink_to(scratch.tablespaces / "fast")
    (scratch.data / "tablespace_map").write_text("16384 /srv/fast\n")
    contain(scratch, None)
    assert (scratch.data / "tablespace_map").read_text() == f"16384 {scratch.tablespaces / 'fast'}\n"
    assert not (scratch.data / "postmaster.pid").exists()


def test_a_map_of_a_tablespace_that_is_not_here(tmp_path: Path) -> None:
    scratch = copy(tmp_path)
    (scratch.data / "tablespace_map").write_text("16384 /srv/fast\n")
    with pytest.raises(DestinationRefused) as caught:
        contain(scratch, None)
    assert str(caught.value) == (
        "tablespace 16384 was not restored into the scratch directory\n"
        "DETAIL: Recovery would look for it where the source has it."
    )
    assert (scratch.data / "tablespace_map").read_text() == "16384 /srv/fast\n"


@pytest.mark.parametrize("place", ["data/pg_tblspc/16384", "data/pg_wal", "tablespaces/fast/x"])
def test_a_link_that_leads_out(tmp_path: Path, place: str) -> None:
    scratch = copy(tmp_path)
    (tmp_path / "live").mkdir()
    (scratch.root / place).symlink_to(tmp_path / "live")
    with pytest.raises(DestinationRefused) as caught:
        contain(scratch, None)
    assert str(caught.value) == (
        f'the restored copy reaches out of "{scratch.root}"\n'
        f'DETAIL: "{place}" leads to "{tmp_path / "live"}".'
    )
