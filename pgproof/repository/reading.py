"""Reading ahead: records are asked for at once where each answer is waited for, and given out in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pgproof.repository.repository import Archive


@dataclass(frozen=True)
class _ReadAhead(Archive):
    """An archive some of whose records are being read."""

    records: dict[str, Future[Any]] = field(default_factory=dict)

    def read_json(self, key: str) -> Any:
        record = self.records.pop(key, None)
        return super().read_json(key) if record is None else record.result()


@contextlib.contextmanager
def reading_ahead(archive: Archive, keys: Sequence[str]) -> Iterator[Archive]:
    """The archive, whose ``read_json`` has begun to read these records: an object store lets each of them wait.

    What reading one raises, ``read_json`` raises.

    Args:
        archive: of the records.
        keys: of the records, in the order in which they will be asked for.
    """
    at_once = min(getattr(archive.store, "at_once", 1), len(keys))
    if at_once <= 1:
        yield archive
        return
    with ThreadPoolExecutor(at_once, "read") as pool:
        records = {key: pool.submit(archive.read_json, key) for key in keys}
        try:
            yield _ReadAhead(archive.repository, archive.layout, records)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
