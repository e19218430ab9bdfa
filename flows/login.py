"""The login of a local Prefect: a random password in the state directory, for server, worker, commands and browser.

That a server listens on loopback alone keeps no other account of the machine away, and whoever may use its API runs
what he likes as the worker's account.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sys
from pathlib import Path

from pgproof.errors import ConfigError
from pgproof.private import make_private

SERVER, CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
LOCK = "up.lock"  # held by `pgproof up` while it runs; its content is the URL of the API
_FILE = "prefect-login"


def login_file(state: Path) -> Path:
    """Where the login of a state directory's Prefect is."""
    return state / _FILE


def read_login(state: Path) -> str:
    """The login, ``admin:PASSWORD``, as Prefect takes it; made at the first call.

    Args:
        state: the state directory; it is made private.

    Raises:
        ConfigError: the file is not ours, or others can read it; or it cannot be read.
    """
    path = login_file(state)
    try:
        make_private(state)
        if not path.exists():
            _make(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor) as file:
            found = os.fstat(file.fileno())
            content = file.read().strip()
    except OSError as error:
        raise ConfigError(f'cannot read the login "{path}"', f"{error.strerror}.", f"ls -l {path}") from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o077 or ":" not in content:
        raise ConfigError(
            f'the login "{path}" cannot be used',
            "It must be a line USER:PASSWORD that its owner alone can read: who knows it can run commands here.",
            f"rm {path}; the next pgproof up makes a new one",
        )
    return content


def _make(path: Path) -> None:
    """Write a new login beside its place, so that it is never there half; another process may be quicker."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(f"admin:{secrets.token_urlsafe(24)}\n")
        try:
            os.link(new, path)
        except FileExistsError:
            return
    finally:
        new.unlink()


def running_url(state: Path) -> str:
    """The URL of the API that `pgproof up` runs with a state directory now; empty when it does not run."""
    with contextlib.suppress(OSError), open(state / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().strip()
    return ""


def use_login(state: Path) -> None:
    """Let a command use the server that `pgproof up` runs, when the environment names that server and no login.

    Args:
        state: the state directory.

    Raises:
        ConfigError: the login cannot be read.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url or os.environ.get(CLIENT) or url.rstrip("/") != running_url(state):
        return
    os.environ[CLIENT] = read_login(state)
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def login_in_use() -> dict[str, str]:
    """The login that this process uses, as variable and value for another one; empty without one."""
    from prefect.settings import PREFECT_API_AUTH_STRING

    login = PREFECT_API_AUTH_STRING.value()
    return {CLIENT: login} if login else {}
