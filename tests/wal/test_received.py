"""What a receiver holds on its disk and stores as parts: nothing is cut off, and no crash loses a byte."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.errors import LeaseHeld, NoRoom, ObjectDamaged, StoreUnavailable, WalConflict
from pgproof.repository.repository import Archive
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.parts import list_parts, remove_parts, store_part, sweep_parts
from pgproof.wal.push import push
from pgproof.wal.receiving.delivery import Delivery, HistoryFile, Job, Position, agreed, store_history
from pgproof.wal.receiving.events import ReceiveEvent
from pgproof.wal.receiving.received import Piece, ReceivedWal
from pgproof.wal.receiving.start import Start, find_start
from tests.wal.files import MB, make_archive, segment_bytes

SEGMENT = WalSegment(1, 5, MB)


@pytest.fixture
def wal(tmp_path: Path) -> Iterator[ReceivedWal]:
    made = ReceivedWal(tmp_path / "receive", "shop")
    yield made
    made.close()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make_archive(tmp_path)


def received(wal: ReceivedWal, end: int, segment: WalSegment = SEGMENT, seed: str = "") -> Piece:
    """Receive the beginning of a segment."""
    wal.begin(segment)
    wal.write(0, segment_bytes(segment, seed=seed)[:end])
    wal.leave()
    return Piece(segment, end)


def parts(archive: Archive) -> list[tuple[str, int]]:
    return [(part.name, part.end) for part in list_parts(archive)]


class TestDisk:
    def test_a_beginning_then_the_whole(self, wal: ReceivedWal) -> None:
        whole = segment_bytes(SEGMENT)
        wal.begin(SEGMENT)
        assert wal.current == SEGMENT
        wal.write(0, whole[:10_000])
        wal.sync()
        (piece,) = wal.pieces()
        assert piece == Piece(SEGMENT, 10_000)
        assert b"".join(wal.content(piece)) == whole[:10_000].ljust(MB, b"\0")
        wal.write(10_000, whole[10_000:])
        assert wal.finish() == Piece(SEGMENT, MB)
        assert wal.current is None
        assert b"".join(wal.content(piece)) == whole[:10_000].ljust(MB, b"\0")  # asked for earlier
        assert [path.name for path in wal.directory.iterdir() if path.name != "lock"] == [SEGMENT.name]
        wal.remove(Piece(SEGMENT, MB))
        assert wal.pieces() == []

    def test_going_on_cuts_nothing_off(self, wal: ReceivedWal) -> None:
        piece = received(wal, 30_000)
        wal.begin(SEGMENT)
        wal.write(0, segment_bytes(SEGMENT)[:100])
        wal.leave()
        assert wal.pieces() == [piece]
        assert (wal.directory / f"{SEGMENT}.partial").read_bytes() == segment_bytes(SEGMENT)[:30_000]

    def test_zeros_at_the_end_are_no_wal(self, wal: ReceivedWal) -> None:
        """A crash of the machine may leave a file longer than what was written to it."""
        received(wal, 20_003)
        with open(wal.directory / f"{SEGMENT}.partial", "ab") as file:
            file.write(bytes(30_000))
        assert wal.pieces() == [Piece(SEGMENT, 20_008)]

    def test_what_is_no_wal_is_left_alone(self, wal: ReceivedWal) -> None:
        for name in ("notes.txt", "000000010000000000000009.partial", "00000002.history"):
            (wal.directory / name).write_bytes(b"")
        assert wal.pieces() == []
        assert len(list(wal.directory.iterdir())) == 4

    def test_one_receiver_a_directory(self, wal: ReceivedWal) -> None:
        with pytest.raises(LeaseHeld) as caught:
            ReceivedWal(wal.directory, "shop")
        assert str(caught.value) == (
            'another wal receive of cluster "shop" is at work on this host\n'
            f'DETAIL: It holds "{wal.directory}".\n'
            "HINT: one receiver at a time works in one state_directory"
        )

    def test_no_room(self, wal: ReceivedWal, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        wal.begin(SEGMENT)
        monkeypatch.setattr("os.pwrite", full)
        with pytest.raises(NoRoom) as caught:
            wal.write(0, b"x")
        assert str(caught.value) == (
            f'cannot write received WAL to "{wal.directory}"\nDETAIL: No space left on device.'
        )


class TestParts:
    def test_the_newer_part_replaces_the_older_one(self, wal: ReceivedWal, archive: Archive) -> None:
        other = received(wal, 9_000, SEGMENT.next())
        store_part(archive, wal, other)
        for end in (10_000, 20_000):
            piece = received(wal, end)
            assert store_part(archive, wal, piece) > 0
            remove_parts(archive, piece)
        assert parts(archive) == [(SEGMENT.name, 20_000), (SEGMENT.next().name, 9_000)]
        (part, _) = list_parts(archive)
        assert part.key == f"{archive.layout.received}00000001/{SEGMENT}.00004E20.zst"
        assert b"".join(archive.open(part.key)) == segment_bytes(SEGMENT)[:20_000].ljust(MB, b"\0")

    def test_died_after_the_write(self, wal: ReceivedWal, archive: Archive) -> None:
        for end in (10_000, 20_000):
            store_part(archive, wal, received(wal, end))
        assert [end for _, end in parts(archive)] == [10_000, 20_000]
        sweep_parts(archive)
        assert [end for _, end in parts(archive)] == [20_000]
        assert store_part(archive, wal, Piece(SEGMENT, 20_000)) == 0  # it is there, and the same

    def test_died_after_the_segment_was_archived(self, wal: ReceivedWal, archive: Archive) -> None:
        store_part(archive, wal, received(wal, 10_000))
        store_part(archive, wal, received(wal, 10_000, SEGMENT.on(2)))
        wal.begin(SEGMENT)
        wal.write(0, segment_bytes(SEGMENT))
        push(archive, wal.path(wal.finish()))
        sweep_parts(archive)
        assert parts(archive) == [(SEGMENT.on(2).name, 10_000)]

    def test_another_part_of_this_length(self, wal: ReceivedWal, archive: Archive) -> None:
        store_part(archive, wal, received(wal, 10_000))
        before = b"".join(archive.open(list_parts(archive)[0].key))
        wal.remove(Piece(SEGMENT, 10_000))
        with pytest.raises(WalConflict) as caught:
            store_part(archive, wal, received(wal, 10_000, seed="other"))
        assert caught.value.fact == (
            f'a received part of WAL segment "{SEGMENT}" is stored already and is not known to be the same'
        )
        assert b"".join(archive.open(list_parts(archive)[0].key)) == before


class TestDelivery:
    """A thread that stores in order, and never gives up."""

    def make(self, wal: ReceivedWal, archive: Archive, **options: Any) -> tuple[Delivery, list[ReceiveEvent]]:
        events: list[ReceiveEvent] = []
        opener = options.get("opener", lambda: archive)
        return Delivery("main", opener, wal, events.append), events

    def wait(self, delivery: Delivery, position: Position) -> None:
        deadline = threading.Event()
        for _ in range(200):
            if delivery.durable >= position or delivery.failure is not None:
                return
            deadline.wait(0.05)
        raise AssertionError(delivery.durable)

    def test_in_order_and_what_is_stored_is_said(self, wal: ReceivedWal, archive: Archive) -> None:
        piece = received(wal, 10_000)
        delivery, events = self.make(wal, archive)
        delivery.start()
        delivery.offer(Job(piece, Position(1, piece.end_lsn)))
        self.wait(delivery, Position(1, piece.end_lsn))
        wal.begin(SEGMENT)
        wal.write(0, segment_bytes(SEGMENT))
        whole = wal.finish()
        delivery.add(Job(whole, Position(1, whole.end_lsn)))
        self.wait(delivery, Position(1, whole.end_lsn))
        delivery.end()
        assert parts(archive) == []
        assert [event.kind for event in events] == ["part", "segment"]
        assert events[0].text == f'{SEGMENT} up to {piece.end_lsn} stored in repository "main"'
        assert events[1].text == f'{SEGMENT} stored in repository "main"'

    def test_a_store_that_is_away_is_tried_again(self, wal: ReceivedWal, archive: Archive) -> None:
        failures = [StoreUnavailable("could not reach the store")] * 2

        def opener() -> Archive:
            if failures:
                raise failures.pop()
            return archive

        piece = received(wal, 10_000)
        delivery, events = self.make(wal, archive, opener=opener)
        delivery.start()
        delivery.add(Job(piece, Position(1, piece.end_lsn)))
        self.wait(delivery, Position(1, piece.end_lsn))
        delivery.end()
        assert [event.text for event in events if event.kind in ("trouble", "recovered")] == [
            'repository "main" does not store now: could not reach the store',
            'repository "main" stores again',
        ]
        assert parts(archive) == [(SEGMENT.name, 10_000)]

    def test_other_content_under_the_name_ends_it(self, wal: ReceivedWal, archive: Archive) -> None:
        wal.begin(SEGMENT)
        wal.write(0, segment_bytes(SEGMENT))
        whole = wal.finish()
        push(archive, wal.path(whole))
        (wal.directory / SEGMENT.name).write_bytes(segment_bytes(SEGMENT, seed="another server"))
        delivery, _ = self.make(wal, archive)
        delivery.start()
        delivery.add(Job(whole, Position(1, whole.end_lsn)))
        delivery.join(10)
        assert isinstance(delivery.failure, WalConflict)
        assert delivery.durable == Position()

    def test_how_many_must_have_it(self, wal: ReceivedWal, archive: Archive) -> None:
        made = [self.make(wal, archive)[0] for _ in range(3)]
        for delivery, lsn in zip(made, (100, 300, 200), strict=True):
            delivery.durable = Position(1, LSN(lsn))
        assert [agreed(made, quorum).lsn for quorum in (0, 1, 2, 3)] == [100, 300, 200, 100]

    def test_a_history_is_never_replaced(self, archive: Archive) -> None:
        file = HistoryFile("00000002.history", b"1\t0/5000000\tno recovery target specified\n")
        store_history(archive, file)
        store_history(archive, file)
        with pytest.raises(WalConflict) as caught:
            store_history(archive, HistoryFile(file.name, b"1\t0/6000000\tno recovery target specified\n"))
        fact, detail, hint = str(caught.value).split("\n")
        assert fact == 'WAL file "00000002.history" is archived already with other content'
        assert detail.endswith(
            ". Two servers of the same origin archive to one place, or a restored copy does."
        )
        assert hint == "HINT: find the other server and set its archive_mode to off; nothing was overwritten"


class TestStart:
    """Where receiving begins: the slot, or before it where the archive lacks more."""

    HISTORY = TimelineHistory(2, (Fork(1, LSN(5 * MB + 100)),))

    @pytest.mark.parametrize(
        ("restart", "known", "going_on", "first", "reserved"),
        [
            (7 * MB + 5, None, False, 7, 7),  # nothing is archived
            (7 * MB + 5, 9 * MB, False, 7, 7),  # the archive is ahead: what it has is compared again
            (7 * MB + 5, 4 * MB, False, 4, 7),  # the archive is behind: the server may still have it
            (None, 4 * MB, False, 4, 9),  # the slot keeps nothing
            (7 * MB, 8 * MB + 1, True, 8, 7),  # this run has received more than is stored
            (9 * MB, 5 * MB + 100, True, 5, 9),  # after a failover: back to the segment of the fork
        ],
    )
    def test_first(
        self, restart: int | None, known: int | None, going_on: bool, first: int, reserved: int
    ) -> None:
        found = find_start(
            self.HISTORY,
            MB,
            LSN(9 * MB + 77),
            None if restart is None else LSN(restart),
            None if known is None else LSN(known),
            going_on=going_on,
        )
        assert found == Start(LSN(first * MB), LSN(reserved * MB), self.HISTORY, MB)


def test_a_whole_segment_that_is_no_segment_is_never_pushed(wal: ReceivedWal, archive: Archive) -> None:
    wal.begin(SEGMENT)
    wal.write(0, segment_bytes(SEGMENT.next()))
    with pytest.raises(ObjectDamaged):
        push(archive, wal.path(wal.finish()))
