"""WAL push: durable once, the same again is success, anything else is refused and changes nothing."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgproof.commands import wal_files
from pgproof.errors import (
    ConfigError,
    NoRoom,
    ObjectDamaged,
    PermanentError,
    PgproofError,
    StoreUnavailable,
    WalConflict,
    WrongSystem,
)
from pgproof.repository.repository import Archive, StoredObject
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.push import PushResult, push, system_identifier_of
from tests.repository.conftest import recipient_of
from tests.wal.files import MB, OTHER, SYSTEM, DataDirectory, make_archive, segment_bytes


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make_archive(tmp_path)


def stored(archive: Archive) -> dict[str, bytes]:
    """Every object of the archive as it is stored."""
    return {info.key: b"".join(archive.store.get(info.key)) for info in archive.store.list("shop")}


def content(archive: Archive, name: str) -> bytes:
    return b"".join(archive.open(find_key(archive, name)))


@pytest.mark.parametrize("size", [MB, 4 * MB, 16 * MB])
def test_push_and_push_again(data: DataDirectory, archive: Archive, size: int) -> None:
    path = data.segment(size=size)
    first = push(archive, path)
    before = stored(archive)
    assert list(before) == [f"shop/{SYSTEM}/wal/00000001/{path.name[8:16]}/{path.name}.zst"]
    ((key, content_),) = before.items()
    written = StoredObject(key, len(content_), hashlib.sha256(content_).hexdigest())
    assert first == PushResult(path.name, already_there=False, stored=written)
    again = push(archive, path)
    assert again == PushResult(path.name, already_there=True)
    assert stored(archive) == before
    assert content(archive, path.name) == path.read_bytes()


def test_invariant_3_other_content_is_an_error_and_changes_nothing(
    data: DataDirectory, archive: Archive
) -> None:
    path = data.segment()
    push(archive, path)
    before = stored(archive)
    data.segment(seed="another history")
    with pytest.raises(WalConflict) as caught:
        push(archive, path)
    fact, detail, hint = str(caught.value).split("\n")
    assert fact == f'WAL file "{path.name}" is archived already with other content'
    assert detail.startswith("DETAIL: Archived is SHA-256 ")
    assert detail.endswith(". Two servers of the same origin archive to one place, or a restored copy does.")
    assert hint == ("HINT: find the other server and set its archive_mode to off; nothing was overwritten")
    assert stored(archive) == before


def test_invariant_3_a_damaged_archived_copy_is_not_replaced_either(
    data: DataDirectory, archive: Archive, tmp_path: Path
) -> None:
    path = data.segment()
    push(archive, path)
    key = find_key(archive, path.name)
    os.truncate(tmp_path / "repository" / key, 100)
    before = stored(archive)
    with pytest.raises(WalConflict) as caught:
        push(archive, path)
    assert str(caught.value) == (
        f'WAL file "{path.name}" is archived already and the archived copy is damaged\n'
        f'DETAIL: object "{key}" is truncated. The zstd frame does not end.\n'
        "HINT: pgproof wal check shop --content --repair replaces it"
    )
    assert stored(archive) == before


@pytest.mark.parametrize("first", ["plain", "encrypted"])
def test_invariant_3_whichever_codec_wrote_it(
    data: DataDirectory, tmp_path: Path, identity: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encryption was switched on or off meanwhile: still one object a segment."""
    monkeypatch.setenv("PGPROOF_TEST_IDENTITY", identity)
    settings = {"age_identity": "env:PGPROOF_TEST_IDENTITY"}
    plain = make_archive(tmp_path, **settings)
    encrypted = make_archive(tmp_path, age_recipients=(recipient_of(identity),), **settings)
    one, two = (plain, encrypted) if first == "plain" else (encrypted, plain)
    path = data.segment()
    push(one, path)
    before = stored(one)
    assert push(two, path).already_there
    data.segment(seed="other")
    with pytest.raises(WalConflict):
        push(two, path)
    assert stored(one) == before


def test_encrypted_archive_without_the_identity_on_the_host(
    data: DataDirectory, tmp_path: Path, identity: str
) -> None:
    """New segments need the recipients alone. To compare with an archived one takes the identity: it is asked for."""
    archive = make_archive(tmp_path, age_recipients=(recipient_of(identity),))
    path = data.segment()
    push(archive, path)
    before = stored(archive)
    with pytest.raises(ConfigError) as caught:
        push(archive, path)
    assert caught.value.fact.endswith("is encrypted and no age identity is configured")
    assert stored(archive) == before


def test_invariant_6_segment_of_another_system_identifier(data: DataDirectory, archive: Archive) -> None:
    path = data.segment(system=OTHER)
    with pytest.raises(WrongSystem) as caught:
        push(archive, path)
    assert str(caught.value) == (
        f'WAL file "{path.name}" belongs to another cluster\n'
        f"DETAIL: Its system identifier is {OTHER}; the archive's is {SYSTEM}."
    )
    assert stored(archive) == {}


def test_invariant_6_history_of_another_system_identifier(tmp_path: Path, archive: Archive) -> None:
    """A history file does not say whose it is: its data directory does."""
    path = DataDirectory(tmp_path / "other", OTHER).write("00000002.history", b"1\t0/5000000\tno reason\n")
    with pytest.raises(WrongSystem):
        push(archive, path)
    assert stored(archive) == {}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("00000002.history", "00000002/00000002.history"),
        (
            "000000010000000000000005.00000028.backup",
            "00000001/00000000/000000010000000000000005.00000028.backup",
        ),
    ],
)
def test_files_that_are_no_segments(data: DataDirectory, archive: Archive, name: str, key: str) -> None:
    path = data.write(name, b"1\t0/5000000\tno recovery target specified\n")
    assert not push(archive, path).already_there
    assert push(archive, path).already_there
    assert list(stored(archive)) == [f"shop/{SYSTEM}/wal/{key}.zst"]
    path.write_bytes(b"1\t0/6000000\tno recovery target specified\n")
    with pytest.raises(WalConflict):  # two servers were promoted to one timeline
        push(archive, path)


def test_partial_segment_is_no_segment(data: DataDirectory, archive: Archive) -> None:
    """The last segment of a timeline that was left: archived under its own name, beside the whole one."""
    segment = WalSegment(1, 5, MB)
    partial = data.write(f"{segment}.partial", segment_bytes(segment, seed="up to the fork"))
    whole = data.segment(5)
    push(archive, partial)
    push(archive, whole)
    directory = f"shop/{SYSTEM}/wal/00000001/00000000"
    assert sorted(stored(archive)) == [f"{directory}/{segment}.partial.zst", f"{directory}/{segment}.zst"]


def test_first_segment_of_a_timeline_begins_with_a_page_of_its_parent(
    data: DataDirectory, archive: Archive
) -> None:
    assert push(archive, data.segment(5, timeline=2)).name == "000000020000000000000005"
    segment = WalSegment(2, 6, MB)
    push(archive, data.write(segment.name, segment_bytes(segment, timeline=1)))


@pytest.mark.parametrize(
    "name", ["0000000100000000000000AG", "archive_status", "000000010000000000000005.tmp", "x"]
)
def test_names_that_postgresql_never_archives(data: DataDirectory, archive: Archive, name: str) -> None:
    with pytest.raises(PermanentError) as caught:
        push(archive, data.write(name, b"?"))
    assert str(caught.value) == (
        f"\"{name}\" is not a file that PostgreSQL archives\nHINT: archive_command is 'pgproof wal push %p'"
    )
    assert stored(archive) == {}


def _wrong() -> list[tuple[str, bytes, str]]:
    five, six = WalSegment(1, 5, MB), WalSegment(1, 6, MB)
    whole = segment_bytes(five)
    return [
        ("another position", segment_bytes(six), f'WAL segment "{five}" holds another segment'),
        (
            "a later timeline",
            segment_bytes(five, timeline=2),
            f'WAL segment "{five}" holds another segment',
        ),
        ("short", whole[:-1], f'WAL segment "{five}" has the wrong length'),
        ("long", whole + b"\0", f'WAL segment "{five}" has the wrong length'),
        ("empty", b"", f'WAL segment "{five}" is too short'),
        ("zeros", bytes(MB), f'WAL segment "{five}" does not start with a WAL page'),
    ]


@pytest.mark.parametrize(("what", "bad", "fact"), _wrong(), ids=[row[0] for row in _wrong()])
def test_a_segment_that_is_not_what_its_name_says(
    data: DataDirectory, archive: Archive, what: str, bad: bytes, fact: str
) -> None:
    path = data.write("000000010000000000000005", bad)
    with pytest.raises(ObjectDamaged) as caught:
        push(archive, path)
    assert caught.value.fact == fact
    assert stored(archive) == {}


def test_file_that_is_gone(data: DataDirectory, archive: Archive) -> None:
    path = data.wal / "000000010000000000000005"
    with pytest.raises(PermanentError) as caught:
        push(archive, path)
    assert str(caught.value) == f'cannot read WAL file "{path}"\nDETAIL: No such file or directory.'


def test_whose_file_it_is(data: DataDirectory, tmp_path: Path) -> None:
    assert system_identifier_of(data.segment(system=OTHER)) == OTHER
    assert system_identifier_of(data.write("00000002.history", b"")) == SYSTEM
    (tmp_path / "elsewhere").mkdir()
    lost = tmp_path / "elsewhere" / "00000002.history"
    lost.touch()
    with pytest.raises(PgproofError, match="is not a data directory"):
        system_identifier_of(lost)


def test_eight_pushes_of_one_segment_at_once(data: DataDirectory, archive: Archive) -> None:
    path = data.segment()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: push(archive, path), range(8)))
    assert [result.already_there for result in results].count(False) == 1
    assert content(archive, path.name) == path.read_bytes()
    assert len(stored(archive)) == 1


def test_invariant_3_eight_pushes_with_two_contents_at_once(tmp_path: Path, archive: Archive) -> None:
    """One content wins whole; every push of the other is told."""
    paths = [DataDirectory(tmp_path / f"data-{n}").segment(seed=str(n % 2)) for n in range(8)]

    def attempt(path: Path) -> str:
        try:
            push(archive, path)
        except WalConflict:
            return "conflict"
        return "archived"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, paths))
    winner = content(archive, paths[0].name)
    assert [path.read_bytes() == winner for path in paths] == [outcome == "archived" for outcome in outcomes]
    assert outcomes.count("archived") == 4


class TestExitCode:
    """PostgreSQL's archiver takes 0 alone for archived, and ends itself on more than 125."""

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (StoreUnavailable("could not"), 77),
            (NoRoom("cannot"), 44),
            (WalConflict("cannot"), 35),
            (PermanentError("cannot"), 10),
            (RuntimeError("a fault of ours"), 70),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_of_an_error(self, error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            raise error

        assert wal_files._reported(fail, 0) == code
        assert str(error) in capsys.readouterr().err

    def test_of_the_command(self, data: DataDirectory, archive: Archive, tmp_path: Path) -> None:
        config = tmp_path / "pgproof.toml"
        text = f'[repositories.main]\nurl = "{archive.store.url}"\n[clusters.shop]\ndsn = ""\n'
        config.write_text(text)
        path = data.segment()
        words = ["--config", str(config), "wal", "push", str(path)]
        assert [wal_files.main(words), wal_files.main(words)] == [0, 0]
        data.segment(seed="other")
        assert wal_files.main(words) == 35
        config.write_text(f"{text}system_identifier = {OTHER}\n")
        assert wal_files.main(words) == 24
        config.write_text(text.replace("/repository", "/unmounted"))
        assert wal_files.main(words) == 30
        assert wal_files.main([*words[:-1], str(tmp_path / "x")]) == 10
        assert wal_files.main(["--config", str(tmp_path / "none"), *words[2:]]) == 2
        assert len(stored(archive)) == 1

    def test_of_several_clusters(self, data: DataDirectory, archive: Archive, tmp_path: Path) -> None:
        """One configuration for several: the system identifier says whose segment it is."""
        config = tmp_path / "pgproof.toml"
        config.write_text(
            f'[repositories.main]\nurl = "{archive.store.url}"\n'
            f'[clusters.shop]\ndsn = ""\nsystem_identifier = {SYSTEM}\n[clusters.other]\ndsn = ""\n'
        )
        words = ["--config", str(config), "wal", "push"]
        assert wal_files.main([*words, str(data.segment())]) == 0
        foreign = data.segment(6, system=OTHER)
        assert wal_files.main([*words, str(foreign)]) == 2
        assert wal_files.main([*words, "--cluster", "shop", str(foreign)]) == 24
        assert wal_files.main([*words, "--cluster=other", str(foreign)]) == 0
        keys = sorted(info.key for info in archive.store.list() if "/wal/" in info.key)
        assert [key.split("/wal/")[0] for key in keys] == [f"other/{OTHER}", f"shop/{SYSTEM}"]
