"""WAL fetch: the whole file or nothing; and an exit code that never lets recovery end early."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pgproof import errors
from pgproof.commands import wal_files
from pgproof.errors import (
    ConfigError,
    DestinationRefused,
    NoBackup,
    ObjectDamaged,
    ObjectMissing,
    PermanentError,
    PgproofError,
    StoreUnavailable,
    WrongSystem,
)
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.content import check_segment_content
from pgproof.wal.fetch import fetch, fetch_all, fetch_histories
from pgproof.wal.push import push
from tests.drills.damage import flip_bit, truncate
from tests.repository.conftest import recipient_of
from tests.wal.files import MB, OTHER, SYSTEM, DataDirectory, make_archive, segment_bytes

ERRORS = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, PgproofError) and found is not ObjectMissing
]


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data")


@pytest.fixture
def archive(tmp_path: Path, data: DataDirectory) -> Archive:
    """With segment 5 of timeline 1."""
    made = make_archive(tmp_path)
    push(made, data.segment())
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where recovery wants the file, in a data directory of the same cluster."""
    return DataDirectory(tmp_path / "copy").wal / "RECOVERYXLOG"


NAME = "000000010000000000000005"


@pytest.mark.parametrize("size", [MB, 16 * MB, 64 * MB])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_round_trip(
    data: DataDirectory,
    tmp_path: Path,
    target: Path,
    identity: str,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    encrypted: bool,
) -> None:
    monkeypatch.setenv("PGPROOF_TEST_IDENTITY", identity)
    archive = make_archive(
        tmp_path,
        age_recipients=(recipient_of(identity),) if encrypted else (),
        age_identity="env:PGPROOF_TEST_IDENTITY",
    )
    path = data.segment(size=size)
    push(archive, path)
    assert fetch(archive, path.name, target) == size
    assert target.read_bytes() == path.read_bytes()
    assert os.listdir(target.parent) == ["RECOVERYXLOG"]
    assert find_key(archive, path.name).endswith(".zst.age" if encrypted else f"{path.name}.zst")
    assert check_segment_content(archive, WalSegment(1, 5, size)) is None


def test_what_was_there_before_is_replaced(archive: Archive, target: Path) -> None:
    target.write_bytes(b"left over from a recovery that was stopped")
    fetch(archive, NAME, target)
    assert target.stat().st_size == MB


@pytest.mark.parametrize(
    "name",
    ["00000002.history", f"{NAME}.partial", f"{NAME}.00000028.backup"],
    ids=["history", "partial", "backup"],
)
def test_other_wal_files(archive: Archive, data: DataDirectory, target: Path, name: str) -> None:
    content = (
        segment_bytes(WalSegment(1, 5, MB)) if name.endswith(".partial") else b"1\t0/5000000\tno reason\n"
    )
    push(archive, data.write(name, content))
    assert fetch(archive, name, target) == len(content)
    assert target.read_bytes() == content


@pytest.mark.parametrize("name", ["000000010000000000000006", "00000002.history", f"{NAME}.partial"])
def test_not_archived(archive: Archive, target: Path, name: str) -> None:
    with pytest.raises(ObjectMissing) as caught:
        fetch(archive, name, target)
    assert str(caught.value) == f'WAL file "{name}" is not in the archive "{archive.store.url}"'
    assert os.listdir(target.parent) == []


def test_archive_that_has_nothing_of_this_system_identifier(tmp_path: Path, target: Path) -> None:
    """As when the repository's URL was changed: "not archived" would end recovery."""
    archive = make_archive(tmp_path)
    with pytest.raises(NoBackup) as caught:
        fetch(archive, NAME, target)
    assert str(caught.value) == (
        f'repository "{archive.store.url}" has nothing of cluster "shop" with system identifier {SYSTEM}\n'
        "HINT: name the right cluster with --cluster, and look at the repository's url"
    )


@pytest.mark.parametrize("name", ["x", "../pgproof.json", "", "000000010000000000000005.zst"])
def test_not_the_name_of_a_wal_file(archive: Archive, target: Path, name: str) -> None:
    with pytest.raises(PermanentError) as caught:
        fetch(archive, name, target)
    assert not isinstance(caught.value, ObjectMissing)
    assert str(caught.value) == (
        f"\"{name}\" is not the name of a WAL file\nHINT: restore_command is 'pgproof wal fetch %f %p'"
    )
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("harm", [flip_bit, truncate], ids=["bit", "truncated"])
def test_damaged_copy_never_appears(
    archive: Archive, tmp_path: Path, target: Path, harm: Callable[[Path], None]
) -> None:
    harm(tmp_path / "repository" / find_key(archive, NAME))
    with pytest.raises(ObjectDamaged):
        fetch(archive, NAME, target)
    assert os.listdir(target.parent) == []
    assert check_segment_content(archive, WalSegment(1, 5, MB)) is not None


def test_invariant_6_copy_of_another_system_identifier(archive: Archive, target: Path) -> None:
    store(archive, segment_bytes(WalSegment(1, 5, MB), system=OTHER))
    with pytest.raises(WrongSystem) as caught:
        fetch(archive, NAME, target)
    assert str(caught.value) == (
        f'archived WAL file "{NAME}" belongs to another cluster\n'
        f"DETAIL: Its system identifier is {OTHER}; the archive's is {SYSTEM}."
    )
    assert os.listdir(target.parent) == []
    assert check_segment_content(archive, WalSegment(1, 5, MB)) == (
        f'WAL segment "{NAME}" belongs to another cluster. '
        f"Its system identifier is {OTHER}; the archive's is {SYSTEM}."
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            segment_bytes(WalSegment(1, 6, MB)),
            f'WAL segment "{NAME}" holds another segment. Its first page says timeline 1 and LSN 0/600000; '
            "the name says timeline 1 and LSN 0/500000.",
        ),
        (
            segment_bytes(WalSegment(1, 5, MB))[: MB // 2],
            f'WAL segment "{NAME}" has the wrong length. '
            "It has 524288 bytes; a segment of this cluster has 1048576.",
        ),
        (b"", f'WAL segment "{NAME}" is too short. It has 0 bytes where its header alone has 40.'),
    ],
    ids=["another segment", "half", "empty"],
)
def test_copy_that_is_not_what_its_name_says(
    archive: Archive, target: Path, content: bytes, fault: str
) -> None:
    store(archive, content)
    with pytest.raises(ObjectDamaged) as caught:
        fetch(archive, NAME, target)
    assert (
        f"{caught.value.fact}. {caught.value.detail}"
        == check_segment_content(archive, WalSegment(1, 5, MB))
        == fault
    )
    assert os.listdir(target.parent) == []


def store(archive: Archive, content: bytes) -> None:
    archive.store.delete(find_key(archive, NAME))
    archive.write(archive.layout.wal_file(NAME), [content])


def test_destination_that_cannot_be_written(archive: Archive, tmp_path: Path) -> None:
    destination = tmp_path / "nowhere" / "RECOVERYXLOG"
    with pytest.raises(PermanentError) as caught:
        fetch(archive, NAME, destination)
    assert not isinstance(caught.value, ObjectMissing)
    assert str(caught.value) == f'cannot write WAL file "{destination}"\nDETAIL: No such file or directory.'


def test_many_at_once(archive: Archive, data: DataDirectory, tmp_path: Path) -> None:
    segments = [WalSegment(1, number, MB) for number in range(5, 15)]
    for segment in segments[1:]:
        push(archive, data.segment(segment.number))
    push(archive, data.write("00000002.history", b"1\t0/600000\tno reason\n"))
    directory = tmp_path / "wal"
    assert fetch_all(archive, segments, directory) == 10 * MB
    assert fetch_all(archive, segments, directory) == 0  # they are there
    fetch_histories(archive, [1, 2], directory)
    assert set(os.listdir(directory)) == {"00000002.history", *(segment.name for segment in segments)}
    with pytest.raises(ObjectMissing):
        fetch_all(archive, [*segments, WalSegment(1, 15, MB)], directory)


class TestExitCode:
    """97 is "not archived"; anything else is over 125, which stops recovery, and never 143, a quiet shutdown."""

    @pytest.mark.parametrize("error", ERRORS, ids=lambda found: found.__name__)
    def test_of_every_error(self, error: type[PgproofError]) -> None:
        def fail() -> None:
            raise error("x")

        code = wal_files._reported(fail, 128)
        assert code == 128 + error.exit_code
        assert 126 <= code <= 255
        assert code != 143

    @pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), ImportError("x"), OSError(5, "x")])
    def test_of_a_fault_of_ours(self, error: Exception) -> None:
        def fail() -> None:
            raise error

        assert wal_files._reported(fail, 128) == 198

    def test_of_not_archived(self) -> None:
        def fail() -> None:
            raise ObjectMissing("x")

        assert wal_files._reported(fail, 128) == 97
        assert wal_files._reported(lambda: None, 128) == 0

    def test_of_the_command(self, archive: Archive, target: Path, tmp_path: Path) -> None:
        config = tmp_path / "pgproof.toml"
        text = f'[repositories.main]\nurl = "{archive.store.url}"\n[clusters.shop]\ndsn = ""\n'
        config.write_text(text)

        def code(name: str, path: Path = target, *options: str) -> int | None:
            return wal_files.main(["--config", str(config), *options, "wal", "fetch", name, str(path)])

        assert (code(NAME), target.stat().st_size) == (0, MB)
        assert code("000000010000000000000006") == 97
        assert code("00000002.history") == 97
        assert code("x") == 138
        assert code(NAME, target, "--cluster", "nobody") == 130
        assert code(NAME, tmp_path / "no" / "data" / "directory") == 128 + DestinationRefused.exit_code
        other = DataDirectory(tmp_path / "other", OTHER).wal / "RECOVERYXLOG"
        assert code(NAME, other) == 128 + NoBackup.exit_code  # nothing of it is here at all
        config.write_text(f"{text}system_identifier = {SYSTEM}\n")
        assert code(NAME, other) == 128 + WrongSystem.exit_code
        config.write_text(text.replace("/repository", "/unmounted"))
        assert code(NAME) == 158
        config.unlink()
        assert code(NAME) == 128 + ConfigError.exit_code

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_of_a_repository_that_cannot_be_looked_at(
        self, archive: Archive, target: Path, tmp_path: Path
    ) -> None:
        """Not to see is not "not archived"."""
        config = tmp_path / "pgproof.toml"
        config.write_text(f'[repositories.main]\nurl = "{archive.store.url}"\n[clusters.shop]\ndsn = ""\n')
        words = ["--config", str(config), "wal", "fetch", "000000010000000000000006", str(target)]
        wal = tmp_path / "repository" / "shop" / str(SYSTEM) / "wal"
        assert wal_files.main(words) == 97
        wal.chmod(0)
        try:
            assert wal_files.main(words) == 159
        finally:
            wal.chmod(0o700)

    def test_of_a_store_that_is_away(self, archive: Archive, target: Path) -> None:
        class Away:
            url = "s3://away"

            def head(self, key: str) -> None:
                raise StoreUnavailable("could not reach the store")

        away = Archive(
            type(archive.repository)(Away(), archive.repository.codec, "x"),  # type: ignore[arg-type]
            archive.layout,
        )
        assert wal_files._reported(lambda: fetch(away, NAME, target) and None, 128) == 205
