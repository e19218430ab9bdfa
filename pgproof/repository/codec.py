"""The codec turns content into what is stored: zstd, then age when recipients are given.

Both are public formats: ``age -d -i KEY < object | zstd -d`` reads what is written here.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import zstandard

from pgproof.errors import ConfigError, ObjectDamaged
from pgproof.repository.store import CHUNK

_SLICE = 4096  # zeros expand 32,768 times: this bounds what one call may give back to 128 MB


@dataclass(frozen=True)
class Codec:
    """How content is written, and what can be read.

    Args:
        level: of zstd, 1 to 19.
        recipients: age X25519 recipients; empty stores unencrypted.
        identity: the age identity that decrypts, or how to get it: asked when something is decrypted, so that
            who only writes (the archiver) need not be able to.
    """

    level: int = 3
    recipients: tuple[str, ...] = ()
    identity: str | Callable[[], str] | None = field(default=None, repr=False)

    @property
    def suffix(self) -> str:
        return ".zst.age" if self.recipients else ".zst"

    def encode(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """What is stored for these chunks. zstd's own checksum is on, so that ``zstd -t`` checks too."""
        compressed = _compress(chunks, self.level)
        if not self.recipients:
            return compressed
        import pyrage

        try:
            recipients = [pyrage.x25519.Recipient.from_str(text) for text in self.recipients]
        except pyrage.RecipientError as error:
            raise ConfigError(
                "an age recipient cannot be read", f"{error}.", "age-keygen prints one"
            ) from error
        return _piped(lambda r, w: pyrage.encrypt_io(r, w, recipients), compressed)

    def decode(self, key: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The content of a stored object.

        Args:
            key: its suffix says how it was written.
            chunks: the stored bytes.

        Raises:
            ObjectDamaged: truncated or altered; some content may have been given out before.
            ConfigError: the object is encrypted and no identity is configured.
        """
        if key.endswith(".age"):
            chunks = self._decrypt(key, chunks)
        elif not key.endswith(".zst"):
            return iter(chunks)
        return _decompress(key, chunks)

    def _decrypt(self, key: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        import pyrage

        identity = self.identity() if callable(self.identity) else self.identity
        lines = [line.strip() for line in (identity or "").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise ConfigError(
                f'object "{key}" is encrypted and no age identity is configured',
                hint='set age_identity = "file:/path/of/key.txt" in the repository\'s section',
            )
        try:
            identities = [pyrage.x25519.Identity.from_str(line) for line in lines]
        except pyrage.IdentityError as error:
            raise ConfigError(
                "the age identity cannot be read", f"{error}.", "age-keygen prints one"
            ) from error

        def decrypt(reader: _Reader, writer: _Writer) -> None:
            try:
                pyrage.decrypt_io(reader, writer, identities)
            except pyrage.DecryptError as error:  # of the header
                if "No matching keys" in str(error):
                    raise ConfigError(
                        f'object "{key}" cannot be decrypted with the configured age identity',
                        "It was encrypted for other recipients, or its header was altered.",
                        "age_identity names the wrong key, or only some of the keys; a file may hold several",
                    ) from error
                raise ObjectDamaged(f'object "{key}" cannot be decrypted', f"{error}.") from error
            except OSError as error:  # of the content: altered or truncated
                raise ObjectDamaged(f'object "{key}" cannot be decrypted', f"{error}.") from error

        yield from _piped(decrypt, chunks)


def _compress(chunks: Iterable[bytes], level: int) -> Iterator[bytes]:
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    for chunk in chunks:
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


def _decompress(key: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    pieces: list[bytes] = []
    size = 0
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), _SLICE):
                if decompressor.eof:
                    raise ObjectDamaged(f'object "{key}" has bytes after its end')
                pieces.append(decompressor.decompress(chunk[start : start + _SLICE]))
                size += len(pieces[-1])
                if decompressor.unused_data:
                    raise ObjectDamaged(f'object "{key}" has bytes after its end')
                if size >= CHUNK:
                    yield b"".join(pieces)
                    pieces, size = [], 0
    except zstandard.ZstdError as error:
        raise ObjectDamaged(f'object "{key}" is damaged', f"zstd says: {error}.") from error
    if not decompressor.eof:
        raise ObjectDamaged(f'object "{key}" is truncated', "The zstd frame does not end.")
    if size:
        yield b"".join(pieces)


def bounded(key: str, chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The chunks of an object's content, as far as any of its kind is large: 128 kB of zstd may be 4 GB of zeros.

    Args:
        key: of the object.
        chunks: its content.
        limit: bytes.

    Raises:
        ObjectDamaged: there are more.
    """
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise ObjectDamaged(
                f'object "{key}" is larger than any of its kind', f"It unpacks to more than {limit:,} bytes."
            )
        yield chunk


class Measured:
    """Chunks that are counted and hashed while they pass by."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Reader:
    """A file to read from, made of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                self._rest = next(self._chunks)
            except StopIteration:
                return b""
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class _Writer:
    """A file to write to, whose chunks another thread takes out; full at 8, so memory stays bounded."""

    def __init__(self) -> None:
        self.chunks: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
        self.abandoned = False

    def write(self, data: bytes) -> int:
        while not self.abandoned:
            try:
                self.chunks.put(bytes(data), timeout=0.2)
                return len(data)
            except queue.Full:
                continue
        raise BrokenPipeError("nobody reads any more")

    def flush(self) -> None:
        """Nothing is held back here."""


def _piped(transform: Callable[[Any, Any], None], chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks through a function that copies from a reader to a writer, in a thread of its own."""
    writer = _Writer()
    failure: list[BaseException] = []

    def watched() -> Iterator[bytes]:
        try:
            yield from chunks
        except BaseException as error:
            failure.append(error)
            raise

    def run() -> None:
        try:
            transform(_Reader(watched()), writer)
        except BaseException as error:
            failure.append(error)  # the first is the cause
        finally:
            while not writer.abandoned:
                try:
                    writer.chunks.put(None, timeout=0.2)
                    break
                except queue.Full:
                    continue

    thread = threading.Thread(target=run, name="age", daemon=True)
    thread.start()
    try:
        while (chunk := writer.chunks.get()) is not None:
            yield chunk
    finally:
        writer.abandoned = True
        thread.join()
    if failure:
        raise failure[0]
