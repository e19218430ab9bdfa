"""Scratch: the directory of a run, and the unprivileged account that owns it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from benchmarks.errors import BenchmarkError
from benchmarks.processes import run

PYTHON = Path("/usr/bin/python3")
_PR_SET_PDEATHSIG = 1
_MARK = ".pgproof-benchmark"  # in directories that may be emptied


def make(given: Path | None, owner: pwd.struct_passwd | None, room: int) -> Path:
    """The scratch directory, made when it is not there, and given to the account.

    Args:
        given: where; a new directory below /var/tmp when it is None.
        owner: the account, when we are root.
        room: bytes that must be free.

    Raises:
        BenchmarkError: its path has a character that a shell or PostgreSQL would read as something else, it
            holds what is not ours, another run uses it, or there is too little room.
    """
    directory = (
        Path(tempfile.mkdtemp(prefix="pgproof-bench-", dir="/var/tmp")) if given is None else given.absolute()
    )
    if not all(character.isalnum() or character in "/-_." for character in str(directory)):
        raise BenchmarkError(f"{directory} has a character that would have to be quoted; choose another path")
    directory.mkdir(parents=True, exist_ok=True)
    mark = directory / _MARK
    if any(directory.iterdir()) and not mark.exists():
        raise BenchmarkError(f"{directory} is not empty and no benchmark made it; name an empty or new one")
    _lock(mark)
    free = shutil.disk_usage(directory).free
    if free < room:
        raise BenchmarkError(f"{directory} has {free >> 30} GB free, and {room >> 30} GB are needed")
    if owner is not None:
        directory.chmod(0o755)
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    return directory


def _lock(mark: Path) -> None:
    """Hold the directory for this run; the child has the same open file, so that it holds it as long as it lives."""
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BenchmarkError(f"{mark.parent} is used by another run") from None


def clear(directory: Path) -> None:
    """Remove the scratch directory; another than ours is never touched."""
    if (directory / _MARK).exists():
        shutil.rmtree(directory)


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
        _become(owner, home, action)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except KeyboardInterrupt:  # the child stops its server first, which needs its files
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise


def _become(owner: pwd.struct_passwd, home: Path, action: Callable[[], int]) -> NoReturn:
    code = 70  # EX_SOFTWARE
    try:
        os.setgroups([])
        os.setgid(owner.pw_gid)
        os.setuid(owner.pw_uid)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's background job ignores it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)  # after setuid, which would forget it
        os.umask(0o077)
        home.mkdir(exist_ok=True)
        os.chdir(home)  # where we were may be closed to the account
        os.environ |= {"HOME": str(home), "USER": owner.pw_name, "LOGNAME": owner.pw_name}
        code = action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
