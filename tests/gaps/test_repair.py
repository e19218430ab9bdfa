"""A repair that dies at any step, or that meets another one, leaves the old state or the mended one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.errors import ObjectMissing, StoreUnavailable, WalConflict
from pgproof.gaps.places import RepositoryPlace
from pgproof.gaps.replacement import Replacement, Search, put_damaged, put_missing
from pgproof.repository.codec import Codec
from pgproof.repository.repository import Archive, Repository
from pgproof.repository.store import ObjectInfo, Store
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.survey import rows_of, take_survey
from tests.repository.conftest import recipient_of
from tests.repository.passing import Passing
from tests.servers.postgres import running_source
from tests.wal.files import MB
from tests.wal.real import NOW, Wal


class Dying(Passing):
    """A store that dies at its n-th call: before it does anything, or right after."""

    def __init__(self, inner: Store, calls: int, after: bool) -> None:
        super().__init__(inner)
        self.left, self.after = calls, after

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt

    def _done(self) -> None:
        if self.left <= 0 and self.after:
            raise KeyboardInterrupt

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        self._step()
        self.inner.put(key, data, create=create)
        self._done()

    def get(self, key: str) -> Iterator[bytes]:
        self._step()
        found = self.inner.get(key)
        self._done()
        return found

    def head(self, key: str) -> ObjectInfo:
        self._step()
        found = self.inner.head(key)
        self._done()
        return found

    def delete(self, key: str) -> None:
        self._step()
        self.inner.delete(key)
        self._done()


def on(archive: Archive, store: Store, codec: Codec | None = None) -> Archive:
    repository = archive.repository
    return replace(archive, repository=Repository(store, codec or repository.codec, repository.identifier))


@pytest.fixture(scope="module")
def shared() -> Iterator[Wal]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g, repeat(md5(g::text), 8) v FROM generate_series(1, 12000) g")
        source.archive_now()
        yield Wal.of(source, MB)


@pytest.fixture
def wal(shared: Wal, tmp_path: Path) -> Wal:
    return shared.copy(tmp_path)


@pytest.fixture
def victim(wal: Wal) -> WalSegment:
    return wal.segments[2]


@pytest.fixture
def good(wal: Wal, victim: WalSegment, tmp_path: Path) -> Replacement:
    """What a search found."""
    other = wal.copy(tmp_path / "other")
    survey = take_survey(wal.archive, rows_of(wal.segments), NOTHING_KNOWN)
    found, answers = Search(wal.archive, survey, [RepositoryPlace("offsite", other.archive)], wal.bin).find(
        victim, {victim}, tmp_path
    )
    assert found is not None, answers
    assert answers == (('repository "offsite"', f"has it, SHA-256 {found.sha256}"),)
    return found


class _Nothing:
    """Every segment must be read."""

    def keep(self, segment: WalSegment, modified: float) -> bool:
        return False

    def forget(self, segment: WalSegment) -> None:
        """Nothing is known."""


NOTHING_KNOWN = _Nothing()


def harm(wal: Wal, victim: WalSegment) -> bytes:
    """Damage the stored bytes; what they are then."""
    path = wal.path(victim)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return bytes(content)


def aside(wal: Wal) -> list[bytes]:
    found = wal.archive.store.list(wal.archive.layout.damaged)
    return [b"".join(wal.archive.store.get(info.key)) for info in found]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["same codec", "other codec"])
def test_dying_at_any_step_of_a_damaged_one(
    wal: Wal,
    victim: WalSegment,
    good: Replacement,
    after: bool,
    encrypted: bool,
    identity: str,
) -> None:
    """At every moment the segment is there; damaged bytes are kept aside before they are replaced."""
    codec = wal.archive.repository.codec
    if encrypted:
        codec = Codec(recipients=(recipient_of(identity),), identity=identity)
    wal.archive = on(wal.archive, wal.archive.store, codec)
    healthy = wal.path(victim).read_bytes()
    damaged = harm(wal, victim)
    states = []
    for call in range(1, 40):
        dying = on(wal.archive, Dying(wal.archive.store, call, after))
        try:
            done = put_damaged(dying, good, NOW + timedelta(seconds=call))
        except KeyboardInterrupt:
            done = False
        stored = b"".join(wal.archive.store.get(find_key(wal.archive, victim.name)))
        states.append("old" if stored == damaged else "mended")
        if stored != damaged:
            assert wal.content(victim) == b"".join(good.chunks())
            assert damaged in aside(wal)
        if done:
            break
        assert put_damaged(wal.archive, good, NOW + timedelta(minutes=call)) in (True, False)
        assert wal.content(victim) == b"".join(good.chunks())  # the second run mended it
        assert [info.key for info in wal.archive.store.list(wal.archive.layout.wal)].count(
            find_key(wal.archive, victim.name)
        ) == 1
        for key in (find_key(wal.archive, victim.name), wal.archive.layout.wal_file(victim.name) + ".zst"):
            wal.archive.store.delete(key)
        wal.archive.store.put(wal.archive.layout.wal_file(victim.name) + ".zst", damaged)
    assert done
    assert {"old", "mended"} == set(states)
    assert healthy != damaged


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_of_a_missing_one(
    wal: Wal, victim: WalSegment, good: Replacement, after: bool
) -> None:
    key = find_key(wal.archive, victim.name)
    for call in range(1, 20):
        wal.archive.store.delete(key)
        try:
            put_missing(on(wal.archive, Dying(wal.archive.store, call, after)), good)
            break
        except KeyboardInterrupt:
            put_missing(wal.archive, good)
            assert wal.content(victim) == b"".join(good.chunks())
    else:
        raise AssertionError("it never came through")
    assert wal.damaged() == []


def test_store_that_fails_leaves_the_damaged_one(wal: Wal, victim: WalSegment, good: Replacement) -> None:
    damaged = harm(wal, victim)

    class Failing(Dying):
        def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
            raise StoreUnavailable("could not")

    with pytest.raises(StoreUnavailable):
        put_damaged(on(wal.archive, Failing(wal.archive.store, 0, False)), good, NOW)
    assert wal.path(victim).read_bytes() == damaged


def test_archiver_that_is_quicker(wal: Wal, victim: WalSegment, good: Replacement) -> None:
    before = wal.path(victim).read_bytes()
    put_missing(wal.archive, good)
    assert wal.path(victim).read_bytes() == before


def test_archiver_with_other_content(wal: Wal, victim: WalSegment, good: Replacement) -> None:
    content = bytearray(wal.content(victim))
    content[2] ^= 4
    wal.replace(victim, bytes(content))
    with pytest.raises(WalConflict) as caught:
        put_missing(wal.archive, good)
    assert caught.value.fact == f'WAL segment "{victim}" is archived with other content'
    assert wal.content(victim) == bytes(content)


def test_second_repair_of_the_same_segment(wal: Wal, victim: WalSegment, good: Replacement) -> None:
    damaged = harm(wal, victim)
    assert put_damaged(wal.archive, good, NOW)
    assert not put_damaged(wal.archive, good, NOW)
    assert aside(wal) == [damaged]


def test_segment_that_is_changed_while_it_is_repaired(
    wal: Wal, victim: WalSegment, good: Replacement
) -> None:
    """Another repair came first: what is kept aside must be what was judged, or nothing is replaced."""
    harm(wal, victim)
    path = wal.path(victim)

    class Racing(Dying):
        def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
            path.write_bytes(b"changed")
            self.inner.put(key, self.inner.get(find_key(wal.archive, victim.name)), create=create)

    with pytest.raises(WalConflict) as caught:
        put_damaged(on(wal.archive, Racing(wal.archive.store, 0, False)), good, NOW)
    assert caught.value.fact == f'WAL segment "{victim}" was changed while it was repaired'
    assert path.read_bytes() == b"changed"


def test_replacement_must_fit_its_neighbours(wal: Wal, victim: WalSegment, tmp_path: Path) -> None:
    """Valid pages are not enough: a record that crosses the border would not be read."""
    other = wal.copy(tmp_path / "other")
    other.flip(victim, 60)
    survey = take_survey(wal.archive, rows_of(wal.segments), NOTHING_KNOWN)
    search = Search(wal.archive, survey, [RepositoryPlace("offsite", other.archive)], wal.bin)
    found, answers = search.find(victim, (), tmp_path)
    assert found is None
    ((place, answer),) = answers
    assert place == 'repository "offsite"'
    assert answer.endswith(f"; it reaches from {wal.segments[1]} to {victim}: one of them is damaged")


def test_place_that_lacks_it(wal: Wal, victim: WalSegment, tmp_path: Path) -> None:
    other = wal.copy(tmp_path / "other")
    other.path(victim).unlink()
    with pytest.raises(ObjectMissing):
        other.content(victim)
    survey = take_survey(wal.archive, rows_of(wal.segments), NOTHING_KNOWN)
    search = Search(wal.archive, survey, [RepositoryPlace("offsite", other.archive)], wal.bin)
    assert search.find(victim, (), tmp_path) == (
        None,
        (
            (
                'repository "offsite"',
                f'WAL file "{victim}" is not in the archive "{other.archive.store.url}"',
            ),
        ),
    )
