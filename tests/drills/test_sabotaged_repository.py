"""The repository is sabotaged with what looks sound by itself: an older segment, another cluster's, another backup's.

Every byte decodes and every object is where it belongs; only its content is not what its name says. The command whose
job it is names the object, and the drill records what it found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.repository.codec import Codec
from pgproof.repository.repository import Archive
from pgproof.validation.expectations import suites
from pgproof.validation.proof import read_proof
from pgproof.wal.archive import find_key
from tests.drills.damage import answer
from tests.drills.kept import fork
from tests.servers.postgres import Source, running_source

HINT = "this backup cannot be restored whole; choose another with pgproof list"


@dataclass
class Shop:
    """A source on timeline 2 with two backups of it, and what may be put in the place of its objects.

    Args:
        older, newer: the backups.
        last: the last archived segment, which every drill recovers through.
        other_future: the segment of the same number that timeline 1 wrote after the fork.
        stranger: another cluster's repository, and its backup.
    """

    source: Source
    older: BackupRecord
    newer: BackupRecord
    last: str
    other_future: bytes
    stranger: tuple[Archive, BackupRecord, bytes]

    def content(self, name: str) -> bytes:
        archive = self.source.archive
        return b"".join(archive.open(find_key(archive, name)))

    def store(self, name: str, content: bytes) -> None:
        """Put other content under a segment's name, well compressed."""
        path = self.source.stored(name)
        path.chmod(0o600)
        path.write_bytes(b"".join(Codec().encode([content])))

    def before(self, name: str) -> str:
        return f"{name[:16]}{int(name[16:], 16) - 1:08X}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_source(17) as source, running_source(17) as other:
        for made in (source, other):
            made.sql(
                "CREATE TABLE orders AS SELECT g AS id, md5(g::text) AS note FROM generate_series(1, 9000) g"
            )
        source.backup()
        source.server.stop("fast")
        twin = tmp_path_factory.mktemp("twin") / "data"
        shutil.copytree(source.data, twin)
        twin.chmod(0o700)
        fork(source)
        older = source.backup()
        source.sql("UPDATE orders SET note = note || 'x'")
        source.sql("SELECT pg_sleep(1.1)")  # labels have whole seconds
        newer = source.backup()
        source.sql("INSERT INTO orders SELECT g, 'late' FROM generate_series(1, 3000) g")
        last = source.archive_now()
        future = write_other_future(source, twin, last)
        record = other.backup()
        while (theirs := other.archive_now())[8:] < last[8:]:
            pass
        foreign = b"".join(other.archive.open(find_key(other.archive, f"{theirs[:8]}{last[8:]}")))
        yield Shop(source, older, newer, last, future, (other.archive, record, foreign))


def write_other_future(source: Source, twin: Path, last: str) -> bytes:
    """What timeline 1 wrote up to a segment number when nobody told it of the fork."""
    copy = source.start_copy(twin, name="twin", archive_mode="off")
    copy.wait_ready()
    try:
        import psycopg

        with psycopg.connect(f"{copy.dsn} user=postgres dbname=postgres", autocommit=True) as connection:
            name = ""
            while name[8:] <= last[8:]:
                connection.execute("INSERT INTO orders SELECT g, 'lost' FROM generate_series(1, 50) g")
                row: Any = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
                name = row[0]
        return (twin / "pg_wal" / f"00000001{last[8:]}").read_bytes()
    finally:
        copy.stop("immediate")


@pytest.fixture
def shop(shared: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The shop, whose objects are put back as they were; what was archived meanwhile stays, as drills need it."""
    monkeypatch.setattr(suites, "available", lambda: False)
    repository = shared.source.repository_path
    kept = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    yield shared
    for path in (repository / shared.source.archive.layout.backups).rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    for path, content in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.unlink(missing_ok=True)
            path.write_bytes(content)


def drilled(shop: Shop, *words: str) -> tuple[str, str]:
    """Verdict and summary of a drill, which is the one that is recorded."""
    code, out, err = answer(shop.source, "drill", "main", "--json", *words)
    assert (code, err) == (1, "")
    proof = read_proof(shop.source.archive, json.loads(out)["identifier"])
    assert list((shop.source.root / "scratch").iterdir()) == []
    return proof.verdict, proof.summary


def test_nothing_is_wrong_at_first(shop: Shop) -> None:
    for words in (["verify", "main"], ["wal", "check", "main", "--content", "--all"], ["drill", "main"]):
        code, out, err = answer(shop.source, *words)
        assert (code, err) == (0, ""), out


# ---- WAL


def renamed(shop: Shop) -> bytes:
    return shop.content(shop.before(shop.last))


def truncated(shop: Shop) -> bytes:
    content = shop.content(shop.last)
    return content[: len(content) // 2]


def older_copy(shop: Shop) -> bytes:
    """As it was before the server was finished with it: the end of the segment is what a recycled file held."""
    content, before = shop.content(shop.last), shop.content(shop.before(shop.last))
    return content[: 3 * 8192] + before[3 * 8192 :]


WAL: list[tuple[str, Callable[[Shop], bytes], str]] = [
    ("another segment", renamed, 'WAL segment "{}" holds another segment'),
    ("truncated", truncated, 'WAL segment "{}" has the wrong length'),
    (
        "of another cluster",
        lambda shop: shop.stranger[2],
        'archived WAL file "{}" belongs to another cluster',
    ),
]


@pytest.mark.parametrize(("content", "fact"), [w[1:] for w in WAL], ids=[w[0] for w in WAL])
def test_a_segment_replaced_by_a_sound_one_that_is_another(
    shop: Shop, content: Callable[[Shop], bytes], fact: str
) -> None:
    shop.store(shop.last, content(shop))
    code, out, _ = answer(shop.source, "wal", "check", "main", "--content", "--all", "--json")
    assert code == 1
    assert [name for name, _ in json.loads(out)["content"]["damaged"]] == [shop.last]
    verdict, summary = drilled(shop)
    assert verdict == "not recovered"
    assert summary.startswith(fact.format(shop.last))
    (entry,) = [e for e in json.loads(answer(shop.source, "list", "main", "--json")[1])["backups"]
                if e["label"] == shop.newer.label]  # fmt: skip
    assert (entry["state"], entry["failed"]) == ("failed", summary)


@pytest.mark.parametrize("which", ["older copy", "another timeline"])
def test_a_segment_replaced_by_one_with_the_same_header(shop: Shop, which: str) -> None:
    """Its first page says the same: only its pages and records tell."""
    shop.store(shop.last, older_copy(shop) if which == "older copy" else shop.other_future)
    code, out, _ = answer(shop.source, "wal", "check", "main", "--content", "--all", "--json")
    assert code == 1
    assert shop.last in [name for name, _ in json.loads(out)["content"]["damaged"]]
    verdict, summary = drilled(shop)
    assert verdict == "not recovered"
    assert shop.last in summary


def test_a_segment_of_the_backup_itself(shop: Shop) -> None:
    """verify reads the WAL that makes a backup consistent, too."""
    own = shop.newer.last_segment.name
    shop.store(own, shop.content(shop.before(own)))
    code, out, _ = answer(shop.source, "verify", "main", "--backup", shop.newer.label, "--json")
    (result,) = json.loads(out)["backups"]
    assert (code, result["fact"]) == (1, f'WAL segment "{own}" is damaged')


# ---- backups


def test_a_missing_volume(shop: Shop) -> None:
    key = shop.newer.volumes[0].object.key
    (shop.source.repository_path / key).unlink()
    verdict, summary = drilled(shop)
    said = f'object "{key}" is missing DETAIL: The backup record names it. HINT: {HINT}'
    assert (verdict, summary) == ("not recovered", said)


def test_a_volume_swapped_with_another_backups(shop: Shop) -> None:
    """Each is sound, and of the same cluster."""
    root = shop.source.repository_path
    one, two = (root / record.volumes[-1].object.key for record in (shop.older, shop.newer))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    code, out, _ = answer(shop.source, "verify", "main", "--json")
    results = {b["backup"]: b.get("fact", "") for b in json.loads(out)["backups"]}
    assert code == 1
    for record in (shop.older, shop.newer):
        fact = f'object "{record.volumes[-1].object.key}" is damaged'
        assert results[record.label] == fact
        verdict, summary = drilled(shop, "--backup", record.label)
        assert verdict == "not recovered"
        assert summary.startswith(fact)


def resealed(shop: Shop, record: BackupRecord, **changes: Any) -> None:
    """A record that says something else, with a checksum of its own that is right."""
    archive = shop.source.archive
    key = archive.layout.backup_record(record.label)
    archive.write_json(key, {**record.as_dict(), **changes}, create=False)


def test_a_manifest_replaced_by_another_backups(shop: Shop) -> None:
    """Even where the record was written anew to name it."""
    stored = shop.older.manifest
    shutil.copy(
        shop.source.repository_path / stored.key, shop.source.repository_path / shop.newer.manifest.key
    )
    fact = f'object "{shop.newer.manifest.key}" is damaged'
    assert drilled(shop)[1].startswith(fact)
    named = {"key": shop.newer.manifest.key, "size": stored.size, "sha256": stored.sha256}
    resealed(shop, shop.newer, manifest=named)
    code, out, _ = answer(shop.source, "verify", "main", "--backup", shop.newer.label, "--json")
    (result,) = json.loads(out)["backups"]  # every byte is as recorded, and speaks of other WAL
    assert (code, result["fact"]) == (1, contradiction(shop))
    verdict, summary = drilled(shop)
    assert verdict == "not recovered"
    assert summary.startswith(f"{contradiction(shop)} DETAIL: Its start_lsn is {shop.newer.start_lsn}; ")


def contradiction(shop: Shop) -> str:
    return f'backup record "{shop.newer.label}" contradicts its backup manifest'


def test_volumes_of_another_backup_under_this_ones_record(shop: Shop) -> None:
    """Sizes and checksums are right; a backup's objects lie in its own directory, and nowhere else is looked."""
    volumes = [v for v in shop.older.as_dict()["volumes"]]
    resealed(shop, shop.newer, volumes=volumes)
    verdict, summary = drilled(shop)
    assert verdict == "not recovered"
    assert summary.startswith(f'object "{volumes[0]["object"]["key"]}" is missing')


def test_a_backup_of_the_wrong_cluster(shop: Shop) -> None:
    """Its directory was copied here: its record says whose it is."""
    archive, record, _ = shop.stranger
    theirs = Path(archive.store.url.removeprefix("file://")) / archive.layout.backup(record.label)
    own = shop.source.archive.layout
    place = shop.source.repository_path / own.backup(record.label)
    shutil.copytree(theirs, place, dirs_exist_ok=True)
    fault = (
        f'backup record "{record.label}" belongs to another cluster. Its system identifier is '
        f"{record.system_identifier}; configured is {own.system_identifier}"
    )
    for command, expected in (("list", 1), ("verify", 1), ("expire", 0), ("drill", 0)):
        code, out, err = answer(shop.source, command, "main")
        assert code == expected, err
        assert fault in " ".join((out + err).split()) or command == "drill"
    assert "PROVEN: " in out
    assert (
        f"drill of backup {record.label}\n" not in out
    )  # of the newest that is ours; theirs may have its label


@pytest.mark.parametrize("whose", ["manifest of theirs", "manifest of ours"])
def test_a_backup_of_the_wrong_cluster_whose_record_was_written_anew(shop: Shop, whose: str) -> None:
    """Every byte is as recorded; only what the manifest says of the cluster, or of the files, tells."""
    archive, record, _ = shop.stranger
    theirs, root = Path(archive.store.url.removeprefix("file://")), shop.source.repository_path
    volumes, tree = [], record.as_dict()
    for number, volume in enumerate(tree["volumes"]):
        key = f"{shop.source.archive.layout.backup(shop.newer.label)}base-{900 + number}.tar.zst"
        shutil.copy(theirs / volume["object"]["key"], root / key)
        volumes.append({**volume, "object": {**volume["object"], "key": key}})
    if whose == "manifest of ours":
        resealed(shop, shop.newer, volumes=volumes)
        said = "are not those of the backup manifest DETAIL: pg_verifybackup: error: "
    else:
        manifest = {
            **tree["manifest"],
            "key": f"{shop.source.archive.layout.backup(shop.newer.label)}other.zst",
        }
        shutil.copy(theirs / record.manifest.key, root / manifest["key"])
        resealed(shop, shop.newer, volumes=volumes, manifest=manifest)
        said = (
            f"{contradiction(shop)} DETAIL: Its system_identifier is {shop.newer.system_identifier}; the manifest "
            f"says {record.system_identifier}."
        )
    verdict, summary = drilled(shop)
    assert verdict == "not recovered"
    assert said in summary
