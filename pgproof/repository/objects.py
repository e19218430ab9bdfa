"""The object store: S3, GCS, Azure and memory, all through obstore (Rust's object_store)."""

from __future__ import annotations

import contextlib
import copy
import queue
import tempfile
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
from pgproof.repository.kept import Kept
from pgproof.repository.pace import PART, STEPS, Pace
from pgproof.repository.patience import Patience, Trial
from pgproof.repository.store import CHUNK, ObjectInfo, Source, check_key, read
from pgproof.wording import size

_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403 Forbidden")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired")  # 400
_PIECE = 1  # bytes that are waited for: a store that sends a few at a time must be seen to be slow


class ObjectStore:
    """Objects in a bucket.

    Args:
        inner: a store of the obstore package, already bound to bucket and prefix, with limits of time for reading.
        url: for messages.
        connect: makes another one with other time limits of its requests.
        patience: with which a request is tried again.
        pace: how slow the store may be.
        keep: bytes of an upload that are kept, to send them again.
    """

    at_once = 16  # requests for small objects that are worth to be made at once: each waits for the network

    def __init__(
        self,
        inner: Any,
        url: str,
        connect: Callable[[dict[str, Any]], Any] | None = None,
        patience: Patience | None = None,
        pace: Pace | None = None,
        keep: int = 0,
    ) -> None:
        self.inner = inner
        self.url = url
        self.patience = patience or Patience()
        self.pace = pace or Pace()
        self._keep = keep if self.patience.request else 0
        self._connect = connect
        self._clients: dict[int | None, Any] = {None: inner}

    def within(self, seconds: float) -> ObjectStore:
        """The same store, with no more patience for a request than this."""
        made = copy.copy(self)
        made.patience = self.patience.within(seconds)
        return made

    def _client(self, size: int | None) -> Any:
        """The store with time limits for requests that send so many bytes; None reads objects of any size.

        Each takes 20 ms to make, and what only asks has that which reads.
        """
        if self._connect is None:
            return self.inner
        step = None if size is None else next((step for step in STEPS if size <= step), STEPS[-1])
        if step not in self._clients:
            self._clients[step] = self._connect(self.pace.limits(step))
        return self._clients[step]

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        check_key(key)
        source = Source(data)
        try:
            if isinstance(data, bytes) or create:
                # a conditional write is one request: stores have no conditional multipart upload
                whole = b"".join(source)
                self.patience.run(key, lambda: self._put_whole(key, whole, create))
            else:
                self._put_stream(key, source)
            return
        except BaseException:
            if source.failure is None:
                raise
        raise source.failure  # not the store's; an upload that had begun was aborted

    def _put_whole(self, key: str, whole: bytes, create: bool) -> None:
        import obstore

        client, mode = self._client(len(whole)), "create" if create else "overwrite"
        try:
            with self._mapped(key, writing=True):
                obstore.put(client, key, whole, mode=mode, use_multipart=False)  # type: ignore[arg-type]
        except ObjectExists:
            if not self._holds(key, whole):
                raise

    def _holds(self, key: str, whole: bytes) -> bool:
        """Whether an object is what we were about to create.

        The answer to an earlier try may have been lost, after it was stored: what says "exists already" is ours then.
        """
        try:
            return self.head(key).size == len(whole) and read(self, key) == whole
        except ObjectMissing:  # removed meanwhile: it was another's
            return False

    def _put_stream(self, key: str, source: Source) -> None:
        """Upload chunks in parts, and from the first again when it fails, as long as they are kept."""
        kept, trial = Kept(source, self._keep), Trial(self.patience, key)
        try:
            while True:
                self.patience.check(key)
                try:
                    with self._mapped(key, writing=True):
                        self._put_parts(key, kept)
                    return trial.end()
                except StoreUnavailable as error:
                    if source.failure is not None:
                        raise
                    if not kept.whole:
                        raise self._not_kept(error, kept.size) from error
                    trial.wait(error)
        finally:
            kept.close()
            trial.end(well=False)

    def _not_kept(self, error: StoreUnavailable, count: int) -> StoreUnavailable:
        if not self._keep:
            return error
        return StoreUnavailable(
            error.fact,
            f"{error.detail} It could not be tried again: its first {size(count)} are gone. "
            f"retry_buffer keeps {size(self._keep)} of an upload, where {tempfile.gettempdir()} has as much room.",
            error.hint or "raise retry_buffer, or set TMPDIR to a directory with more room",
        )

    def _put_parts(self, key: str, source: Iterable[bytes]) -> None:
        """Upload in a thread of its own, and take the chunks here.

        obstore would take them inside its runtime, where chunks that read from an object store themselves
        (a copy from one repository to another) end in a panic of Rust.
        """
        import obstore

        handed: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        whole = threading.Event()
        failure: list[BaseException] = []
        client = self._client(PART)

        def chunks() -> Iterator[bytes]:
            while (chunk := handed.get()) is not None:
                yield chunk
            if not whole.is_set():
                raise InterruptedError("the chunks ended early")  # makes obstore abort the upload

        def upload() -> None:
            try:
                obstore.put(client, key, chunks(), chunk_size=PART, max_concurrency=4)
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
        check_key(key)
        return self._chunks(key, self.patience.run(key, lambda: self._open(key)))

    def _open(self, key: str, start: int = 0, etag: str | None = None) -> Any:
        """Ask for an object, from a byte on, when it is still the same."""
        import obstore

        options: Any = {"range": {"offset": start}, "if_match": etag} if start else None
        with self._mapped(key):
            return obstore.get(self.inner, key, options=options)

    def _chunks(self, key: str, result: Any) -> Iterator[bytes]:
        """The bytes of an object; after a failure in the middle it is read on where it ended."""
        given, etag = 0, result.meta.get("e_tag")
        trial = Trial(self.patience, key)
        try:
            while True:
                try:
                    self.patience.check(key)
                    if result is None:
                        result = self._open(key, given, etag)
                    for found in self._paced(key, result):
                        given += len(found)
                        trial.end()  # bytes come again
                        yield found
                    return trial.end()
                except StoreUnavailable as error:
                    result = None
                    trial.wait(error)
                except ObjectExists as error:  # of if_match
                    raise StoreUnavailable(
                        f'could not read "{key}" in the repository "{self.url}"',
                        "It was replaced while it was read.",
                    ) from error
        finally:
            trial.end(well=False)

    def _paced(self, key: str, result: Any) -> Iterator[bytes]:
        """The bytes as they come, joined to chunks; refused when they come too slowly."""
        pieces: list[bytes] = []
        count = 0
        watch = self.pace.watch(f'could not read "{key}" in the repository "{self.url}"')
        with self._mapped(key):
            stream = result.stream(min_chunk_size=_PIECE)
            while (piece := watch.next(stream)) is not None:
                self.patience.check(key)
                pieces.append(bytes(piece))
                count += len(piece)
                if count >= CHUNK:
                    yield b"".join(pieces)
                    pieces, count = [], 0
        if pieces:
            yield b"".join(pieces)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        trial, last = Trial(self.patience, prefix), None
        try:
            while True:
                try:
                    self.patience.check(prefix)
                    for info in self._list_after(prefix, last):
                        last = info.key
                        trial.end()
                        yield info
                    return trial.end()
                except StoreUnavailable as error:
                    trial.wait(error)
        finally:
            trial.end(well=False)

    def _list_after(self, prefix: str, last: str | None) -> Iterator[ObjectInfo]:
        import obstore

        with self._mapped(prefix):
            for batch in obstore.list(self._client(0), prefix=prefix.rstrip("/") or None, offset=last):
                for meta in batch:
                    yield _info(meta["path"], meta)

    def children(self, prefix: str) -> Iterator[str]:
        """The names right below a prefix under which there are objects, without listing all of these."""
        import obstore

        def look() -> Any:
            with self._mapped(prefix):
                return obstore.list_with_delimiter(self.inner, prefix=prefix.rstrip("/"))

        found = self.patience.run(prefix, look)
        for path in found["common_prefixes"]:  # some stores keep one without objects, as a directory
            if next(self.list(path), None) is not None:
                yield path.rstrip("/").rsplit("/", 1)[-1]

    def head(self, key: str) -> ObjectInfo:
        import obstore

        check_key(key)

        def look() -> ObjectInfo:
            with self._mapped(key):
                try:
                    return _info(key, obstore.head(self.inner, key))
                except (
                    FileNotFoundError
                ):  # S3 does not say what is missing, object or bucket: HEAD has no body
                    return _info(key, obstore.get(self.inner, key).meta)

        return self.patience.run(key, look)

    def delete(self, key: str) -> None:
        import obstore

        check_key(key)

        def remove() -> None:
            with self._mapped(key):
                try:
                    obstore.delete(self.inner, key)
                except FileNotFoundError as error:
                    if not self._says_missing(str(error)):
                        raise

        self.patience.run(key, remove)

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
        fact = f'cannot access "{key}" in the repository "{self.url}"'
        if "RequestTimeTooSkewed" in reason:
            hint = "timedatectl; the clock of this machine and the store's differ by more than 15 minutes"
            return RepositoryReadOnly(fact, reason, hint)
        if any(f"<Code>{code}" in reason for code in _EXPIRED):
            hint = "the session token is no longer valid; get a new access key with its token, and try again"
            return RepositoryReadOnly(fact, reason, hint)
        denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if isinstance(error, denied) or any(code in reason for code in _DENIED):
            hint = "check the access key and what its policy allows"
            return RepositoryReadOnly(fact, reason, hint)
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


def retry_settings() -> dict[str, Any]:
    """Retries of one request: ended after 30 s, so that no command hangs on a store that is away."""
    backoff = {"base": 2, "init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)}
    return {"max_retries": 5, "retry_timeout": timedelta(seconds=30), "backoff": backoff}
