"""The object store: S3, GCS, Azure and memory, all through obstore (Rust's object_store)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
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
from pgproof.repository.store import CHUNK, ObjectInfo

_PART = 16 << 20  # times S3's 10,000 parts: objects up to 156 GB


class ObjectStore:
    """Objects in a bucket.

    Args:
        inner: a store of the obstore package, already bound to bucket and prefix.
        url: for messages.
    """

    def __init__(self, inner: Any, url: str) -> None:
        self.inner = inner
        self.url = url

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        import obstore

        with self._mapped(key):
            if isinstance(data, bytes) or create:
                # a conditional write is one request: stores have no conditional multipart upload
                whole = data if isinstance(data, bytes) else b"".join(data)
                obstore.put(
                    self.inner, key, whole, mode="create" if create else "overwrite", use_multipart=False
                )
            else:
                self._put_parts(key, data)

    def _put_parts(self, key: str, chunks: Iterable[bytes]) -> None:
        import obstore

        failure: list[BaseException] = []

        def guarded() -> Iterator[bytes]:
            try:
                yield from chunks
            except BaseException as error:
                failure.append(error)
                raise

        try:
            obstore.put(self.inner, key, guarded(), chunk_size=_PART, max_concurrency=4)
        except Exception:
            if failure:  # the reason is ours, not the store's; the upload was aborted
                raise failure[0] from None
            raise

    def get(self, key: str) -> Iterator[bytes]:
        import obstore

        with self._mapped(key):
            result = obstore.get(self.inner, key)
        return self._chunks(key, result)

    def _chunks(self, key: str, result: Any) -> Iterator[bytes]:
        with self._mapped(key):
            for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        import obstore

        with self._mapped(prefix):
            for batch in obstore.list(self.inner, prefix=prefix.rstrip("/") or None):
                for meta in batch:
                    yield ObjectInfo(meta["path"], meta["size"])

    def head(self, key: str) -> ObjectInfo:
        import obstore

        with self._mapped(key):
            return ObjectInfo(key, obstore.head(self.inner, key)["size"])

    def delete(self, key: str) -> None:
        import obstore

        with self._mapped(key), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.inner, key)

    @contextlib.contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except exceptions.BaseError as error:
            raise self._named(error, key) from error
        except FileNotFoundError as error:
            raise ObjectMissing(f'object "{key}" is not in the repository "{self.url}"') from error

    def _named(self, error: Exception, key: str) -> PgproofError:
        from obstore import exceptions

        reason = " ".join(str(error).split())[:400]
        if isinstance(error, exceptions.NotFoundError):
            if "NoSuchBucket" in reason:
                return RepositoryMissing(f'the bucket of repository "{self.url}" does not exist', reason)
            return ObjectMissing(f'object "{key}" is not in the repository "{self.url}"')
        if isinstance(error, (exceptions.AlreadyExistsError, exceptions.PreconditionError)):
            return ObjectExists(f'object "{key}" is already in the repository "{self.url}"')
        denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if isinstance(error, denied) or "InvalidAccessKeyId" in reason or "SignatureDoesNotMatch" in reason:
            hint = "check the access key and what its policy allows"
            return RepositoryReadOnly(f'cannot access "{key}" in the repository "{self.url}"', reason, hint)
        return StoreUnavailable(f'could not access "{key}" in the repository "{self.url}"', reason)


def retry_settings() -> dict[str, Any]:
    """Retries of one request: ended after 30 s, so that no command hangs on a store that is away."""
    backoff = {"base": 2, "init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)}
    return {"max_retries": 5, "retry_timeout": timedelta(seconds=30), "backoff": backoff}
