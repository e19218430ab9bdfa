"""Control data are believed only with a right checksum, whichever way a version of pg_controldata says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgproof.errors import ObjectDamaged
from pgproof.postgres.control import read_control
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.postgres.server import initialise
from tests.conftest import MAJORS
from tests.servers.place import make_directory
from tests.servers.postgres import installed

_LATEST_CHECKPOINT = 24  # in pg_control: a byte that the checksum covers, and that is no part of the version


@pytest.mark.parametrize("major", MAJORS)
def test_wrong_checksum(major: int) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    root, programs = make_directory(), find_bin_directory(major)
    try:
        initialise(programs, root / "data", owner=account(None), options=("--locale-provider=libc",))
        assert read_control(programs, root / "data").timeline == 1
        flip(root / "data" / "global" / "pg_control")
        with pytest.raises(ObjectDamaged, match=r"(?i)calculated CRC checksum does not match"):
            read_control(programs, root / "data")
    finally:
        shutil.rmtree(root)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[_LATEST_CHECKPOINT] ^= 1
    path.write_bytes(content)
