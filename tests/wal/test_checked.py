"""What content checks remember: a second one reads nothing, and whatever has changed is read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.timelines.segment import WalSegment
from tests.servers.postgres import running_source
from tests.wal.files import MB
from tests.wal.real import MONTH, NOW, Wal
from tests.wal.test_content import fill, whole


@pytest.fixture(scope="module")
def shared() -> Iterator[Wal]:
    with running_source(17) as source:
        fill(source)
        yield Wal.of(source, MB)


@pytest.fixture
def wal(shared: Wal, tmp_path: Path) -> Wal:
    return shared.copy(tmp_path)


def touch(wal: Wal, segment: WalSegment, seconds: float) -> None:
    at = NOW.timestamp() + seconds
    os.utime(wal.path(segment), (at, at))


def test_second_check_reads_nothing(wal: Wal) -> None:
    first = wal.check()
    second = wal.check()
    assert (first.read >= len(wal.segments), first.remembered) == (True, 0)
    assert (second.read, second.remembered, second.damaged) == (0, len(wal.segments), ())
    tree = wal.archive.read_json(wal.archive.layout.wal_checked)
    (run,) = tree["runs"]
    assert (run["first"], run["last"]) == (wal.segments[0].name, wal.segments[-1].name)
    assert (run["timeline"], run["crc"], run["checked_at"]) == (1, True, NOW.isoformat(timespec="seconds"))
    assert wal.check(everything=True).read >= len(wal.segments)


def test_object_that_was_stored_since_is_read_again(wal: Wal) -> None:
    wal.check()
    victim = wal.segments[3]
    touch(wal, victim, 60)
    found = wal.check(NOW + timedelta(minutes=5))
    assert (found.remembered, found.damaged) == (len(wal.segments) - 1, ())
    assert 1 <= found.read <= 5  # with those beside it, for the records that cross its borders
    found = wal.check(NOW + timedelta(minutes=6))
    assert (found.read, found.remembered) == (0, len(wal.segments))


def test_damage_stays_known_until_it_is_mended(wal: Wal) -> None:
    victim = whole(wal)[1]
    healthy = wal.path(victim).read_bytes()
    wal.flip(victim, MB // 2)
    for minutes in (0, 1):
        found = wal.check(NOW + timedelta(minutes=minutes))
        assert [name for name, _ in found.damaged] == [victim.name]
    assert found.remembered == len(wal.segments) - 1
    wal.path(victim).write_bytes(healthy)
    assert wal.check(NOW + timedelta(minutes=2)).damaged == ()
    assert wal.check(NOW + timedelta(minutes=3)).read == 0


def test_segments_are_read_again_after_a_while(wal: Wal) -> None:
    wal.check()
    assert wal.check(NOW + MONTH - timedelta(seconds=1)).read == 0
    assert wal.check(NOW + MONTH).read >= len(wal.segments)


def test_clock_that_went_back(wal: Wal) -> None:
    wal.check(NOW + timedelta(days=400))
    assert wal.check(NOW).read >= len(wal.segments)


def test_new_segments_are_read_with_the_one_before(wal: Wal) -> None:
    """The record that crosses into a new segment was not read when the newest one was checked."""
    all_of_them = wal.segments
    one, two = whole(wal)[:2]
    later = [s for s in all_of_them if s > one]
    kept = {s: wal.path(s).read_bytes() for s in later}
    paths = {s: wal.path(s) for s in later}
    for path in paths.values():
        path.unlink()
    wal.segments = [s for s in all_of_them if s <= one]
    wal.flip(one, MB - 4)  # the start of that record
    assert wal.check().damaged == ()
    for s, path in paths.items():
        path.write_bytes(kept[s])
    wal.segments = all_of_them
    found = wal.check(NOW + timedelta(minutes=5))
    assert [name for name, _ in found.damaged] == [one.name, two.name]


def test_what_was_stored_just_now_is_not_yet_remembered(wal: Wal) -> None:
    victim = wal.segments[-1]
    touch(wal, victim, -5)
    wal.check()
    found = wal.check()
    assert found.remembered == len(wal.segments) - 1


def test_crc_is_made_up_for(wal: Wal) -> None:
    assert wal.check(bin_directory=None).crc is False
    assert wal.check(bin_directory=None).read == 0
    assert wal.check().read >= len(wal.segments)
    assert wal.check(bin_directory=None).read == 0  # what was checked with them was checked without, too


def test_nobody_has_a_clock(wal: Wal) -> None:
    wal.check()
    found = wal.check(None)  # type: ignore[arg-type]
    assert (found.read >= len(wal.segments), found.remembered) == (True, 0)
    assert wal.check().read == 0  # and what was remembered still is


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"system_identifier": "1", "segment_size": 1048576, "runs": []}',
        b'{"system_identifier": "%d", "segment_size": 16777216, "runs": []}',
        b'{"system_identifier": "%d", "segment_size": 1048576, "runs": {}}',
        b'{"system_identifier": "%d", "segment_size": 1048576, "runs": [{"first": 1}]}',
        b'{"system_identifier": "%d", "segment_size": 1048576, "runs": [{"first": "000000010000000000000001",'
        b'"last": "000000010000000000000FFF", "checked_at": "2026-11-24T10:00:00+00:00", "crc": true,'
        b'"stored_until": Infinity}]}',
        b'{"system_identifier": "%d", "segment_size": 1048576, "runs": [{"first": "000000010000000000000001",'
        b'"last": "00000001000000000000000F", "checked_at": "2026-11-24T10:00:00", "crc": true,'
        b'"stored_until": 1e10}]}',
    ],
)
def test_memory_that_cannot_be_used(wal: Wal, text: bytes) -> None:
    key = wal.archive.layout.wal_checked
    text = text.replace(b"%d", str(wal.archive.system_identifier).encode())
    wal.archive.store.put(key, text)
    found = wal.check()
    assert (found.read >= len(wal.segments), found.damaged) == (True, ())
    (warning,) = found.warnings
    assert warning.startswith(f'what was checked before is not known: "{key}" cannot be used: ')
    assert wal.check().warnings == ()


def test_memory_of_nothing(wal: Wal) -> None:
    wal.segments = wal.segments[:1]
    touch(wal, wal.segments[0], -5)
    assert wal.check().warnings == ()
    assert wal.archive.read_json(wal.archive.layout.wal_checked)["runs"] == []
    assert wal.check().warnings == ()


def test_memory_that_cannot_be_written(wal: Wal) -> None:
    """Somebody may only read the repository; the check is as good."""
    (wal.path(wal.segments[0]).parents[3] / "wal-checked.json").mkdir()
    found = wal.check()
    assert found.damaged == ()
    assert len(found.warnings) >= 1
    assert found.warnings[-1].startswith("what was checked is not remembered: ")
