"""What a killed drill left is removed by the next one, of whichever cluster; nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pgproof.validation.claim import make_claimed, remove_claimed, remove_leftovers

DYING = """
import os, pathlib, sys
from pgproof.validation.claim import make_claimed, make_socket
root = pathlib.Path(sys.argv[1])
make_claimed(root)
(root / "data").mkdir()
print(make_socket(root), flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_copy_of_a_killed_drill_of_any_cluster(tmp_path: Path) -> None:
    root = tmp_path / "other_shop-20261124T113400123456Z"
    done = subprocess.run([sys.executable, "-c", DYING, root], capture_output=True, text=True, check=False)
    socket = Path(done.stdout.strip())
    assert (done.returncode, root.is_dir(), socket.is_dir()) == (-9, True, True)
    assert remove_leftovers(tmp_path) == [root]
    assert (root.exists(), socket.exists()) == (False, False)


def test_what_is_not_a_leftover_stays(tmp_path: Path) -> None:
    working = tmp_path / "shop-20261124T113400123456Z"
    make_claimed(working)
    for name in ("shop", "shop-20261124", "Shop-20261124T113400123456Z", "x-20261124T113400123456Z"):
        (tmp_path / name).mkdir()
    (tmp_path / "shop" / "drill.lock").touch()
    (tmp_path / "y-20261124T113400123456Z").symlink_to(tmp_path / "shop")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert remove_leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    remove_claimed(working)


def test_a_scratch_directory_that_is_not_there(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "none") == []
