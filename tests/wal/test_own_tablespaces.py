"""The places of tablespaces that replayed WAL creates."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.errors import InvalidTarget
from pgproof.timelines.lsn import LSN
from pgproof.wal.own_tablespaces import OwnTablespaces, own_tablespaces_of, own_tablespaces_option
from pgproof.wal.tablespaces import TablespaceRecord

CREATE = TablespaceRecord(LSN(100), 16400, "/srv/fast")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "pg_tblspc").mkdir(parents=True)
    return tmp_path / "data"


def link(data: Path) -> Path:
    return data / "pg_tblspc" / "16400"


def test_a_link_into_the_data_directory(data: Path) -> None:
    for _ in range(2):
        OwnTablespaces(data).place([CREATE])
        assert link(data).readlink() == data / "tablespaces" / "16400"
        assert link(data).is_dir()


def test_nothing_is_made_beyond_the_end_of_recovery_nor_for_a_drop(data: Path) -> None:
    OwnTablespaces(data, LSN(99)).place([CREATE])
    OwnTablespaces(data).place([TablespaceRecord(LSN(100), 16400, None)])
    assert not link(data).is_symlink()
    OwnTablespaces(data, LSN(100)).place([CREATE])
    assert link(data).is_dir()


def test_what_is_there_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "chosen").mkdir()
    link(data).symlink_to(tmp_path / "chosen")
    OwnTablespaces(data).place([CREATE])
    assert link(data).resolve() == tmp_path / "chosen"
    (tmp_path / "chosen").rmdir()  # a disk that is not mounted is no reason to fill another one
    OwnTablespaces(data).place([CREATE])
    assert link(data).readlink() == tmp_path / "chosen"
    assert not (data / "tablespaces").exists()


def test_the_data_directory_was_moved(data: Path, tmp_path: Path) -> None:
    OwnTablespaces(data).place([CREATE])
    (data / "tablespaces" / "16400" / "file").touch()
    moved = data.rename(tmp_path / "moved")
    OwnTablespaces(moved).place([CREATE])
    assert (link(moved) / "file").exists()


def test_the_option(data: Path) -> None:
    for until in (None, LSN(0x5000060)):
        option, _, value = own_tablespaces_option(until).partition(" ")
        assert option == "--own-tablespaces"
        assert own_tablespaces_of(data, value) == OwnTablespaces(data, until)
    assert own_tablespaces_of(data, "") is None
    with pytest.raises(InvalidTarget):
        own_tablespaces_of(data, "some")
