"""The lease: one writer at a time, and a dead one never for long."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgproof.errors import LeaseHeld, ObjectMissing, StoreUnavailable, TransientError
from pgproof.repository import lease as lease_module
from pgproof.repository.lease import Lease, hold_lease
from pgproof.repository.store import Store, read
from tests.repository.passing import Passing

KEY = "shop/7412345678901234567/lease.json"


class Clock:
    """Seconds that a test sets."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Away(Passing):
    """A store that can be switched off: a wrapper of ours at a seam of ours, as the network would be."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.away = False

    def reach(self) -> Store:
        if self.away:
            raise StoreUnavailable("could not reach the store")
        return self.inner


def write(store: Store, **content: Any) -> None:
    """A lease as another holder, alive on another host, would write it."""
    held = {"token": "of-another", "purpose": "a base backup", "host": "db2", "pid": 4711, "expires": 2e9}
    store.put(KEY, json.dumps({**held, **content}).encode())


def held(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(store, KEY))
    return found


def refused(lease: Lease) -> LeaseHeld:
    with pytest.raises(LeaseHeld) as caught:
        lease.acquire()
    return caught.value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- two holders


def test_a_second_holder_is_refused_and_told_by_whom(store: Store) -> None:
    Lease(store, KEY, "a base backup").acquire()
    error = refused(Lease(store, KEY, "expire"))
    assert str(error) == (
        f'could not take the lease "{KEY}"\n'
        f"DETAIL: It is held for a base backup by process {os.getpid()} on {socket.gethostname()}.\n"
        "HINT: wait until that ends; a lease whose holder died ends by itself after 60 s"
    )
    assert isinstance(error, TransientError)
    assert held(store)["purpose"] == "a base backup"


def test_what_a_lease_says(store: Store) -> None:
    Lease(store, KEY, "expire", Clock(1000.0), term=20.0).acquire()
    found = held(store)
    assert len(found.pop("token")) == 16
    assert found.pop("processes")
    assert found == {"purpose": "expire", "host": socket.gethostname(), "pid": os.getpid(), "expires": 1020.0}


def test_after_release_the_next_one_gets_it(store: Store) -> None:
    first = Lease(store, KEY, "first", settle=0)
    first.acquire()
    first.release()
    with pytest.raises(ObjectMissing):
        store.head(KEY)
    Lease(store, KEY, "second", settle=0).acquire()
    assert held(store)["purpose"] == "second"


def test_leases_of_two_clusters_do_not_meet(store: Store) -> None:
    Lease(store, "shop/1/lease.json", "a").acquire()
    Lease(store, "shop/2/lease.json", "b").acquire()


@pytest.mark.parametrize("dead", [False, True], ids=["free", "dead"])
def test_of_eight_takers_exactly_one_gets_it(store: Store, dead: bool) -> None:
    if dead:
        write(store, expires=0)
    start = threading.Barrier(8)

    def take(number: int) -> Lease | None:
        lease = Lease(store, KEY, f"taker {number}")
        start.wait()
        try:
            lease.acquire()
        except LeaseHeld:
            return None
        return lease

    with ThreadPoolExecutor(8) as pool:
        holders = [lease for lease in pool.map(take, range(8)) if lease is not None]
    assert len(holders) == 1
    holders[0].check()


class Overtaken(Passing):
    """A store whose reader is overtaken by another taker, once, between its look and its write."""

    def __init__(self, store: Store, other: Lease) -> None:
        super().__init__(store)
        self.taker = threading.Thread(target=self._take, args=(other,))
        self.taken: bool | None = None

    def _take(self, other: Lease) -> None:
        try:
            other.acquire()
            self.taken = True
        except LeaseHeld:
            self.taken = False

    def get(self, key: str) -> Iterator[bytes]:
        content = read(self.inner, key)
        if self.taker.ident is None:
            self.taker.start()
            until(lambda: read(self.inner, key) != content)
        return iter([content])


def test_a_taker_that_is_overtaken_leaves_one_holder(store: Store) -> None:
    write(store, expires=0)
    quick = Lease(store, KEY, "the quick one", settle=0.3)
    overtaken = Overtaken(store, quick)
    slow = Lease(overtaken, KEY, "the slow one", settle=0.3)
    slow.acquire()
    overtaken.taker.join()
    assert overtaken.taken is False
    slow.check()


# ---- a dead holder


def test_a_lease_ends_when_its_term_is_over(store: Store) -> None:
    clock = Clock()
    write(store, expires=clock.now + 60)
    second = Lease(store, KEY, "second", clock, settle=0)
    clock.now += 59.9
    assert refused(second).detail == "It is held for a base backup by process 4711 on db2."
    clock.now += 0.1
    second.acquire()
    second.check()
    assert held(store)["expires"] == clock.now + 60


def test_a_process_that_ended_on_this_host_holds_nothing(store: Store, tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from pgproof.repository.lease import Lease
from pgproof.repository.posix import PosixStore
Lease(PosixStore(Path({str(tmp_path)!r}) / "left"), "lease.json", "a base backup").acquire()
sys.stdout.write(str(os.getpid()))
sys.stdout.flush()
if sys.stdin.read(): pass
os._exit(9)
"""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        assert process.stdout.read(1)
        content = json.loads((tmp_path / "left/lease.json").read_text())
        assert content["pid"] == process.pid
        store.put(KEY, json.dumps(content).encode())
        taker = Lease(store, KEY, "the next one", settle=0)
        assert refused(taker).detail.startswith("It is held for a base backup by process")
        process.stdin.close()
        assert process.wait(30) == 9
        taker.acquire()
    assert held(store)["purpose"] == "the next one"


@pytest.mark.parametrize(
    "other", [{"processes": "another boot, or another container"}, {"processes": None}, {}]
)
def test_a_process_of_another_container_is_not_taken_for_dead(store: Store, other: dict[str, Any]) -> None:
    """Containers share a host's name, and not its process ids."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    write(store, host=socket.gethostname(), pid=gone.pid, **other)
    refused(Lease(store, KEY, "second", settle=0))
    write(store, host=socket.gethostname(), pid=gone.pid, processes=lease_module._process_space())
    Lease(store, KEY, "second", settle=0).acquire()


@pytest.mark.parametrize("pid", [0, -1, "4711", None, True, 1 << 70], ids=str)
def test_a_process_id_that_is_none(store: Store, pid: Any) -> None:
    write(store, pid=pid, processes=lease_module._process_space())
    refused(Lease(store, KEY, "second", settle=0))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"expires": "soon"}'], ids=repr
)
def test_a_lease_that_cannot_be_read_holds_nobody_up(store: Store, content: bytes) -> None:
    store.put(KEY, content)
    lease = Lease(store, KEY, "second", settle=0)
    lease.acquire()
    lease.check()


# ---- a lost lease


def test_a_lease_that_another_took_is_lost(store: Store) -> None:
    clock = Clock()
    first = Lease(store, KEY, "first", clock, settle=0)
    first.acquire()
    first.check()
    clock.now += 61
    second = Lease(store, KEY, "second", clock, settle=0)
    # the first one's process is this one and alive, so only the term counts
    second.acquire()
    for _ in range(2):
        with pytest.raises(LeaseHeld) as caught:
            first.check()
        assert str(caught.value) == (
            f'the lease "{KEY}" was lost\n'
            "DETAIL: It was not renewed in time and another writer may have taken it.\n"
            "HINT: run the command again"
        )
    second.check()
    first.release()
    second.check()
    assert held(store)["purpose"] == "second"


def test_a_lease_that_was_removed_is_lost(store: Store) -> None:
    lease = Lease(store, KEY, "first", settle=0)
    lease.acquire()
    store.delete(KEY)
    with pytest.raises(LeaseHeld):
        lease.check()
    lease.release()


def test_release_leaves_the_lease_of_another(store: Store) -> None:
    lease = Lease(store, KEY, "first", settle=0)
    lease.acquire()
    write(store)
    lease.release()
    assert held(store)["token"] == "of-another"


def test_could_not_look_is_not_lost_until_the_term_is_over(store: Store) -> None:
    away, clock = Away(store), Clock()
    lease = Lease(away, KEY, "first", clock, settle=0)
    lease.acquire()
    away.away = True
    clock.now += 59
    lease.check()
    clock.now += 2
    with pytest.raises(LeaseHeld):
        lease.check()
    away.away = False
    lease.check()  # it was not taken meanwhile


def test_release_without_a_store_is_no_error(store: Store) -> None:
    away = Away(store)
    lease = Lease(away, KEY, "first", settle=0)
    lease.acquire()
    away.away = True
    lease.release()


def test_a_store_that_is_away_is_not_taken_for_a_free_lease(store: Store) -> None:
    away = Away(store)
    away.away = True
    with pytest.raises(StoreUnavailable):
        Lease(away, KEY, "first", settle=0).acquire()


# ---- renewal


def test_a_lease_is_renewed_in_the_background(store: Store) -> None:
    lease = Lease(store, KEY, "first", term=0.4)
    lease.acquire()
    lease.renew_in_background()
    first = held(store)["expires"]
    until(lambda: held(store)["expires"] > first + 0.4)
    lease.check()
    refused(Lease(store, KEY, "second", settle=0))
    lease.release()


def test_renewal_goes_on_after_the_store_was_away(store: Store) -> None:
    away = Away(store)
    lease = Lease(away, KEY, "first", term=0.4)
    lease.acquire()
    lease.renew_in_background()
    away.away = True
    time.sleep(0.3)
    away.away = False
    first = held(store)["expires"]
    until(lambda: held(store)["expires"] > first)
    lease.check()
    lease.release()


def test_renewal_does_not_take_back_what_another_has_taken(store: Store) -> None:
    lease = Lease(store, KEY, "first", term=0.2)
    lease.acquire()
    lease.renew_in_background()
    write(store)
    time.sleep(0.3)
    assert held(store)["token"] == "of-another"
    with pytest.raises(LeaseHeld):
        lease.check()
    lease.release()


def test_a_released_lease_does_not_come_back(store: Store) -> None:
    """Renewal reads and then writes; a release between the two must not be undone."""
    for _ in range(30):
        lease = Lease(store, KEY, "first", term=0.004)
        lease.acquire()
        lease.renew_in_background()
        time.sleep(0.004)
        lease.release()
        with pytest.raises(ObjectMissing):
            store.head(KEY)


def test_hold_lease_releases_at_the_end(store: Store) -> None:
    before = threading.active_count()
    with hold_lease(store, KEY, "a base backup") as lease:
        lease.check()
        assert held(store)["purpose"] == "a base backup"
        refused(Lease(store, KEY, "second", settle=0))
    assert threading.active_count() == before
    with pytest.raises(ObjectMissing):
        store.head(KEY)


def test_hold_lease_releases_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), hold_lease(store, KEY, "a base backup"):
        _ = 1 / 0
    with pytest.raises(ObjectMissing):
        store.head(KEY)
