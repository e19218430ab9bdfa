"""A rotten source: single bits of its data files are flipped while it is stopped, before a backup is taken.

Each kind of page has a relation of its own, so that several flips share a backup and each has its own finding.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.servers.background import end_background
from tests.servers.postgres import Source, running_source

SEED = 20261124
PAGE = 8192
Place = Callable[[bytes, random.Random], int]

# what is made for a flip of a kind, by the relation's name
PLAIN = """
CREATE TABLE {name} (id int, note text);
INSERT INTO {name} SELECT g, 'note ' || g FROM generate_series(1, 2000) g;
"""
MADE = {
    "heap": PLAIN,
    "indexed": PLAIN + "CREATE INDEX {name}_index ON {name} (note);",
    "toast": """
CREATE TABLE {name} (id int, wide text);
ALTER TABLE {name} ALTER wide SET STORAGE EXTERNAL;
INSERT INTO {name} SELECT g, (SELECT string_agg(md5((g * 1000 + n)::text), '') FROM generate_series(1, 200) n)
FROM generate_series(1, 10) g;
""",
    "btree": PLAIN + "CREATE INDEX {name}_index ON {name} (id);",
    "hash": PLAIN + "CREATE INDEX {name}_index ON {name} USING hash (id);",
    "gin": PLAIN + "CREATE INDEX {name}_index ON {name} USING gin ((ARRAY[id, id % 10]));",
    "gist": PLAIN + "CREATE INDEX {name}_index ON {name} USING gist (point(id, id));",
    "spgist": PLAIN + "CREATE INDEX {name}_index ON {name} USING spgist (point(id, id));",
    "brin": PLAIN + "CREATE INDEX {name}_index ON {name} USING brin (id) WITH (pages_per_range = 1);",
    "sequence": "CREATE SEQUENCE {name}; SELECT setval('{name}', 1000);",
    "late": "CREATE TABLE {name} (id int, note text);",
    "": "SELECT",
}


@dataclass(frozen=True)
class Kind:
    """A kind of page or file.

    Args:
        relation: of MADE; empty for a file that is no relation's.
        path: SQL that gives the file, with ``{name}``; or the file.
        place: chooses an offset in the file.
        bits: that may be flipped there.
    """

    relation: str
    path: str
    place: Place
    bits: tuple[int, ...] = tuple(range(8))


@dataclass(frozen=True)
class Flip:
    """One bit of one file of the source; ``relation`` is empty for a file that is no relation's."""

    kind: str
    relation: str
    file: str
    at: int
    bit: int

    @property
    def block(self) -> int:
        return self.at // PAGE


# ---- where


def number(page: bytes, at: int) -> int:
    return int.from_bytes(page[at : at + 2], "little")


def lines(page: bytes) -> list[tuple[int, int]]:
    """Offset and length of every row or entry of a page (ItemIdData with LP_NORMAL)."""
    words = [int.from_bytes(page[at : at + 4], "little") for at in range(24, number(page, 12), 4)]
    return [(word & 0x7FFF, word >> 17) for word in words if word >> 15 & 3 == 1]


def in_page(choose: Callable[[bytes, random.Random], int], first: int = 0) -> Place:
    """A place in a random page, from a block on."""

    def place(content: bytes, chance: random.Random) -> int:
        start = chance.randrange(first, len(content) // PAGE) * PAGE
        return start + choose(content[start : start + PAGE], chance)

    return place


def in_item(choose: Callable[[bytes, int, int, random.Random], int]) -> Place:
    """A place in a random row of a random page."""

    def place(page: bytes, chance: random.Random) -> int:
        at, length = chance.choice(lines(page))
        return choose(page, at, length, chance)

    return in_page(place)


def in_btree(internal: bool) -> Place:
    """A place in an entry of a random page, by its level (BTPageOpaqueData)."""

    def place(content: bytes, chance: random.Random) -> int:
        starts = range(PAGE, len(content), PAGE)
        levels = {at: int.from_bytes(content[at + PAGE - 8 : at + PAGE - 4], "little") for at in starts}
        start = chance.choice([at for at, level in levels.items() if (level > 0) == internal])
        at, length = chance.choice(lines(content[start : start + PAGE]))
        return start + at + chance.randrange(min(length, 12))  # what follows an integer is padding

    return place


def within(first: int, end: int) -> Place:
    return lambda content, chance: chance.randrange(first, end)


def in_used(content: bytes, chance: random.Random) -> int:
    return chance.choice([at for at in range(24, len(content)) if content[at]])


def anywhere(content: bytes, chance: random.Random) -> int:
    return chance.randrange(len(content))


HEADER = in_page(lambda page, chance: chance.randrange(10, 20))
LSN = in_page(lambda page, chance: 2)  # a high byte: the page seems to be newer than the backup
LINE = in_page(lambda page, chance: chance.randrange(24, number(page, 12)))
HOLE = in_page(lambda page, chance: chance.randrange(number(page, 12), number(page, 14)))
ROW_HEADER = in_item(lambda page, at, length, chance: at + chance.randrange(23))
VALUE = in_item(lambda page, at, length, chance: at + length - 1 - chance.randrange(3))  # the end of a text
LENGTH = in_item(lambda page, at, length, chance: at + page[at + 22] + 4)  # of a text, after an integer
LAST_VALUE = in_item(lambda page, at, length, chance: at + page[at + 22] + 1)

FILE = "SELECT pg_relation_filepath('{name}')"
INDEX = "SELECT pg_relation_filepath('{name}_index')"
TOAST = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = '{name}'"
MAP = "SELECT 'base/' || oid || '/pg_filenode.map' FROM pg_database WHERE datname = 'postgres' AND '{name}' <> ''"
KINDS: dict[str, Kind] = {
    "page header": Kind("heap", FILE, HEADER),
    "page LSN": Kind("heap", FILE, LSN),
    "line pointer": Kind("heap", FILE, LINE),
    "row header": Kind("heap", FILE, ROW_HEADER),
    "value in no index": Kind("heap", FILE, VALUE, (0, 1, 2, 3)),
    "value in an index": Kind("indexed", FILE, VALUE, (0, 1, 2, 3)),
    "length of a value": Kind("heap", FILE, LENGTH),
    "free space of a page": Kind("heap", FILE, HOLE),
    "TOAST": Kind("toast", TOAST, VALUE, (0, 1, 2, 3)),
    "b-tree leaf": Kind("btree", INDEX, in_btree(False)),
    "b-tree internal page": Kind("btree", INDEX, in_btree(True)),
    "b-tree meta page": Kind("btree", INDEX, within(24, 40)),
    "hash index": Kind("hash", INDEX, in_used),
    "GIN index": Kind("gin", INDEX, in_used),
    "GiST index": Kind("gist", INDEX, in_used),
    "SP-GiST index": Kind("spgist", INDEX, in_used),
    "BRIN index": Kind("brin", INDEX, in_used),
    "sequence": Kind("sequence", FILE, LAST_VALUE),
    # of block 0, which holds a deleted row
    "visibility map": Kind("heap", FILE + " || '_vm'", within(24, 25), (0,)),
    "free space map": Kind("heap", FILE + " || '_fsm'", anywhere),
    "pg_xact": Kind("late", "pg_xact/0000", anywhere),
    "pg_multixact offsets": Kind("late", "pg_multixact/offsets/0000", anywhere, (2, 3, 4)),
    "pg_multixact members": Kind("late", "pg_multixact/members/0000", anywhere, (3, 4, 5, 6)),
    "catalog page": Kind("", "SELECT pg_relation_filepath('pg_proc') WHERE '{name}' <> ''", VALUE),
    "pg_control": Kind("", "global/pg_control", within(0, 288)),
    "relation map": Kind("", MAP, within(0, 512)),
}


# ---- a source, clean


@dataclass
class Rotting:
    """A source that is stopped, with a backup in its repository, and a copy of both from before every flip."""

    source: Source
    flips: list[Flip]

    def keep(self) -> None:
        for name in ("data", "repository"):
            shutil.copytree(self.source.root / name, self.source.root / f"clean-{name}", symlinks=True)

    def rot(self, *flips: Flip) -> None:
        """Begin again with the clean copy, and flip these bits of it; the server stays stopped."""
        source = self.source
        source.server.stop("immediate")
        end_background(source.root)
        for name in ("data", "repository"):
            shutil.rmtree(source.root / name, ignore_errors=True)
            shutil.copytree(source.root / f"clean-{name}", source.root / name, symlinks=True)
        shutil.rmtree(source.spool, ignore_errors=True)
        source.server.log.write_bytes(b"")
        for flip in flips:
            path = source.data / flip.file
            content = bytearray(path.read_bytes())
            content[flip.at] ^= 1 << flip.bit
            path.write_bytes(content)

    def of(self, kind: str) -> list[Flip]:
        return [flip for flip in self.flips if flip.kind == kind]


@contextlib.contextmanager
def rotting_source(
    major: int, checksums: bool, counts: Mapping[str, int], seed: object = SEED
) -> Iterator[Rotting]:
    """A source with a relation for each flip; all of them chosen, none made.

    Args:
        major: version of PostgreSQL.
        checksums: whether the cluster has data checksums.
        counts: how many flips of each kind.
        seed: of the choice.
    """
    options = ("--data-checksums",) if checksums else ("--no-data-checksums",) if major >= 18 else ()
    with running_source(major, options=options, autovacuum="off") as source:
        chance = random.Random(f"{seed}")
        names = [(kind, f"{_plain(kind)}_{n}") for kind, count in counts.items() for n in range(count)]
        for kind, name in names:
            source.sql(MADE[KINDS[kind].relation].format(name=name))
        source.sql("VACUUM FREEZE")
        places = {name: _write_late(source, kind, name) for kind, name in names}
        source.sql("CHECKPOINT")
        source.backup()
        source.sql("SELECT pg_sleep(1.1)")  # labels are of whole seconds
        files = [_file(source, kind, name) for kind, name in names]
        source.server.stop("fast")
        flips = []
        for (kind, name), file in zip(names, files, strict=True):
            at, bits = places[name] or (
                KINDS[kind].place((source.data / file).read_bytes(), chance),
                KINDS[kind].bits,
            )
            relation = name if KINDS[kind].relation else ""
            flips.append(Flip(kind, relation, file, at, chance.choice(bits)))
        rotting = Rotting(source, flips)
        rotting.keep()
        yield rotting


def _plain(kind: str) -> str:
    return kind.lower().replace(" ", "_").replace("-", "")


def _file(source: Source, kind: str, name: str) -> str:
    path = KINDS[kind].path
    return str(source.sql(path.format(name=name))[0][0]) if path.startswith("SELECT") else path


def _write_late(source: Source, kind: str, name: str) -> tuple[int, tuple[int, ...]] | None:
    """What is written after the VACUUM; where the outcome of its transaction is kept, in no hint bit yet."""
    if kind == "visibility map":
        source.sql(f"DELETE FROM {name} WHERE id = 1")
    if KINDS[kind].relation != "late":
        return None
    with source.connect() as first, source.connect() as second:
        first.execute("BEGIN")
        first.execute(f"INSERT INTO {name} SELECT g, 'note ' || g FROM generate_series(1, 2000) g".encode())
        row: Any = first.execute("SELECT pg_current_xact_id()::text::int").fetchone()
        first.execute("COMMIT")
        if kind == "pg_xact":  # two bits a transaction: 01 is committed (clog.h)
            return row[0] // 4, (row[0] % 4 * 2, row[0] % 4 * 2 + 1)
        first.execute("BEGIN")
        first.execute(f"SELECT FROM {name} WHERE id = 1 FOR KEY SHARE".encode())
        second.execute(f"UPDATE {name} SET note = 'updated' WHERE id = 1".encode())
        first.execute("COMMIT")
    source.sql("CHECKPOINT")
    query = "SELECT next_multixact_id::text::int, next_multi_offset::text::int FROM pg_control_checkpoint()"
    multi, member = source.sql(query)[0]
    if kind == "pg_multixact offsets":
        return 4 * (multi - 2), KINDS[kind].bits  # the last one is that of the row's new version
    # four flags, then four members (MXOffsetToMemberOffset); the second is the one that updated
    return (member - 3) // 4 * 20 + 4 + 4 * ((member - 3) % 4), KINDS[kind].bits
