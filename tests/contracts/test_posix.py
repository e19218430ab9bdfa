"""What only a file system can do wrong: durability, permissions, a full disk, a bad disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.errors import (
    NoRoom,
    ObjectExists,
    ObjectMissing,
    PermanentError,
    RepositoryReadOnly,
    StoreUnavailable,
    TransientError,
)
from pgproof.repository.posix import PosixStore
from pgproof.repository.store import read

ROOT = os.geteuid() == 0
SYNCED = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
PUT = """
import sys
from pathlib import Path
from pgproof.repository.posix import PosixStore
store = PosixStore(Path(sys.argv[1]))
try:
    store.put("shop/1/wal/segment", [b"new", b"content"], create=sys.argv[2] == "create")
except Exception as error:
    print(type(error).__name__)
    print(error)
else:
    print("stored")
"""


@pytest.fixture(scope="session")
def strace() -> str:
    """The program, when it may trace here."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run([program, "-qq", "-e", "trace=none", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
    return program


def put_traced(strace: str, root: Path, mode: str, *options: str) -> tuple[str, list[str], int]:
    """Run a put under strace: what it printed, its system calls on the repository, its exit code."""
    log = root.parent / "strace.log"
    command = [strace, "-f", "-y", "-s", "300", "-o", str(log), "-e", SYNCED, *options]
    done = subprocess.run(
        [*command, sys.executable, "-B", "-c", PUT, str(root), mode],
        capture_output=True,
        text=True,
        timeout=60,
    )
    calls = [line.split(None, 1)[1] for line in log.read_text().splitlines() if str(root.parent) in line]
    return done.stdout, calls, done.returncode


def steps(calls: list[str], root: Path) -> list[str]:
    """The calls in short: name and path below the root, a temporary name as ``TMP``."""
    found = []
    for call in calls:
        if "(" not in call or "= -1 ENOENT" in call:
            continue
        paths = [Path(path) for path in re.findall(rf"{re.escape(str(root.parent))}(?:/[^\"<>]*)?", call)]
        name = re.sub(r"(at)?2?$", "", call.split("(")[0]).replace("fdatasync", "fsync")
        short = (re.sub(r"\.tmp-[0-9a-f]+", "TMP", str(path.relative_to(root.parent))) for path in paths)
        found.append(" ".join([name, *dict.fromkeys(short)]))
    return found


# ---- durability (invariant 1)


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_put_returns_after_fsync_of_file_and_directories(strace: str, tmp_path: Path, mode: str) -> None:
    root = tmp_path / "r"
    printed, calls, _ = put_traced(strace, root, mode)
    assert printed == "stored\n"
    here = "r/shop/1/wal"
    made = ["mkdir r", "fsync .", "mkdir r/shop", "mkdir r/shop/1", "mkdir r/shop/1/wal"]
    written = [f"fsync {here}/TMP", "fsync r/shop/1", "fsync r/shop", "fsync r"]
    published = [f"{'link' if mode == 'create' else 'rename'} {here}/TMP {here}/segment", f"fsync {here}"]
    removed = [f"unlink {here}/TMP"] if mode == "create" else []
    assert steps(calls, root) == [*made, *written, *published, *removed]


def test_a_directory_that_another_writer_made_is_fsynced_too(strace: str, tmp_path: Path) -> None:
    """Its maker may not have come to that yet; with an object in it, it has."""
    root = tmp_path / "r"
    (root / "shop/1/wal").mkdir(parents=True)
    (root / "shop/1/wal/.tmp-of-another").touch()
    _, calls, _ = put_traced(strace, root, "create")
    synced = [step for step in steps(calls, root) if step.startswith("fsync")]
    assert synced == [
        "fsync r/shop/1/wal/TMP",
        "fsync r/shop/1",
        "fsync r/shop",
        "fsync r",
        "fsync r/shop/1/wal",
    ]
    (root / "shop/1/wal/segment").rename(root / "shop/1/wal/other")
    _, calls, _ = put_traced(strace, root, "create")
    synced = [step for step in steps(calls, root) if step.startswith("fsync")]
    assert synced == ["fsync r/shop/1/wal/TMP", "fsync r/shop/1/wal"]


def test_an_object_that_exists_is_durable_when_that_is_said(strace: str, tmp_path: Path) -> None:
    """Its writer may have been killed between link and fsync of the directory."""
    root = tmp_path / "r"
    PosixStore(root).put("shop/1/wal/segment", b"old")
    printed, calls, _ = put_traced(strace, root, "create")
    assert printed.splitlines()[0] == "ObjectExists"
    assert steps(calls, root) == ["fsync r/shop/1/wal"]


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_killed_at_any_step_it_is_there_whole_or_not_at_all(strace: str, tmp_path: Path, mode: str) -> None:
    whole = 0
    for step in range(1, 30):
        root = tmp_path / f"{step}" / "r"
        root.mkdir(parents=True)
        PosixStore(root).put("shop/1/wal/segment.before", b"before")
        if mode == "replace":
            PosixStore(root).put("shop/1/wal/segment", b"old")
        which = "inject=fsync,link,rename,unlink:signal=KILL"
        printed, _, code = put_traced(strace, root, mode, "-e", f"{which}:when={step}")
        store = PosixStore(root)
        listed = {info.key: info.size for info in store.list()}
        assert listed.pop("shop/1/wal/segment.before") == 6
        expected: list[bytes | None] = [b"newcontent", b"old" if mode == "replace" else None]
        assert (read(store, "shop/1/wal/segment") if listed else None) in expected
        assert set(listed) <= {"shop/1/wal/segment"}
        whole += listed == {"shop/1/wal/segment": 10}
        if printed == "stored\n":
            break
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert printed == "stored\n"
    assert 1 < step < 20
    assert whole


# ---- a disk that fails


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_bad_disk_is_unavailable_at_every_step(strace: str, tmp_path: Path, mode: str) -> None:
    for step in range(1, 30):
        root = tmp_path / f"{step}" / "r"
        root.mkdir(parents=True)
        printed, _, _ = put_traced(
            strace, root, mode, "-e", f"inject=fsync,link,rename:error=EIO:when={step}"
        )
        if printed == "stored\n":
            break
        assert printed == (
            "StoreUnavailable\n"
            f'could not access "shop/1/wal/segment" in the repository "file://{root}"\n'
            "DETAIL: Input/output error.\n"
        )
        left = [path.name for path in root.rglob("*") if path.is_file()]
        published = mode == "replace" and left == ["segment"]  # a rename cannot be taken back
        assert left == [] or published
    assert printed == "stored\n"
    assert step >= 6


def test_an_unreadable_disk_is_unavailable_and_not_missing(strace: str, tmp_path: Path) -> None:
    root = tmp_path / "r"
    PosixStore(root).put("shop/1/wal/segment", b"content")
    script = """
import sys
from pathlib import Path
from pgproof.repository.posix import PosixStore
from pgproof.repository.store import read
store = PosixStore(Path(sys.argv[1]))
for look in (lambda: read(store, "shop/1/wal/segment"), lambda: list(store.list("shop/"))):
    try:
        look()
    except Exception as error:
        print(type(error).__name__, error.detail)
"""
    faults = [
        "-e",
        "inject=read,getdents64:error=EIO",
        "-P",
        str(root / "shop"),
        "-P",
        str(root / "shop/1/wal/segment"),
    ]
    command = [strace, "-f", "-qq", "-o", "/dev/null", *faults, sys.executable, "-B", "-c", script, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "StoreUnavailable Input/output error.\n" * 2


# ---- room and permissions


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if not ROOT:
        pytest.skip("only root can mount a file system")
    place = tmp_path / "tiny"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.as_root
@pytest.mark.parametrize("create", [False, True])
def test_a_full_disk_leaves_nothing(tiny: Path, create: bool) -> None:
    store = PosixStore(tiny / "r")
    store.put("before", b"x" * 1000)
    for _ in range(3):
        with pytest.raises(NoRoom) as caught:
            store.put("large", (bytes(100_000) for _ in range(20)), create=create)
    assert str(caught.value) == (
        f'cannot write "large": no room in the repository "file://{tiny}/r"\n'
        "DETAIL: No space left on device.\n"
        f"HINT: df -h {tiny}/r; pgproof expire NAME --dry-run shows what could go"
    )
    assert isinstance(caught.value, PermanentError)
    assert sorted(path.name for path in tiny.rglob("*")) == ["before", "r"]
    store.put("small", b"y" * 500_000, create=create)
    assert read(store, "before") == b"x" * 1000


LIMITED = """
import resource, sys
from pathlib import Path
from pgproof.repository.posix import PosixStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
store = PosixStore(Path(sys.argv[1]))
try:
    store.put("large", (bytes(300_000) for _ in range(20)), create=sys.argv[2] == "create")
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path, mode: str) -> None:
    root = tmp_path / "r"
    command = [sys.executable, "-B", "-c", LIMITED, str(root), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        f'cannot write "large": no room in the repository "file://{root}"\n'
        "DETAIL: File too large.\n"
        f"HINT: df -h {root}; pgproof expire NAME --dry-run shows what could go\n"
    )
    assert list(root.iterdir()) == []


@pytest.mark.as_root
def test_a_file_system_mounted_read_only(tiny: Path) -> None:
    store = PosixStore(tiny)
    store.put("shop/object", b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    refused = (
        lambda: store.put("shop/new", b"y"),
        lambda: store.put("new/x", b"y"),
        lambda: store.delete("shop/object"),
    )
    for attempt in refused:
        with pytest.raises(RepositoryReadOnly) as caught:
            attempt()
        assert caught.value.detail == "Read-only file system."
    assert read(store, "shop/object") == b"x"


@pytest.mark.skipif(ROOT, reason="permissions do not bind root")
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    store = PosixStore(tmp_path / "r")
    store.put("shop/object", b"x")
    (tmp_path / "r/shop").chmod(0o555)
    try:
        for attempt in (
            lambda: store.put("shop/new", b"y"),
            lambda: store.put("shop/object", b"y", create=False),
        ):
            with pytest.raises(RepositoryReadOnly) as caught:
                attempt()
            assert isinstance(caught.value, PermanentError)
            assert caught.value.detail == "Permission denied."
            assert caught.value.hint == (
                f"ls -ld {tmp_path}/r; the account that runs pgproof must be able to write there"
            )
        with pytest.raises(RepositoryReadOnly):
            store.delete("shop/object")
        assert read(store, "shop/object") == b"x"
    finally:
        (tmp_path / "r/shop").chmod(0o755)


@pytest.mark.skipif(ROOT, reason="permissions do not bind root")
def test_what_may_not_be_read_is_refused_and_not_missing(tmp_path: Path) -> None:
    store = PosixStore(tmp_path / "r")
    store.put("shop/1/object", b"x")
    (tmp_path / "r/shop").chmod(0)
    try:
        for look in (
            store.head,
            store.get,
            lambda key: list(store.list("shop/")),
            lambda key: list(store.list()),
        ):
            with pytest.raises(RepositoryReadOnly):
                look("shop/1/object")
    finally:
        (tmp_path / "r/shop").chmod(0o755)


def test_a_path_whose_parent_is_a_file(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    store.put("a", b"x")
    with pytest.raises(StoreUnavailable) as caught:
        store.put("a/b", b"y")
    assert isinstance(caught.value, TransientError)
    with pytest.raises(ObjectMissing):
        store.get("a/b")


# ---- files that are no objects


def test_temporary_files_are_never_listed(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    store.put("shop/object", b"x")
    (tmp_path / "shop/.tmp-0123456789abcdef").write_bytes(b"left by a crash")
    seen: list[str] = []

    def chunks() -> Iterator[bytes]:
        yield b"x"
        seen.extend(path.name for path in (tmp_path / "shop").iterdir())
        assert [info.key for info in store.list()] == ["shop/object"]

    store.put("shop/another", chunks())
    assert sum(name.startswith(".tmp-") for name in seen) == 2
    assert sorted(info.key for info in store.list("shop/")) == ["shop/another", "shop/object"]


def test_unfinished_files_are_removed_where_nobody_writes_or_after_a_time(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    for name in ("backups/a/object", "wal/object", "wal/.tmp"):  # the last is an object of somebody else's
        store.put(f"shop/{name}", b"x")
    for name in ("backups/a/.tmp-1", "wal/.tmp-old", "wal/.tmp-new"):
        (tmp_path / "shop" / name).write_bytes(b"left by a crash")
    os.utime(tmp_path / "shop/wal/.tmp-old", (1000, 1000))

    store.remove_unfinished("shop/backups/")
    store.remove_unfinished("shop/", 2000)
    store.remove_unfinished("shop/nothing/")

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["shop/backups/a/object", "shop/wal/.tmp", "shop/wal/.tmp-new", "shop/wal/object"]


def test_put_wins_against_the_removal_of_empty_directories(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    over = threading.Event()

    def remove() -> None:
        while not over.is_set():
            store.remove_empty_directories("shop/")

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for number in range(300):
            store.put("shop/1/wal/segment", b"x", create=True)
            assert store.head("shop/1/wal/segment").size == 1, number
            store.delete("shop/1/wal/segment")
    finally:
        over.set()
        thread.join()


def test_empty_directories_go_and_others_stay(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    store.put("shop/1/kept/object", b"x")
    store.put("shop/1/gone/deep/object", b"x")
    store.delete("shop/1/gone/deep/object")
    store.remove_empty_directories("shop/1/")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "shop",
        "shop/1",
        "shop/1/kept",
        "shop/1/kept/object",
    ]


def test_a_link_whose_answer_was_lost_has_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a call whose answer did not come, and the second one says that the name is taken: by ourselves."""
    link = os.link

    def repeated(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    store = PosixStore(tmp_path)
    monkeypatch.setattr(os, "link", repeated)
    store.put("a/lease.json", b"ours", create=True)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lease.json"]
    with pytest.raises(ObjectExists):
        store.put("a/lease.json", b"ours", create=True)
