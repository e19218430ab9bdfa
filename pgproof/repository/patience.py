"""Patience: how long a store that does not answer well is asked again, and what is said meanwhile.

It is counted in time, not in tries: the retries of the library below are over after about a second, while a store that
is asked too often (503 SlowDown) may refuse for minutes.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pgproof.errors import StoreUnavailable
from pgproof.wording import duration

T = TypeVar("T")
Say = Callable[[str], None]
_FIRST, _LONGEST = 0.5, 30.0  # seconds between two tries: doubled each time, and half of it left to chance
_AGAIN = 60.0  # seconds after which what was said is said again

# What a store answers is refused for good, but for these; 404 is a proxy's whose store is away, as that of a store is
# known as such before
_STATUS = re.compile(
    r"status code: (\d{3})(?: [A-Z][A-Za-z -]*)?|\b(\d{3}) [A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+)*\b"
)
_PASSING = {404, 408, 409, 425, 429}
_CODE = re.compile(r"<Code>(\w+)</Code>")


def silent(_: str) -> None:
    """Say nothing."""


def passing(reason: str) -> bool:
    """Whether what a store answered, or that it did not, may be over soon."""
    if "RequestTimeout</Code>" in reason:  # 400, of S3: the request came too slowly
        return True
    status = _status(reason)
    return status is None or status >= 500 or status in _PASSING


def answered(reason: str) -> str:
    """What a store answered, in a few words: ``answers 503 SlowDown``."""
    status, code = _status(reason), _CODE.search(reason)
    if status is None:
        return "does not answer"
    return f"answers {status}{f' {code[1]}' if code else ''}"


def _status(reason: str) -> int | None:
    found = _STATUS.search(reason)
    return int(found[1] or found[2]) if found else None


@dataclass
class Patience:
    """The patience of one opened store, shared by all of its requests.

    Args:
        request: seconds for which one request is tried again; 0 leaves it to the library, about a second.
        total: seconds that all of them together may wait, of one command; requests that wait at once count once.
        limit: seconds after which no request is begun or tried again; 0 is none.
        say: told what the store answers, and until when it is tried.
        clock: seconds since the epoch, for what is said.
    """

    request: float = 0.0
    total: float = 0.0
    limit: float = 0.0
    say: Say = silent
    clock: Callable[[], float] = time.time
    _began: float = field(default_factory=time.monotonic, init=False)
    _waited: float = field(default=0.0, init=False)  # by all that ended
    _waiting: dict[int, float] = field(default_factory=dict, init=False)
    _said: tuple[str, float] = field(default=("", 0.0), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def within(self, seconds: float) -> Patience:
        """A patience that is no longer than this for a request."""
        made = Patience(min(self.request, seconds), self.total, self.limit, self.say)
        made._began = self._began
        return made

    def check(self, what: str) -> None:
        """Refuse to go on when the time of the whole command is over.

        Raises:
            StoreUnavailable: it is.
        """
        if self.limit and time.monotonic() - self._began > self.limit:
            raise StoreUnavailable(
                f'the time limit of {duration(self.limit)} is over, and "{what}" was not reached',
                "The store is too slow for what was asked, or the limit is too short.",
                "--deadline, or command_timeout of the repository, sets it; 0 is none",
            )

    def run(self, what: str, attempt: Callable[[], T]) -> T:
        """Try until it succeeds, or patience is over.

        Args:
            what: is asked for, a key.
            attempt: one try.

        Raises:
            StoreUnavailable: the last failure, with how often and for how long it was tried.
        """
        trial = Trial(self, what)
        while True:
            try:
                self.check(what)
                result = attempt()
            except StoreUnavailable as error:
                trial.wait(error)
            else:
                trial.end()
                return result

    def _left(self, began: float) -> float:
        """Seconds that a request which first failed at this time may still be tried."""
        now = time.monotonic()
        waited = self._waited + (now - min(self._waiting.values()) if self._waiting else 0.0)
        left = min(began + self.request - now, self.total - waited)
        return min(left, self._began + self.limit - now) if self.limit else left

    def _begin(self, trial: Trial) -> None:
        with self._lock:
            self._waiting[id(trial)] = time.monotonic()

    def _end(self, trial: Trial) -> None:
        with self._lock:
            first = min(self._waiting.values(), default=0.0)
            if self._waiting.pop(id(trial), None) is not None and not self._waiting:
                self._waited += time.monotonic() - first

    def _tell(self, reason: str, left: float) -> None:
        with self._lock:
            now = time.monotonic()
            if self._said[0] == reason and now - self._said[1] < _AGAIN:
                return
            self._said = reason, now
        until = time.strftime("%H:%M:%S", time.localtime(self.clock() + left))
        self.say(f"the store {reason}; trying again until {until}")

    def _tell_end(self, seconds: float) -> None:
        with self._lock:
            if not self._said[0]:
                return
            self._said = "", 0.0
        self.say(f"the store answers again, after {duration(seconds)}")


class Trial:
    """One request that is tried again.

    Args:
        patience: of its store.
        what: is asked for, a key.
    """

    def __init__(self, patience: Patience, what: str) -> None:
        self._patience, self._what = patience, what
        self._failed_at = 0.0
        self.failures = 0
        self._pause = _FIRST

    def wait(self, error: StoreUnavailable) -> None:
        """Wait until the next try.

        Raises:
            StoreUnavailable: this one, when there is none.
        """
        if not self.failures:
            self._failed_at = time.monotonic()
            self._patience._begin(self)
        self.failures += 1
        left = self._patience._left(self._failed_at)
        if not passing(error.detail) or left <= 0 or self._is_over():
            tried = time.monotonic() - self._failed_at
            self.end(well=False)
            raise self._over(error, tried) if self.failures > 1 else error
        self._patience._tell(answered(error.detail), left)
        time.sleep(min(left, self._pause * random.uniform(0.5, 1.0)))
        self._pause = min(2 * self._pause, _LONGEST)

    def end(self, *, well: bool = True) -> None:
        """It succeeded, or is given up."""
        if self.failures:
            self._patience._end(self)
            if well:
                self._patience._tell_end(time.monotonic() - self._failed_at)
                self.failures, self._pause = 0, _FIRST

    def _is_over(self) -> bool:
        try:
            self._patience.check(self._what)
        except StoreUnavailable:
            return True
        return False

    def _over(self, error: StoreUnavailable, seconds: float) -> StoreUnavailable:
        tried = f"Tried {self.failures} times in {duration(seconds)}."
        hint = error.hint or "patience of the repository says for how long"
        return StoreUnavailable(error.fact, f"{error.detail} {tried}".lstrip(), hint)
