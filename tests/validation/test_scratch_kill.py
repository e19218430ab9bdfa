"""A scratch server that is killed: no verdict on the backup, and the next try goes on behind what is done."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgproof.errors import ScratchKilled
from pgproof.postgres.server import LocalServer
from pgproof.validation.comparing import compare_restored
from pgproof.validation.drill import Restored, make_proof
from tests.servers.postgres import Source, now
from tests.validation.drilling import fence_of, restored_copy

KILLED = (
    "the scratch server was ended by signal 9\n"
    "DETAIL: That says nothing of the backup; what was compared since its start is not used.\n"
    "HINT: dmesg shows whether memory was short; trying again begins with the restored copy"
)


def kill(restored: Restored) -> None:
    """As the kernel does it when memory is short."""
    pid = int((restored.scratch.data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while state(pid) not in "ZX" and time.monotonic() < end:
        time.sleep(0.01)


def state(pid: int) -> str:
    """Of a process, as proc(5) names it; X once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def killing(restored: Restored, number: int, visited: list[str]) -> Callable[[str, str], None]:
    """Notes each database; kills the server in the comparison of one of them."""

    def visit(database: str, dsn: str) -> None:
        visited.append(database)
        if len(visited) == number:
            kill(restored)

    return visit


def test_a_killed_scratch_server_is_no_verdict(shared: Source) -> None:
    fence, visited = fence_of(shared), list[str]()
    with restored_copy(shared, fence) as restored:
        with pytest.raises(ScratchKilled) as caught:
            compare_restored(shared.cluster, fence, restored, killing(restored, 1, visited))
        assert str(caught.value) == KILLED
        again = compare_restored(shared.cluster, fence, restored, killing(restored, 0, visited))
    assert visited == ["postgres", "postgres"]
    proof = make_proof(shared.archive, fence, restored.label, now, restored=restored, comparison=again)
    assert proof.proven, proof.summary
    assert proof.recovered
    assert all(proof.phases[name] > 0 for name in ("start", "count", "compare"))


def test_what_was_compared_at_an_earlier_cut_stays(shared: Source) -> None:
    """The copy has left that cut, so that it could not be compared there again."""
    for name in ("second", "third"):
        shared.sql(f"CREATE DATABASE {name}")
    shared.write_config("drill.connections = 1\n")
    visited: list[str] = []
    try:
        shared.backup()
        fence = fence_of(shared)
        assert len({database.cut for database in fence.databases}) > 1
        with restored_copy(shared, fence) as restored:
            with pytest.raises(ScratchKilled) as caught:
                compare_restored(shared.cluster, fence, restored, killing(restored, 2, visited))
            assert str(caught.value) == KILLED
            again = compare_restored(shared.cluster, fence, restored, killing(restored, 0, visited))
    finally:
        shared.write_config()
        for name in ("second", "third"):
            shared.sql(f"DROP DATABASE {name}")
    first, second, *rest = visited
    assert rest[0] == second
    assert first not in rest
    assert {first, second, *rest} == {database.database for database in fence.databases}
    proof = make_proof(shared.archive, fence, restored.label, now, restored=restored, comparison=again)
    assert proof.proven, proof.summary
    assert {table["database"] for table in proof.tables} >= {"postgres"}


def test_only_the_servers_own_program_is_ended(shared: Source, tmp_path: Path) -> None:
    """Somebody may look around in the copy's directory when its server is killed."""
    server = LocalServer(shared.bin, tmp_path, tmp_path, tmp_path / "log")
    shell = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    try:
        server.end_children()
        time.sleep(0.2)
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()
