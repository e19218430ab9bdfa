"""A store that is slow, refuses for seconds, loses answers or trickles: patience by time, and what is said of it."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pgproof.config import RepositoryConfig
from pgproof.errors import ObjectExists, PgproofError, RepositoryMissing, RepositoryReadOnly, StoreUnavailable
from pgproof.repository.credentials import Credentials
from pgproof.repository.lease import Lease
from pgproof.repository.opening import open_store
from pgproof.repository.store import Store, read
from tests.contracts.broken_s3 import answering, fault
from tests.servers.proxy import AFTER, BEFORE, HANG, KINDS, LOST, SLOW, TRUNCATE, Proxy, faulty
from tests.servers.s3 import S3Server

MB = 1 << 20
Open = Callable[..., Store]


@pytest.fixture(scope="module")
def proxy(seaweedfs: S3Server) -> Iterator[Proxy]:
    with faulty(seaweedfs) as found:
        yield found


@pytest.fixture
def opened(proxy: Proxy) -> Iterator[Open]:
    """Opens a store of its own for the test, behind the proxy, with these keys of the configuration."""
    prefix = f"bad-{uuid.uuid4()}"

    def open_(say: Callable[[str], None] = lambda text: None, **keys: int) -> Store:
        config = proxy.server.repository("contracts", prefix, **keys)
        return open_store(config, proxy.server.credentials, say)

    yield open_
    proxy.heal()


OPERATIONS: dict[str, Callable[[Store, str], object]] = {
    "get": lambda store, key: read(store, key) == b"before",
    "head": lambda store, key: store.head(key).size == 6,
    "list": lambda store, key: [info.key for info in store.list(f"{key.partition('/')[0]}/")] == [key],
    "children": lambda store, key: list(store.children(f"{key.partition('/')[0]}/")),  # type: ignore[attr-defined]
    "put": lambda store, key: store.put(key, b"after"),
    "put chunks": lambda store, key: store.put(key, iter([b"af", b"ter"])),
    "put parts": lambda store, key: store.put(key, iter([bytes(MB)] * 17)),
    "create": lambda store, key: store.put(f"{key}.new", b"after", create=True),
    "delete": lambda store, key: store.delete(key),
}


# ---- patience


def test_a_store_that_refuses_for_seconds_is_waited_for(seaweedfs: S3Server, opened: Open) -> None:
    """The retries of the library are over after about a second; each operation has a proxy, as all wait at once."""
    plain = opened(patience=0)
    for name in OPERATIONS:
        plain.put(f"{name.replace(' ', '-')}/key", b"before")

    def attempt(name: str) -> float:
        with faulty(seaweedfs) as proxy:
            config = plain.url.removeprefix("s3://contracts/")
            store = open_store(
                proxy.server.repository("contracts", config, patience=60), seaweedfs.credentials
            )
            proxy.break_(BEFORE, seconds=2.5)
            began = time.monotonic()
            result = OPERATIONS[name](store, f"{name.replace(' ', '-')}/key")
            assert result is not False, name
            return time.monotonic() - began

    with ThreadPoolExecutor(len(OPERATIONS)) as pool:
        took = dict(zip(OPERATIONS, pool.map(attempt, OPERATIONS), strict=True))
    assert min(took.values()) > 2.0
    assert plain.head("put-parts/key").size == 17 * MB
    assert read(plain, "create/key.new") == b"after"
    assert [info.key for info in plain.list("delete/")] == []


def test_what_it_waits_for_is_said_once(proxy: Proxy, opened: Open) -> None:
    said: list[str] = []
    store = opened(said.append, patience=60)
    store.put("a", b"x")
    proxy.break_(BEFORE, seconds=3)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: read(store, "a"), range(4))) == [b"x"] * 4
    assert len(said) == 2, said
    assert re.fullmatch(r"the store answers 503 SlowDown; trying again until \d\d:\d\d:\d\d", said[0])
    assert re.fullmatch(r"the store answers again, after \d+\.\d s", said[1])


def test_patience_ends_by_time(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=3)
    proxy.break_(BEFORE)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        store.put("a", b"x")
    assert 3 <= time.monotonic() - began < 15
    assert re.search(r"503 .*SlowDown.* Tried \d+ times in \d+\.\d s\.$", caught.value.detail)
    assert caught.value.hint == "patience of the repository says for how long"


def test_patience_of_all_requests_together_ends(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=60, total_patience=2)
    proxy.break_(BEFORE)
    began = time.monotonic()
    for key in "ab":
        with pytest.raises(StoreUnavailable):
            store.head(key)
    assert time.monotonic() - began < 20


def test_a_server_that_is_down_is_waited_for(seaweedfs: S3Server, opened: Open) -> None:
    said: list[str] = []
    with faulty(seaweedfs) as proxy:
        config = proxy.server.repository("contracts", "down", patience=3)
    with pytest.raises(StoreUnavailable):
        read(open_store(config, seaweedfs.credentials, said.append), "a")
    assert said[0].startswith("the store does not answer; trying again until ")


@pytest.mark.parametrize(
    ("sent", "hint"),
    [
        (
            fault("400 Bad Request", "ExpiredToken"),
            "the session token is no longer valid; get a new access key",
        ),
        (fault("403 Forbidden", "RequestTimeTooSkewed"), "timedatectl; the clock of this machine"),
        (fault("403 Forbidden", "AccessDenied"), "check the access key and what its policy allows"),
    ],
    ids=["expired", "clock", "denied"],
)
def test_what_waiting_does_not_cure_ends_at_once(sent: bytes, hint: str) -> None:
    with answering(sent) as server:
        config = RepositoryConfig(url="s3://bucket/prefix", endpoint=server.endpoint, patience=300)
        store = open_store(config, Credentials("key", "secret"))
        began = time.monotonic()
        for attempt in (lambda: read(store, "a"), lambda: store.put("a", b"x")):
            with pytest.raises(RepositoryReadOnly) as caught:
                attempt()
            assert caught.value.hint.startswith(hint)
        assert time.monotonic() - began < 5


def test_wrong_keys_and_a_missing_bucket_end_at_once(seaweedfs: S3Server) -> None:
    cases: list[tuple[str, Credentials, type[PgproofError]]] = [
        ("contracts", replace(seaweedfs.credentials, secret_access_key="wrong"), RepositoryReadOnly),
        ("no-such-bucket", seaweedfs.credentials, RepositoryMissing),
    ]
    for bucket, credentials, expected in cases:
        store = open_store(seaweedfs.repository(bucket, patience=300), credentials)
        began = time.monotonic()
        with pytest.raises(expected):
            read(store, "a")
        assert time.monotonic() - began < 5


# ---- an answer that is lost


@pytest.mark.parametrize("kind", [LOST, AFTER, TRUNCATE])
@pytest.mark.parametrize("times", [1, 3], ids=["once", "often"])
def test_a_create_whose_answer_is_lost_has_succeeded(
    proxy: Proxy, opened: Open, kind: str, times: int
) -> None:
    store = opened(patience=60)
    proxy.break_(kind, method="PUT", times=times)
    store.put("created", b"ours", create=True)
    proxy.heal()
    assert read(store, "created") == b"ours"
    for other in (b"theirs", b"other"):  # of another size, and of the same
        with pytest.raises(ObjectExists):
            store.put("created", other, create=True)


def test_a_lease_whose_answer_is_lost_is_ours(proxy: Proxy, opened: Open) -> None:
    proxy.break_(LOST, method="PUT", key="lease.json", times=1)
    lease = Lease(opened(patience=60), "lease.json", "a test")
    lease.acquire()
    lease.check()
    lease.release()


# ---- a read that breaks, a list that breaks


@pytest.mark.parametrize("kind", [TRUNCATE, LOST, AFTER, BEFORE])
def test_a_read_goes_on_where_it_broke(proxy: Proxy, opened: Open, kind: str) -> None:
    store = opened(patience=60)
    content = uuid.uuid4().bytes * (4 * MB // 16)
    store.put("large", content)
    proxy.break_(kind, method="GET", times=8)
    assert read(store, "large") == content


# ---- too slow


def test_a_store_that_trickles_is_too_slow(proxy: Proxy, opened: Open) -> None:
    """A byte came every now and then, and no limit of time between two bytes was reached: list did not end."""
    store = opened(patience=2, answer_timeout=1, least_rate=100)
    store.put("a", bytes(2000))
    proxy.break_(SLOW, method="GET", rate=20)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        read(store, "a")
    assert time.monotonic() - began < 20
    assert re.search(r"It came with \d+ bytes a second, in 1 s; the least is 100\.", caught.value.detail)
    assert "least_rate" in caught.value.hint


def test_a_listing_that_trickles_is_too_slow(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=1, answer_timeout=1, least_rate=1 << 20)
    store.put("a", b"x")
    proxy.break_(SLOW, method="GET", rate=20)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        list(store.list())
    assert time.monotonic() - began < 45


def test_a_slow_reader_is_no_slow_store(opened: Open) -> None:
    store = opened(patience=0, answer_timeout=1, least_rate=16 << 10)
    store.put("a", bytes(3 * MB))
    count = 0
    for chunk in store.get("a"):
        count += len(chunk)
        time.sleep(0.5)
    assert count == 3 * MB


def test_a_command_has_a_limit(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=300, command_timeout=2)
    proxy.break_(BEFORE)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        read(store, "a")
    assert time.monotonic() - began < 12
    proxy.heal()
    with pytest.raises(StoreUnavailable) as caught:
        read(store, "a")
    assert caught.value.fact == 'the time limit of 2.0 s is over, and "a" was not reached'


# ---- an upload that fails in the middle


def test_an_upload_is_sent_again_from_what_was_kept(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=60)
    drawn = []

    def chunks() -> Iterator[bytes]:
        for number in range(40):
            drawn.append(number)
            yield bytes([number]) * MB

    proxy.break_(BEFORE, method="PUT", key="partNumber=2", seconds=4)
    store.put("large", chunks())
    assert drawn == list(range(40))
    assert read(store, "large") == b"".join(bytes([number]) * MB for number in range(40))
    starts = [
        found for found in proxy.requests if found.method == "POST" and found.query.startswith("uploads")
    ]
    assert len(starts) > 1  # it began again


def test_an_upload_larger_than_what_is_kept_says_why(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=60, retry_buffer=8 * MB)
    proxy.break_(BEFORE, method="PUT", key="partNumber=2")
    with pytest.raises(StoreUnavailable) as caught:
        store.put("large", iter([bytes(MB)] * 40))
    assert "It could not be tried again" in caught.value.detail
    assert "retry_buffer keeps 8.4 MB of an upload" in caught.value.detail
    assert "TMPDIR" in caught.value.hint


def test_an_upload_that_nothing_is_kept_of_leaves_no_thread(proxy: Proxy, opened: Open) -> None:
    store = opened(patience=0)
    proxy.break_(BEFORE, method="PUT", key="partNumber=2")
    with pytest.raises(StoreUnavailable):
        store.put("large", iter([bytes(MB)] * 40))
    assert not [thread for thread in threading.enumerate() if thread.name == "upload"]


# ---- every operation, every fault


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_survives_one_fault(proxy: Proxy, opened: Open, name: str, kind: str) -> None:
    store = opened(patience=60, answer_timeout=2)
    key = f"{name.replace(' ', '-')}/key"
    store.put(key, b"before")
    proxy.heal()
    proxy.break_(kind, times=1)
    assert OPERATIONS[name](store, key) is not False
    assert kind != HANG or proxy.faults[0].met
