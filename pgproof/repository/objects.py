"""The object store: S3, GCS, Azure and memory, all through obstore (Rust's object_store)."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from pgproof.errors import (
    ObjectExists,
    ObjectMissing,
    PgproofError,
    RepositoryMissing,
    RepositoryReadOnly,
    StoreUnavailable,
)
from pgproof.repository.credentials import none_found
from pgproof.repository.store import CHUNK, ObjectInfo, Source, check_key

_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403 Forbidden")
_PART = 16 << 20  # times S3's 10,000 parts: objects up to 156 GB


class ObjectStore:
    """Objects in a bucket.

    Args:
        inner: a store of the obstore package, already bound to bucket and prefix, that writes.
        url: for messages.
        reader: makes the store that reads, when that needs other time limits.
    """

    def __init__(self, inner: Any, url: str, reader: Callable[[], Any] | None = None) -> None:
        self.inner = inner
        self.url = url
        self._make_reader = reader

    @functools.cached_property
    def _reader(self) -> Any:
        return self._make_reader() if self._make_reader else self.inner

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        import obstore

        check_key(key)
        source = Source(data)
        try:
            with self._mapped(key, writing=True):
                if isinstance(data, bytes) or create:
                    # a conditional write is one request: stores have no conditional multipart upload
                    whole = b"".join(source)
                    obstore.put(
                        self.inner, key, whole, mode="create" if create else "overwrite", use_multipart=False
                    )
                else:
                    self._put_parts(key, source)
            return
        except BaseException:
            if source.failure is None:
                raise
        raise source.failure  # not the store's; an upload that had begun was aborted

    def _put_parts(self, key: str, source: Source) -> None:
        """Upload in a thread of its own, and take the chunks here.

        obstore would take them inside its runtime, where chunks that read from an object store themselves
        (a copy from one repository to another) end in a panic of Rust.
        """
        import obstore

        handed: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        whole = threading.Event()
        failure: list[BaseException] = []

        def chunks() -> Iterator[bytes]:
            while (chunk := handed.get()) is not None:
                yield chunk
            if not whole.is_set():
                raise InterruptedError("the chunks ended early")  # makes obstore abort the upload

        def upload() -> None:
            try:
                obstore.put(self.inner, key, chunks(), chunk_size=_PART, max_concurrency=4)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=upload, name="upload", daemon=True)
        thread.start()
        try:
            for chunk in source:
                if not _handed_over(chunk, handed, thread):
                    break
            else:
                whole.set()
        finally:
            _handed_over(None, handed, thread)
            thread.join()
        if failure:
            raise failure[0]

    def get(self, key: str) -> Iterator[bytes]:
        import obstore

        check_key(key)
        with self._mapped(key):
            result = obstore.get(self._reader, key)
        return self._chunks(key, result)

    def _chunks(self, key: str, result: Any) -> Iterator[bytes]:
        with self._mapped(key):
            for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        import obstore

        with self._mapped(prefix):
            for batch in obstore.list(self._reader, prefix=prefix.rstrip("/") or None):
                for meta in batch:
                    yield _info(meta["path"], meta)

    def children(self, prefix: str) -> Iterator[str]:
        """The names right below a prefix under which there are objects, without listing all of these."""
        import obstore

        with self._mapped(prefix):
            found = obstore.list_with_delimiter(self._reader, prefix=prefix.rstrip("/"))
        for path in found["common_prefixes"]:  # some stores keep one without objects, as a directory
            if next(self.list(path), None) is not None:
                yield path.rstrip("/").rsplit("/", 1)[-1]

    def head(self, key: str) -> ObjectInfo:
        import obstore

        check_key(key)
        with self._mapped(key):
            try:
                return _info(key, obstore.head(self._reader, key))
            except FileNotFoundError:  # S3 does not say what is missing, object or bucket: HEAD has no body
                return _info(key, obstore.get(self._reader, key).meta)

    def delete(self, key: str) -> None:
        import obstore

        check_key(key)
        with self._mapped(key):
            try:
                obstore.delete(self.inner, key)
            except FileNotFoundError as error:
                if not self._says_missing(str(error)):
                    raise

    @contextlib.contextmanager
    def _mapped(self, key: str, *, writing: bool = False) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except (exceptions.BaseError, FileNotFoundError) as error:  # obstore raises it for NotFoundError
            raise self._named(error, key, writing) from error

    def _named(self, error: Exception, key: str, writing: bool) -> PgproofError:
        from obstore import exceptions

        reason = " ".join(str(error).partition("Debug source:")[0].split())[:600]
        if (without := none_found(self.url, reason)) is not None:
            return without
        if "NoSuchBucket" in reason:
            return RepositoryMissing(f'the bucket of repository "{self.url}" does not exist', reason)
        if isinstance(error, FileNotFoundError) and not writing and self._says_missing(reason):
            return ObjectMissing(f'object "{key}" is not in the repository "{self.url}"')
        if isinstance(error, (exceptions.AlreadyExistsError, exceptions.PreconditionError)):
            return ObjectExists(f'object "{key}" is already in the repository "{self.url}"')
        denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if isinstance(error, denied) or any(code in reason for code in _DENIED):
            hint = "check the access key and what its policy allows"
            return RepositoryReadOnly(f'cannot access "{key}" in the repository "{self.url}"', reason, hint)
        return StoreUnavailable(f'could not access "{key}" in the repository "{self.url}"', reason)

    def _says_missing(self, reason: str) -> bool:
        """Whether it is the store that says so: a 404 may also be of a proxy whose store is away."""
        return "NoSuchKey" in reason or not self.url.lower().startswith("s3:")


def _info(key: str, meta: Any) -> ObjectInfo:
    return ObjectInfo(key, meta["size"], meta["last_modified"].timestamp())


def _handed_over(chunk: bytes | None, handed: queue.Queue[bytes | None], taker: threading.Thread) -> bool:
    """Whether a chunk found its way into the queue: not when its taker has ended."""
    while taker.is_alive():
        try:
            handed.put(chunk, timeout=0.2)
            return True
        except queue.Full:
            continue
    return False


def time_limits(*, reading: bool) -> dict[str, Any]:
    """Time limits of one request.

    A read may take as long as bytes come, for an object has no largest size; after 30 s without one it ends.
    A write gives no such sign of life while it sends: it ends after 5 minutes, 16 MB a part.
    """
    limits = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=5)}
    if reading:
        limits |= {"timeout": timedelta(days=30), "read_timeout": timedelta(seconds=30)}
    return limits


def retry_settings() -> dict[str, Any]:
    """Retries of one request: ended after 30 s, so that no command hangs on a store that is away."""
    backoff = {"base": 2, "init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)}
    return {"max_retries": 5, "retry_timeout": timedelta(seconds=30), "backoff": backoff}
