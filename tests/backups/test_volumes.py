"""Volumes: a tar stream, cut anywhere, becomes tars of whole files; and what fails leaves nothing."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.backups.record import Volume
from pgproof.backups.volumes import BLOCK, VolumeWriter
from pgproof.config import RepositoryConfig
from pgproof.errors import BackupFailed, NoRoom, StoreUnavailable
from pgproof.repository.repository import Archive, Repository, create_repository
from pgproof.repository.store import Store
from tests.repository.passing import Passing

Files = list[tuple[str, bytes]]
PREFIX = "shop/7/backups/one/"


def make_archive() -> Archive:
    return create_repository(RepositoryConfig(url=f"memory://{uuid.uuid4()}")).archive("shop", 7)


def make_tar(files: Files, format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar as the server sends it: members, then two blocks of zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith("/"):
                member.type, member.size = tarfile.DIRTYPE, 0
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The data in pieces of these sizes, the last as it comes."""
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    yield data[start:]


def members(archive: Archive, volume: Volume) -> Files:
    """A volume read back by Python's tarfile: every member with its content."""
    content = b"".join(archive.open_checked(volume.object))
    assert len(content) == volume.raw_size
    assert len(content) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [
            (member.name + "/", b"") if member.isdir() else (member.name, tar.extractfile(member).read())  # type: ignore[union-attr]
            for member in tar
        ]


def write(
    archive: Archive, volume_size: int, tars: list[tuple[int | None, Iterable[bytes]]]
) -> tuple[Volume, ...]:
    writer = VolumeWriter(archive, PREFIX, volume_size, 2, lambda size: None)
    for tablespace, pieces in tars:
        writer.start_tar(tablespace)
        for piece in pieces:
            writer.feed(piece)
    return writer.finish()


names = st.text("abcdefg0123456789._", min_size=1, max_size=20).map(lambda text: f"base/{text}")
contents = st.integers(0, 5000).map(lambda size: bytes(range(256)) * (size // 256) + b"." * (size % 256))


@given(
    st.lists(st.tuples(names, contents), max_size=12),
    st.lists(st.integers(0, 3000), max_size=40),
    st.integers(BLOCK, 12_000),
)
def test_a_stream_cut_anywhere(files: Files, sizes: list[int], volume_size: int) -> None:
    archive = make_archive()
    volumes = write(archive, volume_size, [(None, cut(make_tar(files), sizes))])
    found = [members(archive, volume) for volume in volumes]
    assert [member for part in found for member in part] == files
    for part, volume in zip(found, volumes, strict=True):
        assert part, "no volume is empty"
        assert len(part) == 1 or volume.raw_size - 2 * BLOCK <= volume_size
    assert [v.object.key for v in volumes] == [
        f"{PREFIX}base-{number:03d}.tar.zst" for number in range(len(volumes))
    ]


def test_a_file_larger_than_a_volume_has_its_own() -> None:
    archive = make_archive()
    files = [("a", b"a" * 100), ("large", b"l" * 50_000), ("b", b"b" * 100), ("c", b"c" * 100)]
    volumes = write(archive, 4096, [(None, [make_tar(files)])])
    assert [[name for name, _ in members(archive, volume)] for volume in volumes] == [
        ["a"],
        ["large"],
        ["b", "c"],
    ]


def test_directories_and_tablespaces() -> None:
    archive = make_archive()
    base = [("global/", b""), ("global/pg_control", b"c" * 8192)]
    space = [("PG_17_202406281/", b""), ("PG_17_202406281/5/16384", b"t" * 8192)]
    volumes = write(
        archive, 1 << 20, [(16385, [make_tar(space)]), (None, [make_tar(base)]), (16386, [make_tar([])])]
    )
    assert [(v.object.key.rsplit("/", 1)[-1], v.tablespace) for v in volumes] == [
        ("16385-000.tar.zst", 16385),
        ("base-000.tar.zst", None),
    ]
    assert [members(archive, volume) for volume in volumes] == [space, base]


def test_file_of_more_than_8_gb_by_its_header() -> None:
    """The server writes such a size in base 256 (``print_tar_number``); tar calls it a GNU extension."""
    member = tarfile.TarInfo("base/5/16384")
    member.size = 9 << 30
    writer = VolumeWriter(make_archive(), PREFIX, 1 << 20, 1, lambda size: None)
    writer.start_tar(None)
    writer.feed(member.tobuf(tarfile.GNU_FORMAT))
    assert writer._left == 9 << 30
    writer.abandon()


@pytest.mark.parametrize("keep", [BLOCK // 2, BLOCK, BLOCK + 100, 2 * BLOCK - 1])
def test_stream_that_ends_in_a_file(keep: int) -> None:
    archive = make_archive()
    writer = VolumeWriter(archive, PREFIX, 1 << 20, 2, lambda size: None)
    writer.start_tar(None)
    writer.feed(make_tar([("a", b"a" * 700)])[:keep])
    with pytest.raises(BackupFailed, match="stream ended in the middle of a file"):
        writer.finish()
    writer.abandon()
    assert list(archive.store.list("shop")) == []


def test_stream_that_is_no_tar() -> None:
    writer = VolumeWriter(make_archive(), PREFIX, 1 << 20, 2, lambda size: None)
    writer.start_tar(None)
    with pytest.raises(BackupFailed) as caught:
        writer.feed(b"x" * BLOCK)
    assert str(caught.value) == "the server's tar stream cannot be read\nDETAIL: invalid header."
    writer.abandon()


def test_abandoned_volumes_are_not_stored() -> None:
    archive = make_archive()
    writer = VolumeWriter(archive, PREFIX, 1 << 30, 2, lambda size: None)
    writer.start_tar(None)
    writer.feed(make_tar([("a", b"a" * (3 << 20))])[: 2 << 20])
    writer.abandon()
    writer.abandon()
    assert list(archive.store.list("shop")) == []


class Failing(Passing):
    """A real store whose n-th put fails."""

    def __init__(self, inner: Store, at: int, error: Exception) -> None:
        super().__init__(inner)
        self.left, self.error = at, error

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        self.left -= 1
        if not self.left:
            raise self.error
        self.inner.put(key, data, create=create)


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("error", [NoRoom("no room"), StoreUnavailable("away")], ids=["full", "away"])
def test_store_that_fails(at: int, error: Exception) -> None:
    """Whichever volume it meets: the backup hears of it, and never waits for ever."""
    inner = make_archive()
    store = Failing(inner.store, at, error)
    archive = Archive(Repository(store, inner.repository.codec, "x"), inner.layout)
    writer = VolumeWriter(archive, PREFIX, 4096, 2, lambda size: None)
    with pytest.raises(type(error)) as caught:
        writer.start_tar(None)
        for piece in cut(make_tar([(f"f{n}", bytes([n]) * 4096) for n in range(8)]), [1000] * 30):
            writer.feed(piece)
        writer.finish()
    assert caught.value is error
    writer.abandon()


def test_progress_counts_what_was_sent() -> None:
    seen: list[int] = []
    tar = make_tar([("a", b"a" * 1000)])
    writer = VolumeWriter(make_archive(), PREFIX, 1 << 20, 2, seen.append)
    writer.start_tar(None)
    for piece in cut(tar, [700, 700]):
        writer.feed(piece)
    writer.finish()
    assert sum(seen) == writer.raw_size == len(tar)
