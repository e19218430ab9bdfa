"""Progress is how far a long step is, as an artifact of its run that the UI shows while it works.

The engine knows nothing of it: it is given a callable, and tells it what it has done.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from pgproof.wording import counted, size
from tasks.keys import key_for
from tasks.markdown import text

_LAST = 3.0  # seconds that the end of a step waits for its last update
EVERY = 5.0  # seconds between two looks; a step that is done before the first has no artifact
_NEARLY = 99.0  # an estimate is no end: what is done says so itself


class _Progress:
    """A count that any thread adds to, shown by a thread of its own: what moves bytes never waits for a server.

    Args:
        key: of the artifact.
        what: is being done.
        total: of what is counted; 0 when it is not known.
        unit: of it; empty for bytes.
        every: seconds.
    """

    def __init__(self, key: str, what: str, total: int, unit: str, every: float) -> None:
        self._key, self._what, self._total, self._unit, self._every = key, what, total, unit, every
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._done, self._shown, self._complete = 0, -1, False
        self._artifact: UUID | None = None
        self._log = get_run_logger()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size

    def follow(self) -> None:
        while not self._stop.wait(self._every):
            if self._done != self._shown:
                self._show(self._done, min(self._percent(self._done), _NEARLY))
        if self._artifact is not None:
            self._show(self._done, 100.0 if self._complete else min(self._percent(self._done), _NEARLY))

    def end(self, complete: bool) -> None:
        self._complete = complete
        self._stop.set()

    def _percent(self, done: int) -> float:
        return 100.0 * done / self._total if self._total else 0.0

    def _show(self, done: int, percent: float) -> None:
        """A server that is away is no reason to stop, nor to wait."""
        shown = text(f"{self._what}: {told(done, self._total, self._unit)}")
        try:
            if self._artifact is None:
                made = create_progress_artifact(round(percent, 1), self._key, shown)
                self._artifact = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self._artifact, round(percent, 1), shown)
            self._shown = done
        except Exception as error:
            self._log.debug("progress is not shown: %s", error)


@contextlib.contextmanager
def progress(
    cluster: str, noun: str, what: str, total: int, unit: str = "", every: float | None = None
) -> Iterator[Callable[[int], None]]:
    """Show how far a step of a run is, for the time of a block; what it yields is told what was done.

    Args:
        cluster: its name.
        noun: of the step, for the artifact's key.
        what: is being done.
        total: bytes, or of the unit; 0 when it is not known.
        unit: what is counted, such as ``row``; bytes when there is none.
        every: seconds between two updates, at least; default: EVERY.
    """
    key = key_for(cluster, f"{noun}-progress")
    shown = _Progress(key, what, total, unit, EVERY if every is None else every)
    context = contextvars.copy_context()  # whose run the artifact belongs to
    thread = threading.Thread(target=context.run, args=(shown.follow,), name="progress", daemon=True)
    thread.start()
    complete = False
    try:
        yield shown.add
        complete = True
    finally:
        shown.end(complete)
        thread.join(_LAST)


def told(done: int, total: int, unit: str) -> str:
    """What is done, in words: 1.2 GB of about 4.0 GB."""
    if not unit:
        return size(done) + (f" of about {size(total)}" if total else "")
    return counted(done, unit) + (f" of {counted(total, unit)}" if total else "")
