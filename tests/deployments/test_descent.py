"""The processes below a process, wherever they went."""

from __future__ import annotations

import subprocess
import sys

from deployments.descent import descendants, kill_all
from tests.deployments.upped import until

PROGRAM = """
import subprocess, sys
subprocess.Popen(["sleep", "60"])
subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
print("started", flush=True)
sys.stdin.read()
"""


def test_children_and_theirs_are_found_and_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        found = until(lambda: descendants(process.pid), lambda seen: len(seen) == 3, 10)
        assert len(found) == 3
        kill_all(found)
        assert until(lambda: alive(found), lambda left: not left, 10) == []
        kill_all(found)  # they are gone, and that is no fault
        process.communicate()


def alive(processes: list[int]) -> list[int]:
    """Those that run; a zombie has ended."""
    left = []
    for process in processes:
        try:
            with open(f"/proc/{process}/stat") as file:
                left += [process] if file.read().rpartition(")")[2].split()[0] != "Z" else []
        except OSError:
            continue
    return left
