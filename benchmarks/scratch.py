"""Scratch: the directory of a run, and the unprivileged account that owns it."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import run

PYTHON = Path("/usr/bin/python3")


def make(given: Path | None, owner: pwd.struct_passwd | None) -> Path:
    """The scratch directory, made when it is not there, and given to the account.

    Raises:
        BenchmarkError: its path has a character that a shell or PostgreSQL would read as something else.
    """
    directory = (
        Path(tempfile.mkdtemp(prefix="pgproof-bench-", dir="/var/tmp")) if given is None else given.absolute()
    )
    if not all(character.isalnum() or character in "/-_." for character in str(directory)):
        raise BenchmarkError(f"{directory} has a character that would have to be quoted; choose another path")
    directory.mkdir(parents=True, exist_ok=True)
    if owner is not None:
        directory.chmod(0o755)
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    return directory


def install(tree: Path, scratch: Path) -> Path:
    """Install a tree as a database host does: not editable, without Prefect, with the pinned dependencies.

    Root makes it with the system's Python, because the archiver's account must be able to run it.

    Returns:
        the program.
    """
    venv = scratch / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    near = Path(sys.executable).parent / "uv"
    uv = str(near) if near.exists() else shutil.which("uv")
    if uv is None:
        raise BenchmarkError("uv is not installed; make setup installs it")
    python = PYTHON if PYTHON.exists() else Path(sys.executable)
    run([uv, "venv", "-q", "--python", python, venv])
    pins = scratch / "pins.txt"
    pins.write_text(_pins(tree / "requirements.lock"))
    # compiled now, as pip does: the account that runs it cannot write the byte code
    run([uv, "pip", "install", "-q", "--compile-bytecode", "--python", venv / "bin/python", "-c", pins, tree])
    return venv / "bin" / "pgproof"


def _pins(lock: Path) -> str:
    """The versions of a lock file, without its hashes, which a constraint file cannot have."""
    if not lock.exists():
        return ""
    lines = lock.read_text().splitlines()
    return "".join(
        line.removesuffix("\\").rstrip() + "\n" for line in lines if "==" in line and line[0] not in " #"
    )


def run_as(owner: pwd.struct_passwd | None, home: Path, action: Callable[[], int]) -> int:
    """Run an action in a child process that has dropped root for an account; in this one when we are not root.

    PostgreSQL refuses to run as root, and everything that is measured shall belong to one account.
    """
    if owner is None:
        home.mkdir(exist_ok=True)
        os.environ["HOME"] = str(home)
        return action()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setgroups([])
            os.setgid(owner.pw_gid)
            os.setuid(owner.pw_uid)
            os.umask(0o077)
            home.mkdir(exist_ok=True)
            os.chdir(home)  # where we were may be closed to the account
            os.environ["HOME"] = str(home)
            os.environ["USER"] = os.environ["LOGNAME"] = owner.pw_name
            code = action()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
