"""What only an S3 store can do wrong: access, absence, size of listings, and a network in between."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import S3Store

from pgproof.config import RepositoryConfig
from pgproof.errors import (
    ConfigError,
    LeaseHeld,
    ObjectExists,
    ObjectMissing,
    PermanentError,
    PgproofError,
    RepositoryMissing,
    RepositoryReadOnly,
    StoreUnavailable,
    TransientError,
)
from pgproof.repository.credentials import Credentials
from pgproof.repository.lease import Lease
from pgproof.repository.objects import ObjectStore, retry_settings
from pgproof.repository.opening import open_store
from pgproof.repository.repository import create_repository, open_repository
from pgproof.repository.store import Store, read
from tests.contracts.broken_s3 import BrokenS3, answer, answering, fault
from tests.servers.s3 import S3Server, free_ports, running_seaweedfs

KEY = Credentials("key", "secret")
MB = 1 << 20
Operation = Callable[[Store], object]

OPERATIONS: dict[str, Operation] = {
    "get": lambda store: read(store, "a/b"),
    "head": lambda store: store.head("a/b"),
    "list": lambda store: list(store.list("a/")),
    "put": lambda store: store.put("a/b", b"x"),
    "put chunks": lambda store: store.put("a/b", iter([b"x"])),
    "put parts": lambda store: store.put("a/b", iter([bytes(41 * MB)])),
    "create": lambda store: store.put("a/b", b"x", create=True),
    "delete": lambda store: store.delete("a/b"),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def broken_store(server: BrokenS3) -> Store:
    return open_store(RepositoryConfig(url="s3://bucket/prefix", endpoint=server.endpoint, patience=0), KEY)


def failure(operation: Operation, store: Store) -> PgproofError:
    with pytest.raises(PgproofError) as caught:
        operation(store)
    return caught.value


# ---- access


@every_operation
@pytest.mark.parametrize("wrong", ["secret", "key"])
def test_a_wrong_key_is_permanent(seaweedfs: S3Server, operation: Operation, wrong: str) -> None:
    credentials = Credentials(seaweedfs.access_key if wrong == "secret" else "nobody", "mistaken")
    error = failure(operation, open_store(seaweedfs.repository("contracts"), credentials))
    assert type(error) is RepositoryReadOnly
    assert isinstance(error, PermanentError)
    key = "a/" if operation is OPERATIONS["list"] else "a/b"
    assert error.fact == f'cannot access "{key}" in the repository "s3://contracts"'
    assert "403 Forbidden" in error.detail
    assert error.hint == "check the access key and what its policy allows"
    assert "mistaken" not in str(error)


def test_a_wrong_secret_is_not_taken_for_a_missing_repository(seaweedfs: S3Server) -> None:
    config = seaweedfs.repository("contracts", "nothing/here")
    for attempt in (open_repository, create_repository):
        with pytest.raises(RepositoryReadOnly):
            attempt(config, Credentials(seaweedfs.access_key, "wrong"))


@every_operation
def test_a_missing_bucket_is_a_missing_repository(seaweedfs: S3Server, operation: Operation) -> None:
    error = failure(operation, open_store(seaweedfs.repository("no-such-bucket", "p"), seaweedfs.credentials))
    assert type(error) is RepositoryMissing
    assert error.fact == 'the bucket of repository "s3://no-such-bucket/p" does not exist'
    assert "<Code>NoSuchBucket</Code>" in error.detail
    assert "Debug source" not in error.detail


def test_a_repository_is_made_and_opened_again(seaweedfs: S3Server) -> None:
    config = seaweedfs.repository("contracts", "made/once")
    made = create_repository(config, seaweedfs.credentials)
    assert create_repository(config, seaweedfs.credentials).identifier == made.identifier
    assert open_repository(config, seaweedfs.credentials).identifier == made.identifier


def test_the_key_comes_from_the_configuration(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPROOF_TEST_KEY", seaweedfs.access_key)
    monkeypatch.setenv("PGPROOF_TEST_SECRET", seaweedfs.secret_key)
    config = seaweedfs.repository(
        "contracts",
        "by-reference",
        access_key_id="env:PGPROOF_TEST_KEY",
        secret_access_key="env:PGPROOF_TEST_SECRET",
    )
    store = open_store(config)
    store.put("a", b"x")
    assert read(store, "a") == b"x"
    assert isinstance(store, ObjectStore)
    for text in (repr(config), repr(store.inner), repr(seaweedfs.credentials), repr(seaweedfs)):
        assert seaweedfs.secret_key not in text


@pytest.mark.parametrize(
    ("configured", "environment", "expected"),
    [
        (None, None, "us-east-1"),
        (None, "eu-central-1", "eu-central-1"),
        ("sa-east-1", "eu-central-1", "sa-east-1"),
    ],
)
def test_the_region_and_key_of_the_environment_count(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, environment: str | None, expected: str
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if environment:
        monkeypatch.setenv("AWS_REGION", environment)
    with answering(fault("404 Not Found", "NoSuchKey")) as server:
        config = RepositoryConfig(url="s3://bucket", endpoint=server.endpoint, region=configured)
        failure(OPERATIONS["get"], open_store(config))
    assert "Credential=of-the-environment/" in server.requests[0]
    assert f"/{expected}/s3/aws4_request" in server.requests[0]


def test_a_repository_that_is_there_is_not_written_again() -> None:
    """Not every store knows a conditional write: one that does not would take a new identifier."""
    with answering(answer("200 OK", b'{"format": 1, "repository": "the first"}')) as server:
        config = RepositoryConfig(url="s3://bucket", endpoint=server.endpoint)
        assert create_repository(config, KEY).identifier == "the first"
    assert {request.split()[0] for request in server.requests} == {"GET"}


# ---- objects


def test_a_listing_has_no_end_at_a_thousand(s3_store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: s3_store.put(f"wal/{n % 3}/{n:08X}", b"x"), range(1100)))
    assert {info.key for info in s3_store.list("wal/")} == {f"wal/{n % 3}/{n:08X}" for n in range(1100)}
    assert len(list(s3_store.list("wal/1/"))) == 367


def test_an_aborted_upload_leaves_no_parts_to_pay_for(seaweedfs: S3Server) -> None:
    bucket = seaweedfs.make_bucket("aborted")
    store = open_store(seaweedfs.repository(bucket), seaweedfs.credentials)

    def chunks() -> Iterator[bytes]:
        yield bytes(40 * MB)
        raise ValueError

    with pytest.raises(ValueError):
        store.put("torn", chunks())
    assert "Uploads" not in seaweedfs.client.list_multipart_uploads(Bucket=bucket)
    store.put("whole", iter([bytes(40 * MB)]))
    found = seaweedfs.client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(item["Key"], item["Size"]) for item in found] == [("whole", 40 * MB)]


def test_an_object_is_what_another_program_sees(seaweedfs: S3Server, s3_store: Store) -> None:
    s3_store.put("plain/ü and +/file.zst", b"content")
    prefix = s3_store.url.removeprefix("s3://contracts/")
    found = seaweedfs.client.get_object(Bucket="contracts", Key=f"{prefix}/plain/ü and +/file.zst")
    assert found["Body"].read() == b"content"


# ---- the network


@every_operation
def test_a_server_that_is_down_is_unavailable(operation: Operation) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    begin = time.monotonic()
    config = RepositoryConfig(url="s3://bucket", endpoint=endpoint, patience=0)
    error = failure(operation, open_store(config, KEY))
    assert time.monotonic() - begin < 15
    assert type(error) is StoreUnavailable
    assert isinstance(error, TransientError)
    assert error.fact.startswith('could not access "a/')
    assert endpoint in error.detail


def test_a_server_that_is_killed_during_a_read(tmp_path: Path) -> None:
    with running_seaweedfs(tmp_path) as server:
        server.make_bucket("bucket")
        store = open_store(server.repository("bucket", patience=0), server.credentials)
        store.put("large", iter([bytes(60 * MB)]))
        chunks = store.get("large")
        next(chunks)
        os.kill(server.pid, 9)
        with pytest.raises(StoreUnavailable):
            for _ in chunks:
                pass
        with pytest.raises(StoreUnavailable):
            store.head("large")


def test_a_server_that_never_answers_is_unavailable() -> None:
    with answering(b"") as server:
        quick = {"timeout": timedelta(seconds=30), "read_timeout": timedelta(seconds=0.5), "allow_http": True}
        retries = {**retry_settings(), "retry_timeout": timedelta(seconds=0.1)}
        inner = S3Store(
            "bucket",
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id="key",
            secret_access_key="secret",
            client_options=quick,  # type: ignore[arg-type]
            retry_config=retries,  # type: ignore[arg-type]
        )
        begin = time.monotonic()
        error = failure(OPERATIONS["get"], ObjectStore(inner, "s3://bucket"))
        assert time.monotonic() - begin < 10
        assert type(error) is StoreUnavailable


def test_reads_have_no_time_limit_as_long_as_bytes_come() -> None:
    """A limit on the whole of a request ended every download that took longer than that."""
    store = open_store(RepositoryConfig(url="s3://bucket", endpoint="http://127.0.0.1:1"), KEY)
    assert isinstance(store, ObjectStore)
    always = {"connect_timeout": "5s", "allow_http": "true"}
    assert store.inner.client_options == {**always, "timeout": "30days", "read_timeout": "30s"}
    for size, limit in (
        (0, "1m 34s"),
        (1, "34s"),
        (1 << 20, "1m 34s"),
        (16 << 20, "17m 34s"),
        (64 << 20, "4h 33m 34s"),
    ):
        silence = {} if size else {"read_timeout": "30s"}
        assert store._client(size).client_options == {**always, "timeout": limit, **silence}
    assert retry_settings()["retry_timeout"] == timedelta(seconds=30)


@pytest.mark.parametrize("operation", ["get", "head", "list", "put", "put chunks", "create", "delete"])
def test_a_404_that_is_not_the_stores_is_not_missing(operation: str) -> None:
    """A proxy whose store is away answers so; taken for "not archived", recovery would end too early."""
    with answering(answer("404 Not Found", b"default backend - 404")) as server:
        error = failure(OPERATIONS[operation], broken_store(server))
        assert type(error) is StoreUnavailable
        assert "404 Not Found: default backend - 404" in error.detail


def test_a_404_of_the_store_is_missing() -> None:
    with answering(fault("404 Not Found", "NoSuchKey")) as server:
        for operation in ("get", "head"):
            error = failure(OPERATIONS[operation], broken_store(server))
            assert type(error) is ObjectMissing
            assert str(error) == 'object "a/b" is not in the repository "s3://bucket/prefix"'
        OPERATIONS["delete"](broken_store(server))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (fault("503 Slow Down", "SlowDown"), StoreUnavailable),
        (fault("500 Internal Server Error", "InternalError"), StoreUnavailable),
        (fault("403 Forbidden", "AccessDenied"), RepositoryReadOnly),
        (fault("403 Forbidden", "SignatureDoesNotMatch"), RepositoryReadOnly),
        (fault("403 Forbidden", "RequestTimeTooSkewed"), RepositoryReadOnly),
        (fault("404 Not Found", "NoSuchBucket"), RepositoryMissing),
        (answer("200 OK", b"half", length=8), StoreUnavailable),
        (b"this is no HTTP\r\n\r\n", StoreUnavailable),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value[:40].decode().split("\r")[0],
)
def test_what_a_broken_server_says_for_get(sent: bytes, expected: type[PgproofError]) -> None:
    with answering(sent) as server:
        assert type(failure(OPERATIONS["get"], broken_store(server))) is expected


def test_a_passing_fault_is_tried_again() -> None:
    with answering(fault("503 Slow Down", "SlowDown"), answer("200 OK", b"content")) as server:
        assert read(broken_store(server), "a/b") == b"content"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["412 Precondition Failed", "304 Not Modified"])
def test_a_conditional_write_that_is_refused(status: str) -> None:
    with answering(fault(status, "PreconditionFailed"), answer("200 OK", b"another's")) as server:
        assert type(failure(OPERATIONS["create"], broken_store(server))) is ObjectExists
    assert "if-none-match: *" in server.requests[0].lower()


# ---- the endpoint


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "s3.example.com", "ftp://host", "http://", "::::", "https:/x"]
)
def test_endpoints_bad(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(RepositoryConfig(url="s3://bucket/p", endpoint=endpoint), KEY)
    assert caught.value.fact == f'endpoint "{endpoint}" of repository "s3://bucket/p" is not a URL'
    assert caught.value.hint.startswith("https://")


# ---- the lease, which stands on conditional writes


def test_one_lease_at_a_time(s3_store: Store) -> None:
    Lease(s3_store, "shop/1/lease.json", "a base backup").acquire()
    with pytest.raises(LeaseHeld):
        Lease(s3_store, "shop/1/lease.json", "expire").acquire()


def test_a_dead_lease_is_taken_by_one(s3_store: Store) -> None:
    s3_store.put("lease.json", b'{"expires": 0}')

    def take(number: int) -> bool:
        try:
            Lease(s3_store, "lease.json", f"taker {number}").acquire()
        except LeaseHeld:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 1
