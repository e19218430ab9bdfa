"""A spool that another account could exchange is not used: WAL for a recovery comes out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.wal.background.spool import Spool


def test_a_place_that_everybody_writes_in(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    root.mkdir()
    config = tmp_path / "pgproof.toml"
    config.touch()
    spool = Spool("/var/lib/postgresql/17/main", str(config), root=str(root))
    spool.make()
    root.chmod(0o777)
    with pytest.raises(PermissionError, match="other accounts could exchange the spool"):
        spool.make()
    root.chmod(0o1777)
    spool.make()
