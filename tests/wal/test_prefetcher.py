"""The prefetcher: recovery finds the next segments in the spool, whole; never too many, never the wrong ones."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from pgproof.config import RepositoryConfig
from pgproof.errors import ObjectMissing
from pgproof.repository.repository import create_repository
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.background.prefetcher import Prefetcher
from pgproof.wal.fetch import fetch
from pgproof.wal.push import push
from tests.drills.damage import flip_bit
from tests.wal.files import OTHER, segment_bytes
from tests.wal.spooled import MB, SYSTEM, Spooled, content, processes, until


def name_of(number: int, timeline: int = 1) -> str:
    return WalSegment(timeline, number, MB).name


def store(site: Spooled, *numbers: int, timeline: int = 1) -> None:
    for number in numbers:
        path = site.data.segment(number, timeline=timeline)
        push(site.archive, path)
        path.unlink()


def ahead(site: Spooled) -> set[str]:
    """The segments that lie in the spool for this configuration."""
    directory = site.spool.for_recovery(SYSTEM)
    return {n for n in os.listdir(directory) if len(n) == 24} if os.path.isdir(directory) else set()


def test_recovery_finds_the_next_segments_in_the_spool(site: Spooled) -> None:
    store(site, *range(5, 20))
    with site.recovering():
        assert site.fetch(name_of(5)) == (0, "")
        assert site.recovered() == content(5)
        until(lambda: ahead(site) == {name_of(number) for number in range(6, 20)})
        (site.root / "repository").rename(site.root / "away")  # nobody needs it for these
        for number in range(6, 20):
            assert site.fetch(name_of(number)) == (0, "")
            assert site.recovered() == content(number)
        (site.root / "away").rename(site.root / "repository")
        code, message = site.fetch(name_of(20))
        assert code == 97
        assert (
            message == f'pgproof: WAL file "{name_of(20)}" is not in the archive "{site.archive.store.url}"\n'
        )
    until(lambda: not processes(site.root), 10, "recovery is over")
    assert ahead(site) == set()


def test_never_more_than_a_set_size(site: Spooled) -> None:
    site.configure('wal.prefetch_size = "4MB"\nwal.workers = 4')
    store(site, *range(5, 25))
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most.append(len(ahead(site)))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    with site.recovering():
        watcher.start()
        for number in range(5, 25):
            assert site.fetch(name_of(number)) == (0, "")
            assert site.recovered() == content(number)
            following = {name_of(n) for n in range(number + 1, min(number + 5, 25))}
            until(lambda following=following: ahead(site) == following)
        stop.set()
        watcher.join()
    assert 4 <= max(most) <= 5  # the one that is asked for may lie beside the four


def test_nothing_ahead_when_told_so(site: Spooled) -> None:
    site.configure("wal.prefetch_size = 0")
    store(site, 5, 6)
    with site.recovering():
        assert site.fetch(name_of(5)) == (0, "")
        time.sleep(0.5)
        assert ahead(site) == set()
        assert site.fetch(name_of(6)) == (0, "")
        assert site.recovered() == content(6)


def test_timeline_switch(site: Spooled) -> None:
    """What the old timeline wrote after the fork is fetched ahead, and never given for the new one's."""
    store(site, *range(5, 12))
    store(site, *range(8, 14), timeline=2)
    push(site.archive, site.data.write("00000002.history", b"1\t0/880000\tno recovery target specified\n"))
    with site.recovering():
        code, _ = site.fetch("00000003.history")
        assert code == 97
        assert site.fetch("00000002.history") == (0, "")
        assert site.recovered() == b"1\t0/880000\tno recovery target specified\n"
        for number in range(5, 8):
            assert site.fetch(name_of(number)) == (0, "")
            assert site.recovered() == content(number)
        for number in range(8, 14):
            assert site.fetch(name_of(number, 2)) == (0, "")
            assert site.recovered() == content(number, timeline=2)
        until(lambda: ahead(site) == set(), what="the old timeline's are dropped")


def test_partial_segment_is_asked_for_by_its_name(site: Spooled) -> None:
    segment = WalSegment(1, 5, MB)
    partial = segment_bytes(segment, seed="up to the fork")
    push(site.archive, site.data.write(f"{segment}.partial", partial))
    store(site, 4)
    with site.recovering():
        assert site.fetch(segment.name)[0] == 97
        assert site.fetch(f"{segment}.partial") == (0, "")
        assert site.recovered() == partial


def test_what_was_archived_meanwhile_is_found(site: Spooled) -> None:
    """A standby asks for the next segment again and again: "not archived" is never remembered."""
    store(site, 5)
    (site.data.root / "standby.signal").touch()
    with site.recovering():
        assert site.fetch(name_of(5)) == (0, "")
        for number in range(6, 12):
            assert site.fetch(name_of(number))[0] == 97
            store(site, number)
            assert site.fetch(name_of(number)) == (0, "")
            assert site.recovered() == content(number)


def test_damaged_segment_is_refused_when_it_is_asked_for(site: Spooled) -> None:
    store(site, 5, 6, 7)
    flip_bit(site.root / "repository" / find_key(site.archive, name_of(6)))
    with site.recovering():
        assert site.fetch(name_of(5)) == (0, "")
        code, message = site.fetch(name_of(6))
        assert code == 129
        assert message.startswith(
            f'pgproof: object "{find_key(site.archive, name_of(6))}" is damaged\nDETAIL: '
        )
        assert sorted(p.name for p in site.data.wal.glob("0*")) == []


def test_invariant_6_another_cluster_in_the_same_directory(site: Spooled) -> None:
    """What was fetched for the one is not given to the other."""
    store(site, 5, 6)
    with site.recovering():
        assert site.fetch(name_of(5)) == (0, "")
        until(lambda: ahead(site) == {name_of(6)})
        (site.data.root / "global" / "pg_control").write_bytes(OTHER.to_bytes(8, "little") + bytes(8184))
        code, message = site.fetch(name_of(6))
        assert code == 129 + 40
        assert f"system identifier {OTHER}" in message


def test_another_configuration(site: Spooled) -> None:
    store(site, 5, 6)
    with site.recovering():
        assert site.fetch(name_of(5)) == (0, "")
        until(lambda: ahead(site) == {name_of(6)})
        site.configure(url=f"file://{site.root}/unmounted")
        assert site.fetch(name_of(6))[0] == 158
        site.configure()
        assert site.fetch(name_of(6)) == (0, "")
        assert site.recovered() == content(6)


def test_prefetcher_killed(site: Spooled) -> None:
    """Its half-written files are not taken for whole ones, and another goes on."""
    store(site, *range(5, 30))
    with site.recovering():
        for number in range(5, 30):
            assert site.fetch(name_of(number)) == (0, "")
            assert site.recovered() == content(number)
            if number % 5 == 0:
                for process in processes(site.root):
                    os.kill(process, signal.SIGKILL)
    until(lambda: not processes(site.root), 10)
    assert os.listdir(site.spool.for_recovery(SYSTEM)) == []


def test_without_a_spool(site: Spooled) -> None:
    store(site, 5)
    (site.root / "spool").write_text("in the way")
    assert site.fetch(name_of(5)) == (0, "")
    assert site.recovered() == content(5)
    assert site.fetch(name_of(6))[0] == 97


def test_spool_on_another_file_system(site: Spooled) -> None:
    """A rename cannot cross it: the file is copied, and appears whole all the same."""
    store(site, 5, 6)
    spool = Path("/dev/shm") / f"pgproof-test-{os.getpid()}-{random.randrange(1 << 30)}"
    with site.recovering():
        for number in (5, 6):
            done = site.run("fetch", name_of(number), "pg_wal/RECOVERYXLOG", PGPROOF_SPOOL=str(spool))
            assert (done.returncode, done.stderr) == (0, "")
            assert site.recovered() == content(number)
    until(lambda: not processes(spool), 10)


class TestCopies:
    @pytest.fixture
    def site(self, site: Spooled) -> Spooled:
        config = RepositoryConfig(url=f"file://{site.root}/copy")
        copy = create_repository(config).archive("shop", SYSTEM)
        site.configure('copies = ["copy"]', f'[repositories.copy]\nurl = "file://{site.root}/copy"')
        for number in (5, 6, 7):
            path = site.data.segment(number)
            push(site.archive, path)
            push(copy, path)
            path.unlink()
        return site

    @pytest.mark.parametrize("harm", ["missing", "damaged", "unmounted"])
    def test_recovery_goes_on_with_the_copy(self, site: Spooled, harm: str) -> None:
        stored = site.root / "repository" / find_key(site.archive, name_of(6))
        if harm == "missing":
            stored.unlink()
        elif harm == "damaged":
            flip_bit(stored)
        else:
            (site.root / "repository").rename(site.root / "away")
        with site.recovering():
            for number in (5, 6, 7):
                assert site.fetch(name_of(number)) == (0, "")
                assert site.recovered() == content(number)
            code, _ = site.fetch(name_of(8))
            # it might be in the repository that nobody can look at
            assert code == (158 if harm == "unmounted" else 97)

    def test_not_archived_is_not_said_while_the_copy_is_away(self, site: Spooled) -> None:
        (site.root / "repository" / find_key(site.archive, name_of(6))).unlink()
        (site.root / "copy").rename(site.root / "away")
        with site.recovering():
            assert site.fetch(name_of(5)) == (0, "")
            assert site.fetch(name_of(6))[0] == 158


class TestReceived:
    """The beginning of a segment that wal receive stored: the end of recovery, until the segment is archived."""

    def part(self, site: Spooled, end: int) -> bytes:
        segment = WalSegment(1, 6, MB)
        begun = segment_bytes(segment)[:end].ljust(MB, b"\0")
        site.archive.write(site.archive.layout.received_part(segment.name, end), [begun], create=True)
        return begun

    def test_the_longest_part_is_given(self, site: Spooled) -> None:
        store(site, 5)
        self.part(site, 8192)
        longest = self.part(site, 40_000)
        with site.recovering():
            assert site.fetch(name_of(5)) == (0, "")
            assert site.fetch(name_of(6)) == (0, "")
            assert site.recovered() == longest
            store(site, 6)
            assert site.fetch(name_of(6)) == (0, "")
            assert site.recovered() == content(6)

    def test_no_part_of_another_segment(self, site: Spooled) -> None:
        store(site, 5)
        self.part(site, 8192)
        with site.recovering():
            assert site.fetch(name_of(7))[0] == 97
            assert site.fetch(name_of(6, 2))[0] == 97
            assert site.fetch("00000002.history")[0] == 97


def test_random_requests(site: Spooled) -> None:
    """Whatever is asked for in whatever order, the answer is the archive's."""
    chance = random.Random(7)
    there = {(timeline, number) for timeline in (1, 2) for number in range(1, 40) if chance.random() < 0.8}
    for timeline, number in there:
        store(site, number, timeline=timeline)
    spool = site.spool
    spool.make()
    directory = spool.for_recovery(SYSTEM)
    asked: list[str] = []

    def fetched(name: str, path: Path) -> int:
        asked.append(name)
        return fetch(site.archive, name, path)

    prefetcher = Prefetcher(spool, directory, fetched, 4, 6 * MB, 60, asked.append)
    with site.recovering():
        thread = threading.Thread(target=prefetcher.run)
        thread.start()
        requests, position = 0, (1, 1)
        while requests < 300:
            timeline, number = position
            name, requests = name_of(number, timeline), requests + 1
            if not os.path.exists(os.path.join(directory, name)):
                spool.forget("refused", name)
                spool.ask(name)
                until(
                    lambda name=name: (
                        os.path.exists(os.path.join(directory, name))
                        or spool.failure("refused", name) is not None
                    )
                )
            if (timeline, number) in there:
                assert Path(directory, name).read_bytes() == content(number, timeline=timeline)
                os.unlink(os.path.join(directory, name))
                position = (
                    (timeline, number + 1) if chance.random() < 0.9 else (chance.choice((1, 2)), number)
                )
            else:
                assert (spool.failure("refused", name) or (0, ""))[0] == 97
                position = (chance.choice((1, 2)), chance.randrange(1, 40))
        spool.ask_to_stop("fetch")
        thread.join(20)
        assert not thread.is_alive()
    assert os.listdir(directory) == []
    with pytest.raises(ObjectMissing):
        fetch(site.archive, name_of(99), site.root / "x")
