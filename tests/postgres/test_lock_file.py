"""What postmaster.pid says of the server in a data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.postgres.lock_file import takes_sessions
from tests.servers.postgres import running_source


def test_a_server_takes_sessions_once_it_is_started() -> None:
    with running_source(17) as source:
        assert takes_sessions(source.data)
        source.server.stop("fast")
        assert not takes_sessions(source.data)


@pytest.mark.parametrize(
    ("status", "takes"), [("starting", False), ("stopping", False), ("standby ", True), ("ready   ", True)]
)
def test_the_status_that_postgresql_writes(tmp_path: Path, status: str, takes: bool) -> None:
    lines = ["1", str(tmp_path), "1764000000", "5432", "/tmp", "", "  5432001   3", status]
    (tmp_path / "postmaster.pid").write_text("\n".join(lines) + "\n")
    assert takes_sessions(tmp_path) is takes


def test_a_lock_file_of_a_server_that_only_begins(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text("1\n")
    assert not takes_sessions(tmp_path)
