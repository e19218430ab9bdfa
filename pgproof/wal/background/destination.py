"""A destination is one repository that gets the WAL, with threads of its own: one that hangs holds up no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgproof.errors import PermanentError, PgproofError, TransientError
from pgproof.repository.repository import Archive
from pgproof.wal.push import copy, push

RETRY = 30.0  # seconds for which a destination that failed is left alone, where a quorum can do without it
_WAITING = 32  # files that may wait for a slow destination, where a quorum can do without it

Then = Callable[[PgproofError | None], None]


class GivenUp(TransientError):
    """It was not tried, because another file of the same batch has just failed."""


class Unexpected(PermanentError):
    """A fault of ours, which nobody foresaw."""

    exit_code = 70  # EX_SOFTWARE


class Destination:
    """One repository of several.

    Args:
        name: of the repository in pgproof.toml.
        open_archive: opens it; tried again when it could not be opened.
        workers: files stored at once.
    """

    def __init__(self, name: str, open_archive: Callable[[], Archive], workers: int) -> None:
        self.name = name
        self._open = open_archive
        self._archive: Archive | None = None
        self._opening, self._lock = threading.Lock(), threading.Lock()
        self._waiting = 0
        self._failed_at: float | None = None
        self._pool = ThreadPoolExecutor(workers, f"push-{name}")

    @property
    def archive(self) -> Archive:
        """The opened archive.

        Raises:
            PgproofError: it cannot be opened now.
        """
        with self._opening:
            archive = self._archive
            if archive is None:
                archive = self._archive = self._open()
            return archive

    @property
    def lagging(self) -> bool:
        """Whether it failed a moment ago, or has too much to do already."""
        failed = self._failed_at is not None and time.monotonic() - self._failed_at < RETRY
        return failed or self._waiting >= _WAITING

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._waiting > 0

    def push(self, path: Path, give_up: threading.Event, stored: dict[str, str], then: Then) -> None:
        """Push a file in a thread, and say how it went; not tried any more once ``give_up`` is set.

        Args:
            path: of the file.
            give_up: set when trying is of no use any more.
            stored: repository identifier to SHA-256 of what was stored there for the file; added to.
            then: told how it went.
        """

        def work() -> None:
            if give_up.is_set():
                raise GivenUp(f'WAL file "{path.name}" was not tried', "Another one could not be stored.")
            archive = self.archive
            repository = archive.repository.identifier
            done = push(archive, path, stored.get(repository))
            if done.stored is not None:
                stored[repository] = done.stored.sha256

        self._submit(work, then)

    def bring(self, name: str, others: Sequence[Destination], then: Then) -> None:
        """Copy a file here from the first other destination that has it, in a thread, and say how it went."""

        def work() -> None:
            failures: list[PgproofError] = []
            for other in others:
                try:
                    return copy(other.archive, self.archive, name)
                except PgproofError as error:
                    failures.append(error)
            raise failures[0]

        self._submit(work, then)

    def _submit(self, work: Callable[[], None], then: Then) -> None:
        def run() -> None:
            failure: PgproofError | None = None
            try:
                work()
                self._failed_at = None
            except PgproofError as error:
                failure = error
                if isinstance(error, TransientError) and not isinstance(error, GivenUp):
                    self._failed_at = time.monotonic()
                    self._archive = None  # to be opened anew: its disk may be mounted again
            except BaseException as error:  # a fault of ours: it must be answered all the same
                failure = Unexpected("unexpected error", f"{error!r}.")
            with self._lock:
                self._waiting -= 1
            then(failure)

        with self._lock:
            self._waiting += 1
        self._pool.submit(run)

    def close(self) -> None:
        """Begin nothing more; what runs is not waited for, as it may hang."""
        self._pool.shutdown(wait=False, cancel_futures=True)
