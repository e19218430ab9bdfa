"""The pusher archives every WAL file that is ready, in parallel, ahead of the archiver that asks for one at a time.

PostgreSQL marks a finished file with ``archive_status/NAME.ready`` (``XLogArchiveNotify``), after it was fsynced, and
does not touch it again until ``archive_command`` said that it is archived. The pusher sees the mark, stores the file
in every repository, and only then acknowledges it in the spool, where ``wal push`` finds the answer. It ends by
itself when there is nothing to do, or when the server is gone.

What it did not acknowledge is pushed again, and pushing again is harmless. So it may die at any moment.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pgproof.errors import PgproofError, TransientError
from pgproof.postgres.control import postmaster_runs
from pgproof.timelines.segment import HISTORY_NAME, is_archivable
from pgproof.wal.background.destination import Destination, GivenUp
from pgproof.wal.background.spool import Spool
from pgproof.wal.background.watch import Watch, watching

_READY = ".ready"
_BATCH = 64  # files whose verdict is waited for before the marks are looked at again
_OWED_AT_ONCE = 8
_LOOK = 1.0  # seconds between two looks at the server and at requests to stop

Log = Callable[[str], None]
Late = Callable[[Destination, str, PgproofError | None], None]


class Pusher:
    """What one background process does.

    Args:
        spool: of the data directory; its lock is held.
        destinations: every repository that gets the WAL.
        quorum: how many of them must have a file before it is acknowledged; 0 is every one.
        linger: seconds to stay when nothing is ready.
        log: told what went wrong.
    """

    def __init__(
        self, spool: Spool, destinations: Sequence[Destination], quorum: int, linger: float, log: Log
    ) -> None:
        self._spool, self._destinations, self._linger, self._log = spool, tuple(destinations), linger, log
        self._needed = quorum or len(self._destinations)
        self._wal = Path(spool.data) / "pg_wal"
        self._status = self._wal / "archive_status"
        self._acknowledged = set(spool.names("pushed"))
        self._trouble = False
        self._broken: OSError | None = None
        self._passing: set[str] = set()  # files whose failure may be over when another succeeds
        self._begun: dict[str, Begun] = {}
        for name in spool.names("failed"):
            spool.forget("failed", name)

    def run(self) -> None:
        """Push until there is nothing to do for a while.

        Raises:
            OSError: the spool cannot be written, so that nothing could be acknowledged.
        """
        with watching([str(self._status), self._spool.path("failed"), self._spool.directory]) as watch:
            busy_at = time.monotonic()
            while not os.path.exists(self._spool.path("push.stop")):
                if self._push(self._ready()) or self._catch_up():
                    busy_at = time.monotonic()
                elif not self._stays(watch, busy_at):
                    break
                if self._broken is not None:
                    raise self._broken
        for destination in self._destinations:
            destination.close()

    def _stays(self, watch: Watch, busy_at: float) -> bool:
        if time.monotonic() - busy_at >= self._linger or not postmaster_runs(Path(self._spool.data)):
            return False
        watch.wait(min(_LOOK, max(self._linger, 0.01)))
        return True

    def _ready(self) -> list[str]:
        """The files to push now, in the archiver's order (``ready_file_comparator``: histories, then by name).

        While a store is away only the file that the archiver asks for is tried again.
        """
        marks = [entry.name for entry in os.scandir(self._status) if entry.name.endswith(_READY)]
        ready = {name.removesuffix(_READY) for name in marks}
        for name in self._acknowledged - ready:  # PostgreSQL knows by now
            self._spool.forget("pushed", name)
        self._acknowledged &= ready
        self._begun = {name: begun for name, begun in self._begun.items() if name in ready}
        ordered = sorted(ready, key=lambda name: (not HISTORY_NAME.fullmatch(name), name))
        failed = set(self._spool.names("failed"))
        if self._trouble:
            ordered = [name for name in ordered if name not in self._acknowledged][:1]
        known = [name for name in ordered if is_archivable(name) and name not in failed]
        return [name for name in known if not self._is_acknowledged(name)][:_BATCH]

    def _is_acknowledged(self, name: str) -> bool:
        if name not in self._acknowledged:
            return False
        try:
            return self._spool.acknowledged(name, self._spool.pushed_text(str(self._wal / name)))
        except FileNotFoundError:
            return True  # it is not there any more: nobody can push it

    def _push(self, names: Sequence[str]) -> bool:
        """Push files; whether there were any."""
        attempts, give_up = [], threading.Event()
        for name in names:
            try:
                text = self._spool.pushed_text(str(self._wal / name))
            except FileNotFoundError:  # the mark was taken back between the two looks
                continue
            earlier = self._begun.get(name)
            if earlier is None or earlier.text != text:
                earlier = Begun(text, self._spool.stored(name, text))
            self._begun[name] = earlier
            attempt = Attempt(self._wal / name, earlier, self._needed, give_up, self._paid)
            attempts.append(attempt)
            attempt.begin(self._destinations)
        for attempt in attempts:
            attempt.decided.wait()
            self._answer(attempt)
        return bool(attempts)

    def _answer(self, attempt: Attempt) -> None:
        """Say in the spool how it went, so that the archiver's command finds it."""
        name, failure = attempt.path.name, attempt.failure
        try:
            if failure is None:
                for destination in self._destinations:
                    if destination.name not in attempt.begun.done:
                        self._owe(destination, name)
                self._spool.acknowledge(name, attempt.begun.text, dict(attempt.begun.stored))
                self._acknowledged.add(name)
                self._trouble = False
                for other in self._passing:
                    self._spool.forget("failed", other)
                self._passing.clear()
            elif not attempt.given_up:
                self._spool.refuse("failed", name, failure.exit_code, str(failure))
                self._log(f"{name}: {failure}")
                if isinstance(failure, TransientError):
                    self._trouble = True
                    self._passing.add(name)
        except OSError as error:
            self._broken = error

    def _owe(self, destination: Destination, name: str) -> None:
        os.makedirs(self._spool.path("owed", destination.name), mode=0o700, exist_ok=True)
        self._spool.say("owed", f"{destination.name}/{name}", "")
        self._log(f'{name}: repository "{destination.name}" still has to get it')

    def _paid(self, destination: Destination, name: str, failure: PgproofError | None) -> None:
        """A file that was owed arrived after all, or not yet."""
        if failure is None:
            self._spool.forget("owed", f"{destination.name}/{name}")
        else:
            self._log(f'{name}: repository "{destination.name}" still lacks it: {failure}')

    def _catch_up(self) -> bool:
        """Begin to bring some of what it lacks to a repository that was away; whether anything was begun."""
        begun = False
        for destination in self._destinations:
            if destination.lagging or destination.busy:
                continue
            others = [other for other in self._destinations if other is not destination]
            for name in self._spool.owed(destination.name)[:_OWED_AT_ONCE]:
                destination.bring(name, others, partial(self._paid, destination, name))
                begun = True
        return begun


@dataclass
class Begun:
    """What is known of a file that is on its way.

    Args:
        text: its acknowledgement.
        stored: repository identifier to SHA-256 of what was stored there for it.
        done: names of the repositories that have it, as this configuration calls them.
    """

    text: str
    stored: dict[str, str]
    done: set[str] = field(default_factory=set)


class Attempt:
    """One try to bring one file to every repository; decided as soon as enough have it, or cannot.

    Args:
        path: of the file.
        begun: what earlier attempts came to; added to.
        needed: how many repositories must have it.
        give_up: set by the first passing failure of a batch: the rest need not wait for the same one.
        late: told of a repository that got it, or failed, after the decision.
    """

    def __init__(self, path: Path, begun: Begun, needed: int, give_up: threading.Event, late: Late) -> None:
        self.path, self.begun = path, begun
        self.failure: PgproofError | None = None
        self.decided = threading.Event()
        self._needed, self._give_up, self._late = needed, give_up, late
        self._lock = threading.Lock()
        self._failures: list[PgproofError] = []
        self._open = 0

    @property
    def given_up(self) -> bool:
        """Whether it failed without having been tried anywhere."""
        return isinstance(self.failure, GivenUp)

    def begin(self, destinations: Sequence[Destination]) -> None:
        """Start it everywhere where it is not done; one that lags is left out when the others suffice."""
        undone = [d for d in destinations if d.name not in self.begun.done]
        healthy = [d for d in undone if not d.lagging]
        chosen = healthy if len(self.begun.done) + len(healthy) >= self._needed else undone
        self._open = len(chosen)
        for destination in chosen:
            then = partial(self._heard, destination)
            destination.push(self.path, self._give_up, self.begun.stored, then)
        if not chosen:
            self.decided.set()

    def _heard(self, destination: Destination, failure: PgproofError | None) -> None:
        with self._lock:
            self._open -= 1
            if failure is None:
                self.begun.done.add(destination.name)
            else:
                self._failures.append(failure)
            if self.decided.is_set():
                if self.failure is None:
                    self._late(destination, self.path.name, failure)
            elif len(self.begun.done) >= self._needed:
                self.decided.set()
            elif len(self.begun.done) + self._open < self._needed:
                tried = [failure for failure in self._failures if not isinstance(failure, GivenUp)]
                self.failure = (tried or self._failures)[0]
                if isinstance(self.failure, TransientError):
                    self._give_up.set()
                self.decided.set()
