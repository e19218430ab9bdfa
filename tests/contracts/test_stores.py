"""The contract of a store. What only one kind can show is in test_posix.py and test_s3.py."""

from __future__ import annotations

import gc
import hashlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgproof.errors import (
    ObjectExists,
    ObjectMissing,
    PermanentError,
    StoreUnavailable,
    TransientError,
    UsageError,
)
from pgproof.repository.store import ObjectInfo, Store, read

MB = 1 << 20
MULTIPART = 41  # MB; more than two parts of 16 MB


class Boom(Exception):
    """What a test's chunks raise."""


def keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(info.key for info in store.list(prefix))


def megabytes(count: int) -> Iterator[bytes]:
    generator = random.Random(count)
    for _ in range(count):
        yield generator.randbytes(MB)


def digest(chunks: Iterator[bytes]) -> str:
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


# ---- put, get, head, list, delete


def test_what_was_put_is_got(store: Store) -> None:
    store.put("shop/1/backup.json", b"content")
    assert read(store, "shop/1/backup.json") == b"content"
    assert store.head("shop/1/backup.json") == ObjectInfo("shop/1/backup.json", 7)
    (found,) = store.list("shop/1/")
    assert found == ObjectInfo("shop/1/backup.json", 7)
    # when it was stored, by the store's clock: what was changed since is told by it
    assert abs(found.modified - time.time()) < 60
    assert abs(store.head("shop/1/backup.json").modified - found.modified) < 2


def test_chunks_are_joined(store: Store) -> None:
    store.put("key", iter([b"one ", b"", b"two ", b"three"]))
    assert read(store, "key") == b"one two three"


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("data", [b"", [], [b""]], ids=["bytes", "no chunks", "empty chunk"])
def test_an_empty_object_is_an_object(store: Store, data: bytes | list[bytes], create: bool) -> None:
    store.put("empty", data if isinstance(data, bytes) else iter(data), create=create)
    assert read(store, "empty") == b""
    assert store.head("empty") == ObjectInfo("empty", 0)
    assert list(store.list()) == [ObjectInfo("empty", 0)]


@pytest.mark.parametrize("second", [b"short", b"longer than the first"], ids=["shorter", "longer"])
@pytest.mark.parametrize("form", [bytes, lambda data: iter([data])], ids=["bytes", "chunks"])
def test_put_replaces_the_whole_object(store: Store, second: bytes, form: type[bytes]) -> None:
    store.put("key", b"first content")
    store.put("key", form(second))
    assert read(store, "key") == second
    assert list(store.list()) == [ObjectInfo("key", len(second))]


def test_a_listing_shows_an_object_as_soon_as_it_is_put(store: Store) -> None:
    for number in range(20):
        store.put(f"wal/00000001/{number:08X}", b"x")
        assert len(keys(store, "wal/")) == number + 1


def test_children_of_a_prefix_without_a_listing_of_all_below(store: Any) -> None:
    for key in ("shop/7/wal/1", "shop/7/wal/2", "shop/6/backups/a/b", "shop/plain", "shopping/5/x"):
        store.put(key, b"x")
    assert sorted(store.children("shop/")) == ["6", "7"]
    store.delete("shop/6/backups/a/b")  # a directory may be left of it
    assert sorted(store.children("shop/")) == ["7"]
    assert list(store.children("bank/")) == []


def test_a_listing_of_an_empty_store_is_empty(store: Store) -> None:
    assert list(store.list()) == []
    assert list(store.list("shop/")) == []


def test_a_prefix_ends_at_a_slash(store: Store) -> None:
    for key in ("a/b/1", "a/b/c/2", "a/bc/3", "a/b.json", "ab/4"):
        store.put(key, b"x")
    assert keys(store, "a/b/") == ["a/b/1", "a/b/c/2"]
    assert keys(store, "a/") == ["a/b.json", "a/b/1", "a/b/c/2", "a/bc/3"]
    assert keys(store) == ["a/b.json", "a/b/1", "a/b/c/2", "a/bc/3", "ab/4"]


def test_below_an_object_there_is_nothing(store: Store) -> None:
    store.put("a/b", b"x")
    assert keys(store, "a/b/") == []
    store.delete("a/b/c")
    for look in (store.head, store.get):
        with pytest.raises(ObjectMissing):
            look("a/b/c")


def test_a_directory_is_no_object(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a")
    for look in (store.head, store.get):
        with pytest.raises(ObjectMissing):
            look("a")
    assert keys(store) == ["a/b"]


def test_what_was_deleted_is_gone(store: Store) -> None:
    store.put("a/b", b"x")
    store.put("a/c", b"x")
    store.delete("a/b")
    assert keys(store) == ["a/c"]
    with pytest.raises(ObjectMissing):
        store.head("a/b")


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.delete("never/was")
    store.put("a", b"x")
    store.delete("a")
    store.delete("a")
    assert keys(store) == []


@pytest.mark.parametrize("look", ["head", "get"])
def test_a_missing_object_is_missing_and_not_unavailable(store: Store, look: str) -> None:
    store.put("wal/other", b"x")
    with pytest.raises(ObjectMissing) as caught:
        getattr(store, look)("wal/000000010000000000000001.zst")
    assert isinstance(caught.value, PermanentError)
    assert not isinstance(caught.value, TransientError)
    assert str(caught.value) == (
        f'object "wal/000000010000000000000001.zst" is not in the repository "{store.url}"'
    )


# ---- keys


@pytest.mark.parametrize(
    "name",
    [
        *(
            "sp ace",
            "per%cent",
            "per%20cent",
            "plus+",
            "a=b&c",
            "q?m",
            "h#h",
            "~",
            "(x)",
            "x*",
            "it's",
            'q"q',
        ),
        *("[b]", "{c}", "a:b", "a|b", "<>", "^", "`", "dot.", "..x", "...", ".hidden", "-dash", "$HOME", "@"),
        *(",;!", "ünï", "日本", "e\u0301", "\u00e9", "😀", "n" * 200),
    ],
)
def test_odd_keys_are_kept_as_they_are(store: Store, name: str) -> None:
    key = f"odd/{name}/{name}"
    store.put(key, name.encode(), create=True)
    assert read(store, key) == name.encode()
    assert store.head(key).key == key
    assert keys(store, f"odd/{name}/") == [key]
    with pytest.raises(ObjectExists):
        store.put(key, b"other", create=True)
    store.delete(key)
    assert keys(store) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "a//b",
        "a/",
        "a/../../b",
        "..",
        "./a",
        "a/.",
        "back\\slash",
        "new\nline",
        "nul\0",
        "tab\t",
    ],
)
def test_keys_that_are_refused_bad(store: Store, key: str) -> None:
    for attempt in (store.get, store.head, store.delete, lambda key: store.put(key, b"x")):
        with pytest.raises(UsageError) as caught:
            attempt(key)
        assert str(caught.value) == (
            f"object key {key!r} cannot be used\n"
            "DETAIL: Its parts between slashes are not empty, not . or .., and have no backslash "
            "and no control character."
        )
    assert keys(store) == []


# ---- create


@pytest.mark.parametrize("form", [bytes, lambda data: iter([data])], ids=["bytes", "chunks"])
def test_create_never_replaces(store: Store, form: type[bytes]) -> None:
    store.put("wal/1", form(b"first"), create=True)
    with pytest.raises(ObjectExists) as caught:
        store.put("wal/1", form(b"second"), create=True)
    assert str(caught.value) == f'object "wal/1" is already in the repository "{store.url}"'
    assert read(store, "wal/1") == b"first"
    assert keys(store) == ["wal/1"]
    store.delete("wal/1")
    store.put("wal/1", form(b"third"), create=True)
    assert read(store, "wal/1") == b"third"


def test_of_eight_creators_at_once_exactly_one_wins(store: Store) -> None:
    for number in range(3):  # the losers on S3 wait for their retries
        key = f"race/{number}"
        start = threading.Barrier(8)

        def create(me: int, key: str = key, start: threading.Barrier = start) -> int | None:
            start.wait()
            try:
                store.put(key, f"writer {me}".encode() * 1000, create=True)
            except ObjectExists:
                return None
            return me

        with ThreadPoolExecutor(8) as pool:
            winners = [me for me in pool.map(create, range(8)) if me is not None]
        assert len(winners) == 1
        assert read(store, key) == f"writer {winners[0]}".encode() * 1000
    assert len(keys(store)) == 3


def test_eight_writers_into_one_new_directory(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"deep/er/and/deeper/{n}", b"x" * n), range(64)))
    assert sorted(info.size for info in store.list("deep/")) == list(range(64))


# ---- nothing but whole objects


def test_an_object_is_not_there_before_it_is_whole(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        yield from megabytes(MULTIPART)
        assert keys(store) == []
        with pytest.raises(ObjectMissing):
            store.head("big")

    store.put("big", chunks())
    assert list(store.list()) == [ObjectInfo("big", MULTIPART * MB)]


def test_the_old_object_is_there_until_the_new_one_is_whole(store: Store) -> None:
    store.put("big", b"old")

    def chunks() -> Iterator[bytes]:
        yield from megabytes(MULTIPART)
        assert read(store, "big") == b"old"

    store.put("big", chunks())
    assert store.head("big").size == MULTIPART * MB


@pytest.mark.parametrize("before", [0, 1, MULTIPART], ids=lambda count: f"after {count} MB")
@pytest.mark.parametrize(
    "error",
    [
        Boom("boom"),
        StoreUnavailable("the other store is away"),
        FileNotFoundError(2, "the source is gone"),
        FileExistsError(17, "of the source"),
        OSError(28, "no space where the source is"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("create", [False, True], ids=["put", "create"])
def test_what_the_chunks_raise_is_raised_and_nothing_is_stored(
    store: Store, before: int, error: BaseException, create: bool
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(before):
            yield bytes(MB)
        raise error

    with pytest.raises(type(error)) as caught:
        store.put("torn", chunks(), create=create)
    assert caught.value is error
    assert error.__cause__ is None
    assert keys(store) == []
    with pytest.raises(ObjectMissing):
        store.head("torn")
    store.put("torn", b"whole now", create=create)
    assert read(store, "torn") == b"whole now"


def test_an_interrupted_replacement_leaves_the_old_object(store: Store) -> None:
    store.put("key", b"old")

    def chunks() -> Iterator[bytes]:
        yield from megabytes(MULTIPART)
        raise Boom

    with pytest.raises(Boom):
        store.put("key", chunks())
    assert read(store, "key") == b"old"
    assert list(store.list()) == [ObjectInfo("key", 3)]


# an interrupt in the very moment in which Python starts a thread ends that thread with a KeyError of its own
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in thread started by:pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupt_at_any_moment_leaves_nothing_or_the_whole_object(store: Store) -> None:
    moments = random.Random(11)

    def interrupt(*_: object) -> None:
        raise Boom

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    gc.disable()  # what is raised in a callback of the collector, as hypothesis has one, is lost
    try:
        for number in range(12):
            key = f"torn/{number}"
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.001, 0.3) if number else 0.001)
                store.put(key, (bytes(MB) for _ in range(MULTIPART)))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Boom:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert {info.size for info in store.list("torn/")} <= {MULTIPART * MB}
    assert interrupted


def test_one_store_can_be_copied_into_another(store: Store, s3_store: Store) -> None:
    s3_store.put("source/large", megabytes(MULTIPART))
    store.put("copy/large", s3_store.get("source/large"))
    store.put("copy/created", s3_store.get("source/large"), create=True)
    for key in ("copy/large", "copy/created"):
        assert digest(store.get(key)) == digest(megabytes(MULTIPART))


# ---- size


def test_a_large_object_comes_back_whole(store: Store) -> None:
    store.put("large", megabytes(50))
    assert store.head("large").size == 50 * MB
    assert digest(store.get("large")) == digest(megabytes(50))


def test_a_large_single_chunk_comes_back_whole(store: Store) -> None:
    content = random.Random(1).randbytes(40 * MB + 17)
    store.put("large", iter([content]))
    assert read(store, "large") == content


def test_a_reader_that_stops_early_leaves_nothing_open(store: Store) -> None:
    store.put("large", megabytes(20))
    for _ in range(50):
        chunks = store.get("large")
        assert len(next(chunks)) > 0
        chunks.close()  # type: ignore[attr-defined]
    assert store.head("large").size == 20 * MB


@pytest.mark.parametrize("kind", ["posix_store", "s3_store"])
def test_memory_stays_constant(kind: str, request: pytest.FixtureRequest) -> None:
    """300 MB through a process that may grow by 150: four parts of 16 MB in flight, and their copies."""
    store: Store = request.getfixturevalue(kind)
    store.put("warm", bytes(40 * MB))
    block = random.Random(7).randbytes(MB)
    _reset_peak()
    before = _status("VmRSS")
    store.put("huge", (block for _ in range(300)))
    assert sum(len(chunk) for chunk in store.get("huge")) == 300 * MB
    assert _status("VmHWM") - before < 150 * 1024


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be reset here: {error}")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
