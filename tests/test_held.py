"""Held directories: killed at any moment, what they had is found, and removed by the next; what is held stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.held import LOCK, leftovers, make_held, remove_leftovers, temporary_directory
from pgproof.private import why_open

# Each time the process is killed at the next of its calls; a fork is one, as the interpreter's start costs the time
KILLED = """
import os, signal, sys
from pathlib import Path
from pgproof.held import SCRATCH, leftovers, remove_leftovers, size_of, temporary_directory
from pgproof.validation.claim import make_claimed, remove_claimed

place, what = Path(sys.argv[1]), sys.argv[2]
STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open", "fcntl.flock", "os.listdir", "os.scandir")
left = limit = 0

def work():
    if what == "drill":
        root = place / "shop-20261124T113400123456Z"
        make_claimed(root)
        (root / "data" / "base").mkdir(parents=True)
        (root / "data" / "base" / "1").write_bytes(bytes(1000))
        (root / "objects.json").write_text("{}")
        remove_claimed(root)
    else:
        with temporary_directory("wal", place=place) as directory:
            (directory / "000000010000000000000001").write_bytes(bytes(1000))

def dying(event, arguments):
    global limit
    if event in STEPS:
        limit -= 1
        if limit < 0:
            os.kill(os.getpid(), signal.SIGKILL)

step = 0
while True:
    limit, child = step, os.fork()
    if child == 0:
        sys.addaudithook(dying)
        work()
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    there = sorted(place.iterdir())
    names = (SCRATCH,) if what == "drill" else ()
    found = leftovers(place, *names)
    if what == "drill":
        assert [one.path for one in found] == there, (step, found, there)
    for one in there if what != "drill" else ():
        os.utime(one, (1, 1))  # what has no lock yet may be another version's, for a day
    assert sorted(remove_leftovers(place, *names)) == there, (step, there)
    assert list(place.iterdir()) == [], step
    if not killed:
        break
    left, step = left + bool(there), step + 1
print(step, left)
"""


@pytest.mark.parametrize("what", ["drill", "command"])
def test_killed_at_any_moment_nothing_stays(what: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps, left = map(int, done.stdout.split())
    assert steps > 10 and left > 10


def test_what_is_held_stays(tmp_path: Path) -> None:
    with temporary_directory("wal", place=tmp_path) as directory:
        (directory / "file").touch()
        script = "import sys, pathlib; from pgproof.held import *; print(remove_leftovers(pathlib.Path(sys.argv[1])))"
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
        )
        assert (done.stdout, leftovers(tmp_path)) == ("[]\n", [])
        assert (directory / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_has_a_size(tmp_path: Path) -> None:
    held = make_held(tmp_path, "pgproof-wal-")
    (held.path / "in").mkdir()
    (held.path / "in" / "segment").write_bytes(bytes(4321))
    os.close(held.lock)  # as the kernel does for a process that is killed
    (left,) = leftovers(tmp_path)
    assert (left.path, left.size) == (held.path, 4321)
    assert remove_leftovers(tmp_path) == [held.path]


def test_what_is_not_ours_or_not_of_such_a_name_stays(tmp_path: Path) -> None:
    for name in ("pgproof-other-x", "wal", "pgproof-wal-new"):
        (tmp_path / name).mkdir()
    (tmp_path / "pgproof-wal-link").symlink_to(tmp_path / "wal")
    (tmp_path / "wal" / LOCK).touch()
    before = sorted(tmp_path.iterdir())
    assert remove_leftovers(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == before


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    place, victim = tmp_path / "pgproof-wal-x", tmp_path / "victim"
    place.mkdir()
    (place / LOCK).symlink_to(victim)
    assert remove_leftovers(tmp_path) == []
    assert place.exists() and not victim.exists()


def test_whose_a_directory_is(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    assert why_open(place) == ""
    assert why_open(place / "not" / "yet") == ""
    assert why_open(Path("/tmp/pgproof-none")) == ""  # nobody removes there what is another's
    assert why_open(Path("/tmp")) == "other accounts can write in /tmp"
    place.parent.chmod(0o777)
    assert why_open(place) == f"other accounts can write in {place.parent}"
    place.parent.chmod(0o1777)
    assert why_open(place) == ""
    assert why_open(place.parent) == f"other accounts can write in {place.parent}"
    link = tmp_path / "link"
    link.symlink_to(place.parent)
    assert why_open(link) == f"other accounts can write in {link.resolve()}"
