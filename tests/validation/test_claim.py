"""What a killed drill left is removed by the next one; a place that others can write in is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.errors import DestinationRefused, LeaseHeld
from pgproof.held import SCRATCH, leftovers
from pgproof.validation.claim import claim, make_claimed, remove_claimed, remove_leftovers

NAME = "other_shop-20261124T113400123456Z"
DYING = """
import os, pathlib, sys
from pgproof.validation.claim import make_claimed
root = pathlib.Path(sys.argv[1])
make_claimed(root)
(root / "data").mkdir()
print("made", flush=True)
{}
"""


def test_the_copy_of_a_killed_drill_of_any_cluster(tmp_path: Path) -> None:
    root = tmp_path / NAME
    script = DYING.format("os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=False)
    assert (done.returncode, root.is_dir()) == (-9, True)
    assert remove_leftovers(tmp_path) == [root]
    assert list(tmp_path.iterdir()) == []


def test_one_that_lost_its_lock_first(tmp_path: Path) -> None:
    """It was left for ever: a removal in the order of the directory had been killed behind the lock."""
    root = tmp_path / "evil-20260101T000000000000Z"
    (root / "data").mkdir(parents=True)
    (root / "data" / "x").write_bytes(bytes(100))
    (left,) = leftovers(tmp_path, SCRATCH)
    assert (left.path, left.size) == (root, 100)
    assert remove_leftovers(tmp_path) == [root]
    assert list(tmp_path.iterdir()) == []


def test_one_that_a_living_drill_has(tmp_path: Path) -> None:
    root = tmp_path / NAME
    script = DYING.format("sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", script, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as drill:
        assert drill.stdout is not None and drill.stdout.readline() == "made\n"
        assert remove_leftovers(tmp_path) == []
        remove_claimed(root)
        with pytest.raises(LeaseHeld, match="is in use by another drill"):
            claim(root)
        assert (root / "data").is_dir()
        drill.kill()
    claim(root)
    remove_claimed(root)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_leftover_stays(tmp_path: Path) -> None:
    working = tmp_path / "shop-20261124T113400123456Z"
    make_claimed(working)
    for name in ("shop", "shop-20261124", "Shop-20261124T113400123456Z"):
        (tmp_path / name).mkdir()
    (tmp_path / "y-20261124T113400123456Z").symlink_to(tmp_path / "shop")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert remove_leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    remove_claimed(working)


def test_a_scratch_directory_that_is_not_there(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "none") == []


def test_a_place_is_made_for_us_alone(tmp_path: Path) -> None:
    root = tmp_path / "scratch" / NAME
    make_claimed(root)
    assert [path.stat().st_mode & 0o777 for path in (root.parent, root)] == [0o700, 0o700]
    remove_claimed(root)


def test_a_place_that_others_can_write_in_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(DestinationRefused) as caught:
        make_claimed(place / NAME)
    assert str(caught.value) == (
        f'scratch directory "{place}" is not ours alone\n'
        f"DETAIL: Other accounts can write in {place}: "
        "whoever can put links there can have any of our files replaced.\n"
        "HINT: chmod go-w what is named and chown it, or set scratch_directory in the cluster's drill section"
    )
    assert os.listdir(place) == []
