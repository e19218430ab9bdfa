"""The start of a stream: where receiving goes on so that no byte is left out, or the hole is known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pgproof.errors import PermanentError, PgproofError, ServerUnreachable
from pgproof.postgres.replication import ReplicationConnection
from pgproof.postgres.streaming import Slot, create_slot, drop_slot, read_history, read_slot
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.wal.archive import end_of_path, list_wal
from pgproof.wal.receiving.delivery import Delivery, HistoryFile
from pgproof.wal.receiving.received import Piece
from pgproof.wal.runs import Numbers

_UNITS = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins.

    Args:
        first: the start of a segment, wanted.
        reserved: the start of the segment from which on the slot keeps WAL; not before ``first``.
        history: of the server's timeline.
        segment_size: bytes.
    """

    first: LSN
    reserved: LSN
    history: TimelineHistory
    segment_size: int


def prepare_slot(connection: ReplicationConnection, name: str) -> tuple[Slot, str]:
    """The slot, made where it is missing or keeps nothing, and what was done; empty when nothing was.

    A slot that fell behind by more than ``max_slot_wal_keep_size`` is invalidated: it keeps nothing ever again
    (``InvalidatePossiblyObsoleteSlot`` in slot.c), though a server before 18 still streams through it.

    Raises:
        ServerNotReady: no slot can be made (``max_replication_slots``).
        SlotInUse: it keeps nothing, and somebody streams from it.
    """
    slot, done = read_slot(connection, name), f'made replication slot "{name}"'
    if slot is not None and slot.restart_lsn is not None:
        return slot, ""
    if slot is not None:
        drop_slot(connection, name)
        done = f'made replication slot "{name}" anew: it kept no WAL, or had lost it'
    create_slot(connection, name)
    return read_slot(connection, name) or Slot(name, None, None), done


def segment_size_of(connection: ReplicationConnection) -> int:
    """The server's segment size in bytes (``SHOW wal_segment_size``, as pg_receivewal asks for it)."""
    text = connection.query("SHOW wal_segment_size")[0][0]
    match = re.fullmatch(r"(\d+)(kB|MB|GB)", text)
    if match is None:
        raise PermanentError(f'wal_segment_size "{text}" cannot be read')
    return int(match[1]) * _UNITS[match[2]]


def read_histories(
    connection: ReplicationConnection, timeline: int
) -> tuple[TimelineHistory, list[HistoryFile]]:
    """The history of the server's timeline, and the files of it and of its ancestors as far as the server has them."""
    if timeline == 1:
        return TimelineHistory(1), []
    name, content = read_history(connection, timeline)
    history = TimelineHistory.parse(timeline, content.decode(errors="replace"))
    files = []
    for ancestor in history.path:
        if 1 < ancestor < timeline:
            with contextlib.suppress(PermanentError):  # a restored server may never have had it
                files.append(HistoryFile(*read_history(connection, ancestor)))
    return history, [*files, HistoryFile(name, content)]


def find_start(
    history: TimelineHistory,
    size: int,
    flush_lsn: LSN,
    restart_lsn: LSN | None,
    known: LSN | None,
    *,
    going_on: bool = False,
) -> Start:
    """Where to begin: the slot's WAL, or before it where the archive lacks more.

    Args:
        history: of the server's timeline.
        size: of a segment, in bytes.
        flush_lsn: the end of the server's WAL.
        restart_lsn: from which on the slot keeps WAL; None when it does not yet.
        known: up to where we have everything; None when nothing is known.
        going_on: this run received it, so it is here even where the slot keeps older WAL for the repositories.
    """
    reserved = _floor(flush_lsn if restart_lsn is None else restart_lsn, size)
    first = reserved if known is None else _floor(known, size)
    if not going_on:
        first = min(first, reserved)
    return Start(first, reserved, history, size)


def check_not_behind(name: str, flush_lsn: LSN, received: LSN, size: int) -> None:
    """Refuse a server that has less than what was received: a standby that lags, or an older copy.

    Raises:
        ServerUnreachable: it may catch up, or be promoted.
    """
    if _floor(received, size) > flush_lsn:
        raise ServerUnreachable(
            f'could not receive from server "{name}" yet: it is behind',
            f"Its WAL ends at {flush_lsn}; received is WAL up to {received}.",
        )


def left_at(history: TimelineHistory, timeline: int) -> LSN | None:
    """Where a path left a timeline; None when it has not."""
    index = history.path.index(timeline)
    return min((fork.lsn for fork in history.forks[index:]), default=None)


def stored_end(
    deliveries: Sequence[Delivery], pieces: Sequence[Piece], history: TimelineHistory, size: int
) -> LSN | None:
    """Up to where the WAL of a path is in every repository that answers, or here; None when there is none.

    Raises:
        StoreUnavailable: no repository answers.
    """
    ends: list[LSN] = []
    failure: PgproofError | None = None
    for delivery in deliveries:
        try:
            listing = list_wal(delivery.archive(), size)
        except PgproofError as error:
            failure = error
            continue
        for timeline in {piece.segment.timeline for piece in pieces}:
            here = [p.segment.number for p in pieces if p.whole and p.segment.timeline == timeline]
            there = listing.numbers.get(timeline, Numbers()).intervals
            listing.numbers[timeline] = Numbers.of([*there, *((number, number) for number in here)])
        ends.append(end_of_path(listing, history))
    if not ends and failure is not None:
        raise failure
    return min((end for end in ends if end), default=None)


def _floor(lsn: int, size: int) -> LSN:
    return LSN(lsn - lsn % size)
