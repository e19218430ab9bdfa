"""An archive gives back what was stored, or says what is damaged (invariants 1 and 3)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pgproof.config import RepositoryConfig
from pgproof.errors import ConfigError, ObjectDamaged, ObjectExists, ObjectMissing, UsageError
from pgproof.repository.codec import Codec
from pgproof.repository.layout import Layout, without_suffix
from pgproof.repository.repository import Archive, Repository, StoredObject, open_repository
from pgproof.repository.store import read
from tests.repository.conftest import SYSTEM

CONTENT = b"a row of a table\n" * 5000 + random.Random(3).randbytes(2_500_000)  # more than two chunks
KEY = f"shop/{SYSTEM}/backups/20261123T000000Z/base-000.tar"
Make = Callable[[bool], Archive]


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def archive(request: pytest.FixtureRequest, make_archive: Make) -> Archive:
    return make_archive(request.param)


def test_an_archive_belongs_to_a_cluster_and_its_system_identifier(archive: Archive) -> None:
    assert archive.system_identifier == SYSTEM
    assert archive.layout == Layout("shop", SYSTEM)
    assert archive.layout.root == f"shop/{SYSTEM}"


def test_what_was_written_names_the_stored_bytes(archive: Archive) -> None:
    stored = archive.write(KEY, [CONTENT[:7], CONTENT[7:]])
    assert stored.key == KEY + archive.repository.codec.suffix
    raw = read(archive.store, stored.key)
    assert stored == StoredObject(stored.key, len(raw), hashlib.sha256(raw).hexdigest())
    assert b"".join(archive.open(stored.key)) == CONTENT
    assert b"".join(archive.open_checked(stored)) == CONTENT


def test_create_does_not_replace(archive: Archive) -> None:
    stored = archive.write(KEY, [b"first"], create=True)
    with pytest.raises(ObjectExists):
        archive.write(KEY, [b"second"], create=True)
    assert b"".join(archive.open(stored.key)) == b"first"


def test_an_error_while_writing_stores_nothing(archive: Archive) -> None:
    def chunks() -> Iterator[bytes]:
        yield CONTENT
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        archive.write(KEY, chunks())
    assert list(archive.store.list(archive.layout.backups)) == []


# ---- damage


def altered(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """What may happen to a stored object."""
    middle = bytearray(raw)
    middle[len(raw) // 2] ^= 1
    yield "flipped in the middle", bytes(middle)
    for position in (0, 3, 5, 30, 60, 120, len(raw) - 1):
        for bit in (1, 0x80):
            flipped = bytearray(raw)
            flipped[position] ^= bit
            yield f"flipped at {position}", bytes(flipped)
    yield "truncated", raw[:-1]
    yield "half", raw[: len(raw) // 2]
    yield "empty", b""
    yield "longer", raw + b"x"
    yield "twice", raw + raw
    yield "other content", b"".join(Codec().encode([b"other"]))
    yield "zeros", bytes(len(raw))


def test_every_damage_is_told_with_both_values(archive: Archive) -> None:
    stored = archive.write(KEY, [CONTENT])
    raw = read(archive.store, stored.key)
    for what, content in altered(raw):
        archive.store.put(stored.key, content)
        with pytest.raises(ObjectDamaged) as caught:
            for _ in archive.open_checked(stored):
                pass
        assert str(caught.value) == (
            f'object "{stored.key}" is damaged\n'
            f"DETAIL: It has {len(content)} bytes with SHA-256 {hashlib.sha256(content).hexdigest()}; "
            f"the record says {stored.size} bytes with {stored.sha256}.\n"
            "HINT: this backup cannot be restored whole; choose another with pgproof list"
        ), what


def test_other_content_of_the_same_form_is_damage(archive: Archive) -> None:
    """What was stored under this key by somebody else decodes well, and is not what the record names."""
    stored = archive.write(KEY, [CONTENT])
    archive.write(KEY, [CONTENT[::-1]])
    with pytest.raises(ObjectDamaged) as caught:
        b"".join(archive.open_checked(stored))
    assert caught.value.fact == f'object "{stored.key}" is damaged'


def test_bytes_that_never_decoded_are_told_as_what_they_are(archive: Archive) -> None:
    """The record names them, so that nothing happened to them since."""
    key = f"{KEY}.zst"
    archive.store.put(key, b"never zstd")
    stored = StoredObject(key, 10, hashlib.sha256(b"never zstd").hexdigest())
    with pytest.raises(ObjectDamaged) as caught:
        b"".join(archive.open_checked(stored))
    assert caught.value.detail == "zstd says: zstd decompressor error: Unknown frame descriptor."


def test_a_missing_object_is_missing(archive: Archive) -> None:
    stored = archive.write(KEY, [CONTENT])
    archive.store.delete(stored.key)
    with pytest.raises(ObjectMissing):
        next(archive.open_checked(stored))
    with pytest.raises(ObjectMissing):
        archive.open(stored.key)


def test_a_record_cannot_lead_out_of_the_repository(archive: Archive) -> None:
    with pytest.raises(UsageError):
        next(archive.open_checked(StoredObject("../../etc/passwd", 1, "")))


def with_identity(archive: Archive, identity: str | None) -> Archive:
    repository: Repository = archive.repository
    return replace(
        archive, repository=replace(repository, codec=replace(repository.codec, identity=identity))
    )


def test_without_the_identity_it_is_no_damage(make_archive: Make) -> None:
    import pyrage

    archive = make_archive(True)
    stored = archive.write(KEY, [CONTENT])
    for identity, fact in (
        (None, f'object "{stored.key}" is encrypted and no age identity is configured'),
        (
            str(pyrage.x25519.Identity.generate()),
            f'object "{stored.key}" cannot be decrypted with the configured age identity',
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            b"".join(with_identity(archive, identity).open_checked(stored))
        assert caught.value.fact == fact


def test_a_reader_that_stops_early_asks_nothing_of_the_rest(archive: Archive) -> None:
    stored = archive.write(KEY, [random.Random(1).randbytes(3 << 20)])
    chunks = archive.open_checked(stored)
    assert next(chunks)
    chunks.close()  # type: ignore[attr-defined]


# ---- records


def test_a_record_is_plain_json(archive: Archive) -> None:
    when = datetime(2026, 11, 23, tzinfo=UTC)
    archive.write_json("shop/record.json", {"name": "Größe", "at": when, "lsn": None})
    text = read(archive.store, "shop/record.json").decode()
    head = '{\n  "name": "Größe",\n  "at": "2026-11-23 00:00:00+00:00",\n  "lsn": null,\n'
    seal = hashlib.sha256(head.encode()).hexdigest()
    assert text == f'{head}  "record_sha256": "{seal}"\n}}\n'
    assert archive.read_json("shop/record.json") == {
        "name": "Größe",
        "at": "2026-11-23 00:00:00+00:00",
        "lsn": None,
    }


def test_a_record_is_not_replaced_unless_asked(archive: Archive) -> None:
    archive.write_json("shop/record.json", 1)
    with pytest.raises(ObjectExists):
        archive.write_json("shop/record.json", 2)
    archive.write_json("shop/record.json", 3, create=False)
    assert archive.read_json("shop/record.json") == 3


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": 1} x'], ids=repr)
def test_a_record_that_is_no_json_bad(archive: Archive, content: bytes) -> None:
    archive.store.put("shop/record.json", content)
    with pytest.raises(ObjectDamaged) as caught:
        archive.read_json("shop/record.json")
    assert caught.value.fact == 'record "shop/record.json" is damaged'


def test_a_missing_record_is_missing(archive: Archive) -> None:
    with pytest.raises(ObjectMissing):
        archive.read_json("shop/record.json")


# ---- layout


def test_every_key_is_where_the_format_says() -> None:
    layout = Layout("shop", 7)
    segment, log = "000000010000000A000000FF", "00000001/0000000A"
    assert layout.lease == "shop/7/lease.json"
    assert layout.backup_record("L") == "shop/7/backups/L/backup.json"
    assert (layout.fences, layout.proofs, layout.holds) == (
        "shop/7/fences/",
        "shop/7/proofs/",
        "shop/7/holds/",
    )
    for name in (segment, f"{segment}.partial", f"{segment}.00000028.backup"):
        assert layout.wal_file(name) == f"shop/7/wal/{log}/{name}"
    assert layout.wal_file("00000002.history") == "shop/7/wal/00000002/00000002.history"


@pytest.mark.parametrize("suffix", ["", ".zst", ".zst.age"])
def test_a_key_without_its_suffix(suffix: str) -> None:
    assert without_suffix(f"wal/00000002.history{suffix}") == "wal/00000002.history"


def test_opening_does_not_need_the_identity(url: str, make_archive: Make) -> None:
    stored = make_archive(True).write(KEY, [CONTENT])
    archive = open_repository(RepositoryConfig(url=url)).archive("shop", SYSTEM)
    assert archive.store.head(stored.key).size == stored.size
