"""The chunks of an upload, kept so that it can begin again when the store fails in the middle of it.

Who makes the chunks, such as a server that sends a base backup, is not asked twice: it waits meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

from pgproof.repository.store import CHUNK

_IN_MEMORY = 4 << 20  # bytes, before a temporary file without a name takes them


class Kept:
    """Chunks that can be gone through again, as long as they are not too many.

    Args:
        chunks: gone through once.
        limit: bytes to keep; with more of them, or without room for them, nothing is kept. 0 keeps none.
    """

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        self._chunks = iter(chunks)
        self._limit = limit
        self._file: IO[bytes] | None = tempfile.SpooledTemporaryFile(_IN_MEMORY) if limit else None
        self.size = 0

    @property
    def whole(self) -> bool:
        """Whether the chunks can be gone through again from the first."""
        return self._file is not None or not self.size

    def __iter__(self) -> Iterator[bytes]:
        if self._file is not None:
            self._file.seek(0)
            while chunk := self._file.read(CHUNK):
                yield chunk
        for chunk in self._chunks:
            self._keep(chunk)  # first: it may be taken and never arrive
            yield chunk

    def _keep(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._file is None:
            return
        try:
            if self.size > self._limit or _room(tempfile.gettempdir()) < self._limit:
                self.close()
            else:
                self._file.write(chunk)
        except OSError:  # no room after all: the upload goes on, and has one try
            self.close()

    def close(self) -> None:
        """Keep nothing any more."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _room(directory: str) -> int:
    """Free bytes where temporary files are: others need some, too."""
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize
