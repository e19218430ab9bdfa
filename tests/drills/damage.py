"""What happens to files: a flipped bit, a lost end; and what a tree holds, to see that nothing happened to it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path

from pgproof.cli import main
from tests.servers.postgres import Source


def flip_bit(path: Path, offset: int | None = None) -> None:
    """Alter one bit; in the middle unless told."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if offset is None else offset] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Lose the second half."""
    os.truncate(path, path.stat().st_size // 2)


def tree(directory: Path) -> dict[str, str]:
    """Every file below a directory with the hash of its content, and every directory."""
    return {
        str(path.relative_to(directory)): ""
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if not path.is_symlink()
    }


def assert_command_refused(source: Source, words: list[str], code: int, message: str) -> None:
    """The command ends with this exit code and this whole message, and answers nothing else."""
    done = source.run(*words)
    assert done.stderr == f"pgproof: {message}\n"
    assert (done.returncode, done.stdout) == (code, "")


def answer(source: Source, *words: str) -> tuple[int, str, str]:
    """Exit code, output and error output of a command in this process: a twentieth of the time of its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--config", str(source.config_path), *words])
    return code, out.getvalue(), err.getvalue()


def assert_refused(source: Source, words: list[str], code: int, message: str) -> None:
    """As ``assert_command_refused``, in this process."""
    exit_code, out, err = answer(source, *words)
    assert err == f"pgproof: {message}\n"
    assert (exit_code, out) == (code, "")
