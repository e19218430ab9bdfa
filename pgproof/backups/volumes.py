"""Volumes: a tar stream split at file boundaries into valid tars, stored while the stream goes on.

One thread per open volume compresses, hashes, encrypts and stores; a bounded queue before it keeps memory
constant. A finished volume may still be syncing while the next one fills.
"""

from __future__ import annotations

import queue
import tarfile
import threading
from collections.abc import Callable, Iterator

from pgproof.backups.record import Volume
from pgproof.errors import BackupFailed
from pgproof.repository.repository import Archive, StoredObject

BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)
_BATCH = 1 << 20


class _Upload:
    """One object being stored by a thread of its own, fed through a bounded queue."""

    def __init__(self, archive: Archive, key: str) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=16)
        self._abandoned = False
        self._stored: StoredObject | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(archive, key), name="volume", daemon=True)
        self._thread.start()

    def _run(self, archive: Archive, key: str) -> None:
        try:
            self._stored = archive.write(key, self._chunks())
        except BaseException as error:
            self._failure = error

    def _chunks(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            yield chunk
        if self._abandoned:
            raise BackupFailed("the backup was abandoned")  # so that the store keeps no part of it

    def feed(self, chunk: bytes | None) -> None:
        """Hand over a chunk; None ends the object. What the thread met is raised here."""
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                self._queue.put(chunk, timeout=0.2)
                return
            except queue.Full:
                continue

    def finish(self) -> StoredObject:
        """Wait until the object is durable, or raise what the thread met."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self._stored is not None
        return self._stored

    def abandon(self) -> None:
        """Give up: nothing of the object stays."""
        self._abandoned = True
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
            except queue.Full:
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    continue
            self._thread.join(0.05)


class VolumeWriter:
    """Splits one tar stream after another into volumes.

    Args:
        archive: where they are stored.
        prefix: key of the backup, ending in ``/``.
        volume_size: raw bytes after which a new volume starts at the next file; a larger file has its own.
        workers: volumes that may be under way at once.
        progress: told the raw bytes of every chunk.
    """

    def __init__(
        self, archive: Archive, prefix: str, volume_size: int, workers: int, progress: Callable[[int], None]
    ) -> None:
        self._archive, self._prefix = archive, prefix
        self._volume_size, self._workers, self._progress = volume_size, workers, progress
        self._tablespace: int | None = None
        self._count = 0
        self._pending: list[tuple[_Upload, int | None, int]] = []
        self.volumes: list[Volume] = []
        self.raw_size = 0
        self._reset()

    def _reset(self) -> None:
        self._header = b""  # of a member, not whole yet
        self._left = 0  # bytes of the current member's content and padding still to come
        self._upload: _Upload | None = None
        self._raw = 0
        self._batch: list[bytes] = []
        self._batched = 0
        self._ended = False

    def start_tar(self, tablespace: int | None) -> None:
        """A new tar begins: the data directory's (None) or a tablespace's."""
        self.end_tar()
        self._tablespace, self._count = tablespace, 0

    def feed(self, data: bytes) -> None:
        """Bytes of the current tar, cut anywhere."""
        self.raw_size += len(data)
        self._progress(len(data))
        view = memoryview(data)
        while view and not self._ended:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                self._emit(bytes(part))
                continue
            need = BLOCK - len(self._header)
            self._header += bytes(view[:need])
            view = view[need:]
            if len(self._header) == BLOCK:
                self._member(self._header)
                self._header = b""

    def _member(self, header: bytes) -> None:
        if header == bytes(BLOCK):
            self._ended = True  # the end of the server's tar; each volume gets its own
            return
        try:
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except tarfile.HeaderError as error:
            raise BackupFailed("the server's tar stream cannot be read", f"{error}.") from error
        self._left = -(-size // BLOCK) * BLOCK
        if self._raw and self._raw + BLOCK + self._left > self._volume_size:
            self._close_volume()
        self._emit(header)

    def _emit(self, data: bytes) -> None:
        self._raw += len(data)
        self._batch.append(data)
        self._batched += len(data)
        if self._batched >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._upload is None:
            while len(self._pending) >= self._workers:
                self._collect()
            name = "base" if self._tablespace is None else str(self._tablespace)
            self._upload = _Upload(self._archive, f"{self._prefix}{name}-{self._count:03d}.tar")
            self._count += 1
        if self._batch:
            self._upload.feed(b"".join(self._batch))
            self._batch, self._batched = [], 0

    def _close_volume(self) -> None:
        self._batch.append(END_OF_TAR)
        self._flush()
        assert self._upload is not None
        self._upload.feed(None)
        self._pending.append((self._upload, self._tablespace, self._raw + len(END_OF_TAR)))
        self._upload, self._raw = None, 0

    def _collect(self) -> None:
        upload, tablespace, raw = self._pending[0]
        self.volumes.append(Volume(upload.finish(), tablespace, raw))
        self._pending.pop(0)

    def end_tar(self) -> None:
        """The current tar is over.

        Raises:
            BackupFailed: it ended in the middle of a file.
        """
        if self._left or self._header:
            raise BackupFailed("the server's tar stream ended in the middle of a file")
        if self._raw:
            self._close_volume()
        self._reset()

    def finish(self) -> tuple[Volume, ...]:
        """Wait until every volume is durable."""
        self.end_tar()
        while self._pending:
            self._collect()
        return tuple(self.volumes)

    def abandon(self) -> None:
        """Give up whatever is under way."""
        for upload in [pending[0] for pending in self._pending] + ([self._upload] if self._upload else []):
            upload.abandon()
