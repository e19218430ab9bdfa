"""Files that a script kept: each compression comes back as it was, and damage is said."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pgproof.errors import ObjectDamaged, ProgramMissing
from pgproof.validation.origins.stored import SUFFIXES, copy_stored, find_stored, plain_name
from tests.drills.damage import truncate

CONTENT = random.Random(7).randbytes(300_000) + bytes(700_000)


def lz4(content: bytes) -> bytes:
    if not shutil.which("lz4"):
        pytest.skip("lz4 is not installed")
    return subprocess.run(["lz4", "-q", "-c"], input=content, capture_output=True, check=True).stdout


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".lz4": lz4,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def stored(directory: Path, suffix: str) -> Path:
    path = directory / f"000000010000000000000001{suffix}"
    path.write_bytes(COMPRESS[suffix](CONTENT))
    return path


def test_every_suffix_is_tried() -> None:
    assert tuple(COMPRESS) == SUFFIXES


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_stored_comes_back(tmp_path: Path, suffix: str) -> None:
    path = stored(tmp_path, suffix)
    assert find_stored(tmp_path, "000000010000000000000001") == path
    assert find_stored(tmp_path, "00000001000000000000000") is None
    assert plain_name(path) == "000000010000000000000001"
    copy_stored(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix not in ("", ".zst")])
def test_a_file_that_lost_its_end_is_damaged(tmp_path: Path, suffix: str) -> None:
    path = stored(tmp_path, suffix)
    truncate(path)
    with pytest.raises(ObjectDamaged) as caught:
        copy_stored(path, tmp_path / "copy")
    assert caught.value.fact == f'file "{path}" is damaged'


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_file_that_is_something_else_is_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"this is no compressed file at all, whatever its name says")
    with pytest.raises(ObjectDamaged) as caught:
        copy_stored(path, tmp_path / "copy")
    assert caught.value.fact == f'file "{path}" is damaged'


def test_without_lz4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, ".lz4")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing) as caught:
        copy_stored(path, tmp_path / "copy")
    assert str(caught.value) == 'program "lz4" is not installed here\nHINT: apt-get install lz4'
