"""A stored file is one that a script kept: plain, or compressed as the end of its name says."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import shutil
import signal
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from pgproof.errors import ObjectDamaged, ProgramMissing
from pgproof.postgres.programs import ending_with_us, environment

SUFFIXES = ("", ".gz", ".zst", ".lz4", ".bz2", ".xz")
_FAULTS = (EOFError, gzip.BadGzipFile, lzma.LZMAError, tarfile.TarError, zlib.error, zstandard.ZstdError)


def find_stored(directory: Path, name: str) -> Path | None:
    """The file of this name in a directory, whichever way it is compressed."""
    for suffix in SUFFIXES:
        path = directory / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def plain_name(path: Path) -> str:
    """A name without what says how the file is compressed."""
    return path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES[1:] else path.name


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The content of a stored file, to be read from front to end in a block.

    Raises:
        ObjectDamaged: it is not what its name says, or it is cut short; also for a tar that is read in the block.
        ProgramMissing: it is compressed with lz4, and that is not installed.
    """
    try:
        with _open(path) as file:
            yield file
    except _FAULTS as error:
        raise ObjectDamaged(f'file "{path}" is damaged', f"{error}.") from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # bz2 says so of invalid data
            raise ObjectDamaged(f'file "{path}" is damaged', f"{error}.") from error
        raise


def copy_stored(path: Path, destination: Path) -> None:
    """Write the content of a stored file to a path.

    Raises:
        ObjectDamaged: as ``opened``.
    """
    with opened(path) as source, open(destination, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _open(path: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    openers |= {".zst": zstandard.open, ".lz4": _through_lz4}
    return cast(contextlib.AbstractContextManager[IO[bytes]], openers.get(path.suffix, open)(path, "rb"))


@contextlib.contextmanager
def _through_lz4(path: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        process = subprocess.Popen(
            ending_with_us(["lz4", "-dc", path], signal.SIGTERM),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
    except FileNotFoundError as error:
        raise ProgramMissing('program "lz4" is not installed here', hint="apt-get install lz4") from error
    with process:
        assert process.stdout is not None and process.stderr is not None
        try:
            yield process.stdout
            while process.stdout.read(1 << 20):  # its checksum is at the end
                pass
            message = process.stderr.read().decode(errors="replace").strip()
            if process.wait() != 0:
                raise ObjectDamaged(f'file "{path}" is damaged', f"lz4 says: {message[-300:]}")
        finally:
            if process.poll() is None:
                process.kill()


def size_of_files(directory: Path) -> int:
    """Bytes of all files below a directory; links are not followed."""
    return sum(
        path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink()
    )
