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
from pathlib import Path
from typing import Any

from pgproof.errors import LeaseHeld, ObjectExists, ObjectMissing, PgproofError, TransientError
from pgproof.repository.store import Store, read, within

TERM = 60.0  # seconds without renewal after which a lease is dead
SETTLE = 1.0  # seconds; longer than the moment between another's look at a dead lease and its own write


class Lease:
    """A held lease.

    Args:
        store: where.
        key: of the lease object.
        purpose: said to whoever finds it held.
        clock: seconds since the epoch; an argument for the tests.
        term: seconds without renewal after which it is dead.
        settle: seconds to wait after a dead lease was taken over, before it counts.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        purpose: str,
        clock: Callable[[], float] = time.time,
        term: float = TERM,
        settle: float = SETTLE,
    ) -> None:
        self._store, self._key, self._purpose, self._clock, self._term = store, key, purpose, clock, term
        self._settle = settle
        # what renews it must not write it late, over another's, and is tried again by itself
        self._quick = within(store, 0)
        self._token = secrets.token_hex(8)
        self._expires = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lost = threading.Event()

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            LeaseHeld: another holder is alive; its process, host and purpose are in the detail.
        """
        for _ in range(3):
            try:
                self._write(create=True)
                return
            except ObjectExists:
                pass
            try:
                self._refuse_if_alive(self._read(self._store))
            except ObjectMissing:  # released just now
                continue
            self._write()  # over the dead one and never after its removal: whoever finds none must be alone
            time.sleep(self._settle)  # others may have seen it dead too; the last of them holds it
            if self._read_token() == self._token:
                return
        raise LeaseHeld(f'could not take the lease "{self._key}"', "Others take it at the same moment.")

    def _refuse_if_alive(self, held: dict[str, Any]) -> None:
        expires = held.get("expires")
        alive = isinstance(expires, int | float) and expires > self._clock()
        if alive and not _process_is_gone(held):
            raise LeaseHeld(
                f'could not take the lease "{self._key}"',
                f"It is held for {held.get('purpose')} by process {held.get('pid')} on {held.get('host')}.",
                f"wait until that ends; a lease whose holder died ends by itself after {self._term:.0f} s",
            )

    def check(self) -> None:
        """Refuse to go on when the lease was lost; asked before every step that cannot be taken back.

        Raises:
            LeaseHeld: another holds it, or nobody could look and its term is over.
        """
        if not self._lost.is_set():
            try:
                if self._read_token() == self._token:
                    return
                self._lost.set()
            except TransientError:
                if self._clock() < self._expires:  # nobody may take it yet
                    return
        raise LeaseHeld(
            f'the lease "{self._key}" was lost',
            "It was not renewed in time and another writer may have taken it.",
            "run the command again",
        )

    def _read(self, store: Store) -> dict[str, Any]:
        """What the lease object says; nothing when it cannot be read as a lease."""
        try:
            held = json.loads(read(store, self._key))
        except (ValueError, RecursionError):
            return {}
        return held if isinstance(held, dict) else {}

    def _read_token(self, store: Store | None = None) -> str | None:
        try:
            return self._read(store or self._store).get("token")
        except ObjectMissing:
            return None

    def renew_in_background(self) -> None:
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._stop.wait(self._term / 4):
            try:
                if self._read_token(self._quick) != self._token:
                    self._lost.set()
                    return
                self._write(self._quick)
            except PgproofError:
                continue  # tried again; if it stays so, the lease dies and check() says so

    def release(self) -> None:
        self._stop.set()
        if self._thread is not None:  # it must not write the lease again after this removed it
            self._thread.join(max(self._term, TERM))
        with contextlib.suppress(PgproofError):
            if self._read_token(self._quick) == self._token:
                self._quick.delete(self._key)

    def _write(self, store: Store | None = None, *, create: bool = False) -> None:
        expires = self._clock() + self._term
        content = {
            "token": self._token,
            "purpose": self._purpose,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "processes": _process_space(),
            "expires": expires,
        }
        (store or self._store).put(self._key, json.dumps(content).encode(), create=create)
        self._expires = expires


def _process_space() -> str | None:
    """Where a process id means a process: this boot of this kernel, and the container's PID namespace.

    A host name is not enough: containers and cloned machines share them.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_is_gone(held: dict[str, Any]) -> bool:
    """Whether the holder's process could be seen from here and has ended."""
    space, process = _process_space(), held.get("pid")
    if space is None or held.get("processes") != space or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
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
