"""Bits that rot in the source's own data files, before a backup is taken: who names each, and what nobody sees.

A backup has valid checksums of such a page, and source and copy agree on it. So the table of what is seen is stated
here (and in docs/what-a-drill-cannot-see.md), and every flip must end in it: stopped by the backup, named by the
drill of that backup, named by the drill of an older one, or seen by nobody, where its rows must be as they were.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pytest

from pgproof.errors import RecoveryFailed
from tests.drills.damage import answer
from tests.drills.rotten import KINDS, Flip, Rotting, rotting_source
from tests.servers.postgres import installed

pytestmark = pytest.mark.usefixtures("without_expectations")

BACKUP = "the backup"  # fails, with file, block and relation
DRILL = "the drill"  # of that backup: a check or a comparison names the relation
OLDER = "a drill of an older backup"  # compares the damaged source with a copy from before
STARTS = "the server"  # does not start, or lets nobody in, or cannot read its catalogs, and says so
CRASH = "a crash"  # of the source, in the session that reads the table
NOBODY = "nobody"

# Who may see a flip of each kind, where the source has no data checksums: it depends on the bit
DEPENDS = {DRILL, OLDER, NOBODY, CRASH}
WITHOUT: dict[str, set[str]] = {
    "page header": DEPENDS,
    "page LSN": {NOBODY},
    "line pointer": DEPENDS,
    "row header": DEPENDS,
    "value in no index": {OLDER},
    "value in an index": {DRILL},
    "length of a value": {DRILL, OLDER, CRASH},
    "free space of a page": {NOBODY},
    "TOAST": {OLDER},
    "b-tree leaf": {
        DRILL,
        NOBODY,
    },  # some bits of an entry mean nothing (nbtree.h), such as the block of a high key
    "b-tree internal page": {DRILL, NOBODY},
    "b-tree meta page": {DRILL},
    # nobody, where the index answers for every row as before: page LSNs, flags and bytes that mean nothing
    "hash index": {DRILL, NOBODY},
    "GIN index": {DRILL, NOBODY},
    "GiST index": {DRILL, NOBODY},
    "SP-GiST index": {DRILL, NOBODY},
    "BRIN index": {DRILL, NOBODY},
    "sequence": {OLDER},
    "visibility map": {DRILL},
    "free space map": {NOBODY},
    "pg_xact": {OLDER},
    "pg_multixact offsets": {DRILL, OLDER, NOBODY},
    "pg_multixact members": {DRILL, OLDER, NOBODY},
    "catalog page": {OLDER},
    "pg_control": {STARTS},
    "relation map": {STARTS},
}
# with them: all but these, which have none, and pages that seem to be newer than the backup (verify_page_checksum)
NO_PAGES = ("pg_xact", "pg_multixact offsets", "pg_multixact members", "pg_control", "relation map")
WITH = {kind: WITHOUT[kind] if kind in NO_PAGES else {BACKUP} for kind in KINDS}
WITH |= {"page LSN": {DRILL}, "catalog page": {BACKUP, STARTS}}


def allowed(flip: Flip, major: int, checksums: bool) -> set[str]:
    if checksums:
        return WITH[flip.kind]
    return WITHOUT[flip.kind]


def seen_by(rotting: Rotting, flips: Sequence[Flip]) -> dict[Flip, str]:
    """Who sees each of some flips that are made together; after a crash the halves are tried apart."""
    source = rotting.source
    rotting.rot(*flips)
    source.server.start()
    try:
        source.server.wait_ready(5)
    except RecoveryFailed:
        return dict.fromkeys(flips, STARTS)
    code, _, err = answer(source, "backup", "main", "--json")
    if code == 40:
        named = [flip for flip in flips if f'"./{flip.file}"' in err and f"block {flip.block}:" in err]
        rest = [flip for flip in flips if flip not in named]
        return dict.fromkeys(named, BACKUP) | (seen_by(rotting, rest) if rest and named else {})
    if "cannot read what it stores" in err:
        assert len(flips) == 1
        return dict.fromkeys(flips, STARTS)
    assert code == 0, err
    found: dict[Flip, str] = {}
    for who, option in ((DRILL, ()), (OLDER, ("--oldest",))):
        code, out, err = answer(source, "drill", "main", "--json", *option)
        if code not in (0, 1) or err:
            assert code == 76, (code, err)
            if len(flips) == 1:
                return dict.fromkeys(flips, CRASH)
            half = len(flips) // 2
            return seen_by(rotting, flips[:half]) | seen_by(rotting, flips[half:])
        named = [flip for flip in flips if flip not in found and names(out, flip)]
        found |= dict.fromkeys(named, who)
        assert code == (1 if any(names(out, flip) for flip in flips) else 0), out
    return dict.fromkeys(flips, NOBODY) | found


def names(out: str, flip: Flip) -> bool:
    """Whether a proof names the relation of a flip."""
    proof = json.loads(out)
    texts = [proof["summary"]]
    texts += [finding for check in proof["checks"] for finding in check["findings"]]
    texts += [table["table"] for table in proof["tables"] if not table["equal"]]
    texts += [str(kind["differences"]) for kind in proof["objects"] if kind["different"]]
    texts += [item["what"] for item in proof["not_checked"] if item["reason"].startswith("damaged: ")]
    relation = re.compile(rf"\b{flip.relation or 'pg_proc'}(_index)?\b")
    return any(relation.search(text) for text in texts)


def groups(flips: Iterable[Flip]) -> Iterator[list[Flip]]:
    """What is flipped together: one of each kind that has a relation; the others alone, as they stop everything."""
    alike = Counter[str]()
    together: dict[int, list[Flip]] = {}
    for flip in flips:
        if flip.relation:
            together.setdefault(alike[flip.kind], []).append(flip)
            alike[flip.kind] += 1
        else:
            yield [flip]
    yield from together.values()


def flip_all(major: int, checksums: bool, each: int) -> None:
    if reason := installed(major):
        pytest.skip(reason)
    with rotting_source(major, checksums, dict.fromkeys(KINDS, each)) as rotting:
        rotting.source.write_config(cluster="drill.targets = 0")
        seen: dict[Flip, str] = {}
        for group in groups(rotting.flips):
            seen |= seen_by(rotting, group)
        assert len(seen) == each * len(KINDS)
        unexpected = {flip: who for flip, who in seen.items() if who not in allowed(flip, major, checksums)}
        assert unexpected == {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("major", "checksums"), [(17, False), (18, True)], ids=["without", "with checksums"])
def test_one_flip_of_each_kind(major: int, checksums: bool) -> None:
    flip_all(major, checksums, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("major", [15, 17, 18])
@pytest.mark.parametrize("checksums", [False, True], ids=["without", "with checksums"])
def test_fifty_flips(major: int, checksums: bool) -> None:
    flip_all(major, checksums, 2)
