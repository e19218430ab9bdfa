"""As root, what is written for an account follows no link to where that account may not write."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.postgres.programs import account
from pgproof.postgres.rights import acting_as, make_directory, own_tree, owner_of
from pgproof.repository.posix import PosixStore
from pgproof.restore.extract import extract_member
from pgproof.restore.whole_file import replace_file
from pgproof.validation.scratch import Scratch, isolate
from tests.servers.place import make_directory as made
from tests.servers.place import place

pytestmark = pytest.mark.as_root
OWNER = account(None) if os.geteuid() == 0 else None


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory of the server's account."""
    root = made()
    yield root
    shutil.rmtree(root)


@pytest.fixture
def ours() -> Iterator[Path]:
    """A directory of root's that every account can pass."""
    root = Path(tempfile.mkdtemp(dir=place()))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def victim(ours: Path) -> Path:
    path = ours / "victim"
    path.mkdir(mode=0o755)
    (path / "pg_hba.conf").write_text("of root")
    (path / "pg_hba.conf").chmod(0o600)
    return path


def untouched(victim: Path) -> bool:
    file = victim / "pg_hba.conf"
    found = file.stat()
    return (file.read_text(), found.st_uid, found.st_mode & 0o777, os.listdir(victim)) == (
        "of root",
        0,
        0o600,
        ["pg_hba.conf"],
    )


def test_only_for_the_block_and_this_thread(victim: Path, theirs: Path) -> None:
    assert OWNER is not None
    seen: list[str] = []
    now = threading.Event()

    def look() -> None:
        now.wait(30)
        seen.append((victim / "pg_hba.conf").read_text())

    other = threading.Thread(target=look)
    other.start()
    with acting_as(OWNER), acting_as(OWNER):
        with pytest.raises(PermissionError):
            (victim / "pg_hba.conf").read_text()
        (theirs / "file").touch()
        now.set()
        other.join()
    assert (theirs / "file").stat().st_uid == OWNER.pw_uid
    assert [*seen, (victim / "pg_hba.conf").read_text()] == ["of root"] * 2


def test_what_a_restore_writes(victim: Path, theirs: Path) -> None:
    (theirs / "base").symlink_to(victim)
    (theirs / "pg_hba.conf").symlink_to(victim / "pg_hba.conf")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in ("base/new", "base/pg_hba.conf", "pg_hba.conf"):
            tar.addfile(tarfile.TarInfo(name))
    content.seek(0)
    with tarfile.open(fileobj=content) as tar:
        for member in tar:
            with pytest.raises(OSError, match=r"Permission denied|File exists"):
                extract_member(tar, member, theirs, True, OWNER)
    with pytest.raises(PermissionError):
        replace_file(theirs / "base" / "pg_hba.conf", b"evil", OWNER)
    replace_file(theirs / "pg_hba.conf", b"new", OWNER)  # it takes the place of the link
    assert not (theirs / "pg_hba.conf").is_symlink() and owner_of(theirs / "pg_hba.conf") == owner_of(theirs)
    assert untouched(victim)


def test_what_a_drill_writes(victim: Path, ours: Path) -> None:
    scratch = Scratch(ours / "scratch")
    scratch.root.mkdir()
    scratch.root.chmod(0o711)
    scratch.data.symlink_to(victim)
    with pytest.raises(PermissionError):
        isolate(scratch, OWNER)
    scratch.data.unlink()
    make_directory(scratch.data, OWNER)
    (scratch.data / "postgresql.auto.conf").symlink_to(victim / "pg_hba.conf")
    (scratch.root / "pg_hba.conf").symlink_to(victim / "pg_hba.conf")
    isolate(scratch, OWNER)
    assert (scratch.root / "pg_hba.conf").read_text() == "local all all trust\n"
    assert untouched(victim)


def test_what_a_repository_gets(victim: Path, theirs: Path) -> None:
    store = PosixStore(theirs)
    store.put("cluster/object", [b"1"])
    assert OWNER is not None
    for path in (theirs / "cluster", theirs / "cluster" / "object"):
        assert path.stat().st_uid == OWNER.pw_uid
    (theirs / "elsewhere").symlink_to(victim)
    with pytest.raises(Exception, match=r"(?i)permission|write"):
        store.put("elsewhere/pg_hba.conf", [b"evil"])
    assert untouched(victim)


def test_directories_and_trees(victim: Path, theirs: Path, ours: Path) -> None:
    assert OWNER is not None
    make_directory(ours / "a" / "b", OWNER)
    assert [(p.stat().st_uid, p.stat().st_mode & 0o777) for p in (ours / "a", ours / "a" / "b")] == [
        (0, 0o755),
        (OWNER.pw_uid, 0o700),
    ]
    (theirs / "link").symlink_to(victim)
    make_directory(theirs / "own", OWNER)
    assert (theirs / "own").stat().st_uid == OWNER.pw_uid
    tree = ours / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "link").symlink_to(victim / "pg_hba.conf")
    own_tree(tree, OWNER)
    assert {path.lstat().st_uid for path in (tree, *tree.rglob("*"))} == {OWNER.pw_uid}
    assert untouched(victim)
