"""CREATE TABLESPACE at places of real WAL that a test can choose, such as the border of two segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.beside import FilesBeside
from pgproof.wal.pages import LONG, SHORT
from pgproof.wal.tablespaces import TablespaceRecord, tablespace_records
from tests.servers.place import give_to_server
from tests.servers.postgres import Source

SIZE, PAGE = 1 << 20, 8192
BODY = SIZE - LONG - (SIZE // PAGE - 1) * SHORT
LARGE = 800_000  # bytes of a message


@dataclass(frozen=True)
class Made:
    """A tablespace whose record crosses a border, in segments of a directory."""

    directory: Path
    record: TablespaceRecord

    @property
    def segment(self) -> WalSegment:
        return WalSegment.containing(1, self.record.lsn, SIZE)


class Maker:
    """Makes tablespaces at places of WAL that one can choose."""

    def __init__(self, source: Source) -> None:
        self.source, self.count = source, 0
        self.distance: dict[int, int] = {}
        self.create("")  # its pages are in the WAL whole
        source.sql("SELECT pg_switch_wal()")

    def create(self, long: str) -> int:
        """Make a tablespace; how many bytes of WAL lie before its record."""
        self.count += 1
        place = self.source.root / f"space-{self.count:04}{long}"
        place.mkdir()
        give_to_server(place)
        before = self.insert()
        self.source.sql(f"CREATE TABLESPACE s{self.count:04} LOCATION '{place}'")
        self.path = str(place)
        return before

    def insert(self) -> int:
        """How many bytes of all segments' bodies come before the insert position."""
        lsn = LSN.parse(self.source.sql("SELECT pg_current_wal_insert_lsn()")[0][0])
        return body_of(lsn)

    def pad(self, goal: int) -> None:
        """Write so much WAL that the next record starts there, when nobody else writes."""
        while (left := goal - self.insert()) > 0:
            if left > LARGE:
                size = LARGE // 2
            elif 281 < left < 400:
                size = 64
            else:
                size = left - (52 if left <= 281 else 55)  # with one byte or four for its length
            self.source.sql("SELECT pg_logical_emit_message(false, 'p', repeat('x', %s))", max(size, 0))

    def at(self, cut: int, *, border: int, long: str = "") -> Made:
        """A tablespace of whose record this many bytes lie before a border: a multiple of a segment or a page."""
        distance = self.distance.get(len(long), 200)
        for _ in range(60):
            segment, within = divmod(self.insert() + 500 + distance + cut, BODY)
            goal = segment * BODY + next(place for place in borders(border) if place >= within)
            self.pad(goal - cut - distance)
            before = self.create(long)
            self.source.sql("SELECT pg_logical_emit_message(false, 'p', 'after it')")
            made = self.made()
            found = body_of(made.record.lsn)
            if goal - found == cut:
                self.source.sql("SELECT pg_switch_wal()")
                return self.made()
            distance = self.distance[len(long)] = found - before
        raise AssertionError(f"no record has {cut} bytes before a border of {border}")

    def made(self) -> Made:
        wal = self.source.data / "pg_wal"
        for path in sorted(wal.glob("????????????????????????"), reverse=True):
            segment = WalSegment.parse(path.name, SIZE)
            for record in tablespace_records(path.read_bytes(), FilesBeside(wal, segment)):
                if record.path == self.path:
                    return Made(wal, record)
        raise AssertionError(f"the record of {self.path} was not found")


def body_of(lsn: int) -> int:
    segment, offset = divmod(lsn, SIZE)
    page, within = divmod(offset, PAGE)
    if page == 0:
        return segment * BODY + max(0, within - LONG)
    return segment * BODY + PAGE - LONG + (page - 1) * (PAGE - SHORT) + max(0, within - SHORT)


def borders(every: int) -> list[int]:
    """The borders within a segment's body, as positions: its end, or the end of each page."""
    if every == SIZE:
        return [BODY]
    return [PAGE - LONG + page * (PAGE - SHORT) for page in range(SIZE // PAGE)]
