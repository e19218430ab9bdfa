"""A kept repository with an object of every kind, whose bits are flipped one after the other."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyrage

from pgproof.backups.record import BackupRecord
from pgproof.repository.layout import ROOT_KEY
from pgproof.repository.repository import Archive
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source

SEED = 20261124  # of every flip: the same objects, places and bits for the same sizes
SEGMENT = 1 << 20


@dataclass
class Kept:
    """A source whose repository holds everything that a repository can hold.

    Args:
        source: on timeline 2, and at rest.
        full: the backup of timeline 1.
        incremental: on timeline 2, of the full one before it.
        segment: that is archived, in the middle.
    """

    source: Source
    full: BackupRecord
    incremental: BackupRecord
    segment: str

    @property
    def archive(self) -> Archive:
        return self.source.archive

    def objects(self) -> dict[str, list[str]]:
        """The keys of each kind of object."""
        layout, records = self.archive.layout, (self.full, self.incremental)
        volumes = {v.object.key: v.tablespace for record in records for v in record.volumes}
        keys = [info.key for info in self.archive.store.list("")]
        below = {
            "WAL segment": f"{layout.wal}{self.segment[:8]}/{self.segment[8:16]}/",
            "history file": f"{layout.wal}00000002/00000002.history",
            "received part": layout.received,
            "fence objects": f"{layout.fences}",
            "fence": layout.fences,
            "hold": layout.holds,
            "checked WAL": layout.wal_checked,
        }
        found = {
            kind: [key for key in keys if key.startswith(prefix) and ".backup" not in key]
            for kind, prefix in below.items()
        }
        found["fence objects"] = [key for key in found["fence objects"] if "-objects" in key]
        found["fence"] = [key for key in found["fence"] if "-objects" not in key]
        proofs = [key for key in keys if key.startswith(layout.proofs)]
        return {
            **found,
            "volume": [key for key, tablespace in volumes.items() if tablespace is None],
            "tablespace volume": [key for key, tablespace in volumes.items() if tablespace],
            "manifest": [record.manifest.key for record in records],
            "backup record": [layout.backup_record(record.label) for record in records],
            "proof": [key for key in proofs if key.endswith(".json")],
            "data frame": [key for key in proofs if key.endswith(".parquet")],
            "great expectations": [key for key in proofs if "great_expectations" in key],
            "root": [ROOT_KEY],
        }

    def path(self, key: str) -> Path:
        return self.source.repository_path / key

    def content(self, key: str) -> bytes:
        return b"".join(self.archive.open(key))


@dataclass(frozen=True)
class Flip:
    """One bit of one object."""

    kind: str
    key: str
    at: int
    bit: int


def choose(kept: Kept, kind: str, count: int) -> list[Flip]:
    """Random flips of a kind, spread over its objects."""
    chance = random.Random(f"{SEED} {kind}")
    keys = kept.objects()[kind]
    assert keys, f"the repository has no {kind}"
    flips = []
    for number in range(count):
        key = keys[number % len(keys)]
        at = chance.randrange(kept.path(key).stat().st_size)
        flips.append(Flip(kind, key, at, chance.randrange(8)))
    return flips


def bit_flipped(sound: bytes, flip: Flip) -> bytes:
    content = bytearray(sound)
    content[flip.at] ^= 1 << flip.bit
    return bytes(content)


@contextlib.contextmanager
def flipped(kept: Kept, flip: Flip) -> Iterator[None]:
    """The repository with one bit flipped, for the time of a block."""
    path = kept.path(flip.key)
    sound = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bit_flipped(sound, flip))
    try:
        yield
    finally:
        path.write_bytes(sound)


@contextlib.contextmanager
def kept_repository(encrypted: bool) -> Iterator[Kept]:
    """Make one: two timelines, a tablespace, full and incremental backups, a drill, a hold, a received part."""
    with running_source(17, summarize_wal="on") as source:
        if encrypted:
            identity = pyrage.x25519.Identity.generate()
            (source.root / "key.txt").write_text(f"{identity}\n")
            recipients = f'age_recipients = ["{identity.to_public()}"]'
            source.write_config(store=f'{recipients}\nage_identity = "file:{source.root}/key.txt"')
        (source.root / "space").mkdir()
        source.sql(f"CREATE TABLESPACE fast LOCATION '{source.root}/space'")
        source.sql(
            "CREATE TABLE orders AS SELECT g AS id, 'order-' || g AS note FROM generate_series(1, 3000) g"
        )
        source.sql("CREATE TABLE lines TABLESPACE fast AS SELECT g FROM generate_series(1, 3000) g")
        full = source.backup()
        fork(source)
        source.sql("SELECT pg_sleep(1.1)")  # labels are of whole seconds
        source.backup()
        source.sql("SELECT pg_sleep(1.1)")
        source.sql("UPDATE orders SET note = note || '!' WHERE id % 100 = 0")
        incremental = source.backup(incremental=True)
        segment = source.archive_now()
        code, out, err = answer(source, "drill", "main")
        assert (code, err) == (0, ""), out
        kept = Kept(source, full, incremental, segment)
        store_beside(kept)
        yield kept


def fork(source: Source) -> None:
    """Go on along timeline 2, as after a failover."""
    with source.away():
        (source.data / "standby.signal").touch()
    assert source.sql("SELECT pg_promote()") == [(True,)]
    source.archive_now()


def store_beside(kept: Kept) -> None:
    """What the chain above does not make: a hold, a received part, checked WAL."""
    source, archive = kept.source, kept.archive
    assert answer(source, "hold", "main", kept.full.label, "--reason", "audit of 2026")[0] == 0
    ((name, length),) = source.sql("SELECT * FROM pg_walfile_name_offset(pg_current_wal_flush_lsn())")
    wal = (source.data / "pg_wal" / name).read_bytes()[:length].ljust(SEGMENT, b"\0")
    archive.write(archive.layout.received_part(name, length), [wal])
    code, out, err = answer(source, "wal", "check", "main", "--content")
    assert (code, err) == (0, ""), out
