"""A lease gives one writer at a time a cluster's repository; it ends by itself when its holder dies.

Held by base backup and expire, never by ``wal push``: archiving must not wait. A lease that was not renewed
for its whole term may be taken over, so a killed backup never blocks the next one for longer than that.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from pgproof.errors import LeaseHeld, ObjectExists, ObjectMissing, PgproofError, TransientError
from pgproof.repository.store import Store, read

TERM = 60.0  # seconds without renewal after which a lease is dead


class Lease:
    """A held lease.

    Args:
        store: where.
        key: of the lease object.
        purpose: said to whoever finds it held.
        clock: seconds since the epoch; an argument for the tests.
        term: seconds.
    """

    def __init__(
        self, store: Store, key: str, purpose: str, clock: Callable[[], float] = time.time, term: float = TERM
    ) -> None:
        self._store, self._key, self._purpose, self._clock, self._term = store, key, purpose, clock, term
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._lost = threading.Event()

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            LeaseHeld: another holder is alive; its process, host and purpose are in the detail.
        """
        for _ in range(3):
            try:
                self._store.put(self._key, self._content(), create=True)
                return
            except ObjectExists:
                self._remove_if_dead()
        raise LeaseHeld(f'could not take the lease "{self._key}"', "Others take it at the same moment.")

    def _remove_if_dead(self) -> None:
        try:
            held = json.loads(read(self._store, self._key))
        except ObjectMissing:
            return
        except ValueError:
            held = {"expires": 0}
        if held.get("expires", 0) > self._clock() and not _process_is_gone(held):
            raise LeaseHeld(
                f'could not take the lease "{self._key}"',
                f"It is held for {held['purpose']} by process {held['pid']} on {held['host']}.",
                "wait until that ends; a lease whose holder died ends by itself after "
                f"{self._term:.0f} s",
            )
        self._store.delete(self._key)

    def check(self) -> None:
        """Refuse to go on when the lease was lost; asked before every step that cannot be taken back."""
        if not self._lost.is_set():
            with contextlib.suppress(TransientError):  # could not look is not lost
                held = self._read_token()
                if held == self._token:
                    return
                self._lost.set()
        if self._lost.is_set():
            raise LeaseHeld(
                f'the lease "{self._key}" was lost',
                "It was not renewed in time and another writer may have taken it.",
                "run the command again",
            )

    def _read_token(self) -> str | None:
        try:
            return str(json.loads(read(self._store, self._key)).get("token"))
        except (ObjectMissing, ValueError):
            return None

    def renew_in_background(self) -> None:
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def _renew(self) -> None:
        while not self._stop.wait(self._term / 4):
            try:
                if self._read_token() != self._token:
                    self._lost.set()
                    return
                self._store.put(self._key, self._content())
            except PgproofError:
                continue  # tried again; if it stays so, the lease dies and check() says so

    def release(self) -> None:
        self._stop.set()
        with contextlib.suppress(PgproofError):
            if self._read_token() == self._token:
                self._store.delete(self._key)

    def _content(self) -> bytes:
        return json.dumps(
            {
                "token": self._token,
                "purpose": self._purpose,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "expires": self._clock() + self._term,
            }
        ).encode()


def _process_is_gone(held: dict[str, object]) -> bool:
    """Whether the holder ran on this host and its process has ended."""
    if held.get("host") != socket.gethostname() or not isinstance(held.get("pid"), int):
        return False
    try:
        os.kill(int(str(held["pid"])), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def hold_lease(store: Store, key: str, purpose: str) -> Iterator[Lease]:
    """Hold the lease for the time of a block, renewing it in the background."""
    lease = Lease(store, key, purpose)
    lease.acquire()
    lease.renew_in_background()
    try:
        yield lease
    finally:
        lease.release()
