"""``wal push`` and ``wal fetch``: what PostgreSQL calls for every file, so next to nothing is imported here.

The work is done by a background process (``wal_background``); this one waits for its answer in the spool, never
longer than the configuration allows. Where there is no spool, or no answer in two tries, it does the work itself.

Exit codes of push: 0 archived, else the error's own, below 126 so that the archiver asks again.
Exit codes of fetch: 0 fetched, 97 not archived, else the error's own plus 128 (never 143). Python itself ends with 1
when it cannot get as far as this module, so 1 is never said here: the shell that PostgreSQL starts for the
restore_command makes 1 of 97 alone (``pgproof.postgres.wal_commands``).
"""

from __future__ import annotations

import errno
import os
import sys
import time

from pgproof.errors import (
    FETCH_OFFSET,
    NOT_ARCHIVED,
    ConfigError,
    ObjectMissing,
    PgproofError,
    StoreUnavailable,
    WalNotArchived,
)
from pgproof.location import config_path
from pgproof.visible import visible
from pgproof.wal.background.spool import START_LIMIT, Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pgproof.config import ClusterConfig, Config
    from pgproof.repository.repository import Archive

    Found = TypeVar("Found")

_UNEXPECTED = 70  # EX_SOFTWARE
_FIRST_LIMIT = {"push": 60.0, "fetch": 600.0}  # seconds, until the background process says what is configured
_SHORTEST, _LONGEST = 0.001, 0.02  # seconds between two looks into the spool
_CHUNK = 1 << 20


class Answered(Exception):
    """The background process answered with a failure: its exit code and message."""


def main(arguments: list[str]) -> int | None:
    """Run ``[--config PATH] wal push|fetch ...``.

    Args:
        arguments: of the command line, without the program.

    Returns:
        the exit code; None when it is another command or its arguments are unusual (such as ``--help``).
    """
    options: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--config", "--cluster", "--own-tablespaces", "--planned"):
            if not equals and not rest:
                return None
            options[name] = value if equals else rest.pop(0)
        elif word.startswith("-"):
            return None
        else:
            words.append(word)
    if words[:2] == ["wal", "push"] and len(words) == 3:
        return _reported(lambda: _push(options, words[2]), 0)
    if words[:2] == ["wal", "fetch"] and len(words) == 4:
        return _reported(lambda: _fetch(options, words[2], words[3]), FETCH_OFFSET)
    return None


def _reported(action: Callable[[], None], offset: int) -> int:
    """Run an action; any error becomes a message in the server's log and an exit code."""
    try:
        action()
    except Answered as answer:
        code, message = answer.args
        _say(f"pgproof: {message}\n")
        return int(code)
    except PgproofError as error:
        _say(f"pgproof: {error}\n")
        if offset and isinstance(error, ObjectMissing):
            return NOT_ARCHIVED
        return offset + error.exit_code
    except BaseException as error:  # a fault of ours must never read as "not archived"
        _say(f"pgproof: unexpected error: {error!r}\n")
        return offset + _UNEXPECTED
    return 0


def _say(text: str) -> None:
    """Into the server's log; when that disk is full, or there is no log, the exit code still counts."""
    try:
        sys.stderr.write(visible(text))
    except (OSError, AttributeError, ValueError):
        pass


# ---- push


def _push(options: dict[str, str], text: str) -> None:
    path = os.path.abspath(text)
    directory, name = os.path.split(path)
    if os.path.exists(
        f"{directory}/archive_status/{name}.ready"
    ):  # the pusher does what is marked, and no more
        spool = _open_spool(os.path.dirname(directory), options)
        if spool is not None and _pushed_in_background(spool, path, name):
            return
    _push_here(options, path)


def _pushed_in_background(spool: Spool, path: str, name: str) -> bool:
    """Whether the pusher acknowledged the file; False when it cannot be had.

    Raises:
        Answered: it failed.
        WalNotArchived: the time is over.
    """
    try:
        wanted = spool.pushed_text(path)
        if spool.acknowledged(name, wanted):
            return True
        spool.forget("failed", name)  # of an earlier attempt; that it is gone asks for another
    except OSError:
        return False

    def look() -> bool | None:
        if spool.acknowledged(name, wanted):
            return True
        if failure := spool.failure("failed", name):
            raise Answered(*failure)
        return None

    late = WalNotArchived(
        f'WAL file "{name}" did not reach the archive within the time limit',
        "It is still being tried; PostgreSQL keeps the file and asks again.",
        f"{spool.path('push.log')} says what the pusher met; pgproof doctor looks at the repository",
    )
    return _wait(spool, "push", look, late) is not None


def _push_here(options: dict[str, str], text: str) -> None:
    from pathlib import Path

    from pgproof import config as configuration
    from pgproof.wal.push import push_everywhere, system_identifier_of

    path = Path(text)
    system = system_identifier_of(path)
    config = configuration.load(options.get("--config"))
    cluster = cluster_of(config, options.get("--cluster"), system)
    with _Deadline(cluster.wal.push_timeout, WalNotArchived.exit_code, f'WAL file "{path.name}"'):
        push_everywhere(openers(config, cluster, system).values(), path, cluster.wal.quorum)


# ---- fetch


def _fetch(options: dict[str, str], name: str, text: str) -> None:
    destination = os.path.abspath(text)
    data = os.path.dirname(os.path.dirname(destination))
    spool = _open_spool(data, options)
    if spool is not None and _fetched_in_background(spool, name, destination):
        return
    _fetch_here(options, name, destination)


def _fetched_in_background(spool: Spool, name: str, destination: str) -> bool:
    """Whether the prefetcher had the file or fetched it; False when it cannot be had.

    Raises:
        Answered: it could not be fetched, or is not archived.
        StoreUnavailable: the time is over.
    """
    if os.sep in name or name.startswith("."):
        return False
    try:
        with open(os.path.join(spool.data, "global", "pg_control"), "rb") as file:
            system = int.from_bytes(file.read(8), sys.byteorder)
        spooled = os.path.join(spool.for_recovery(system), name)
        if _moved(spooled, destination):
            return True
        spool.forget("refused", name)
        spool.ask(name)
    except OSError:
        return False

    def look() -> bool | None:
        if _moved(spooled, destination):
            return True
        if failure := spool.failure("refused", name):
            raise Answered(*failure)
        return None

    late = StoreUnavailable(
        f'could not fetch WAL file "{name}" within the time limit',
        hint=f"{spool.path('fetch.log')} says what the prefetcher met",
    )
    try:
        return _wait(spool, "fetch", look, late) is not None
    finally:
        spool.forget("wanted", name)


def _moved(spooled: str, destination: str) -> bool:
    """Whether a spooled file is now where recovery wants it; it appears there whole or not at all."""
    try:
        os.rename(spooled, destination)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return _copied(spooled, destination)  # the kernel says so of a file that is not there, too
    return True


def _copied(spooled: str, destination: str) -> bool:
    try:
        source = open(spooled, "rb")
    except FileNotFoundError:
        return False
    temporary = f"{destination}.pgproof-tmp"
    with source, open(temporary, "wb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
    os.rename(temporary, destination)
    os.unlink(spooled)
    return True


def _fetch_here(options: dict[str, str], name: str, text: str) -> None:
    from pathlib import Path

    from pgproof import config as configuration
    from pgproof.postgres.control import read_system_identifier
    from pgproof.wal.fetch import fetch_from
    from pgproof.wal.own_tablespaces import own_tablespaces_of
    from pgproof.wal.planned import planned_of

    path = Path(text)
    data = path.parent.parent
    own = own_tablespaces_of(data, options.get("--own-tablespaces", ""))
    planned = planned_of(data, options.get("--planned", ""))
    system = read_system_identifier(data)
    config = configuration.load(options.get("--config"))
    cluster = cluster_of(config, options.get("--cluster"), system)
    with _Deadline(
        cluster.wal.fetch_timeout, FETCH_OFFSET + StoreUnavailable.exit_code, f'WAL file "{name}"'
    ):
        again = openers(config, cluster, system, 0.8 * cluster.wal.fetch_timeout).values()
        fetch_from(openers(config, cluster, system).values(), name, path, own, planned, again)


# ---- both


def _open_spool(data: str, options: dict[str, str]) -> Spool | None:
    """The spool of a data directory; None where there can be none, or nothing is configured."""
    try:
        own, planned = options.get("--own-tablespaces", ""), options.get("--planned", "")
        spool = Spool(
            data, config_path(options.get("--config")), options.get("--cluster"), None, own, planned
        )
        spool.make()
    except OSError:
        return None
    return spool


def _wait(spool: Spool, kind: str, look: Callable[[], Found | None], late: PgproofError) -> Found | None:
    """Wait for an answer of the background process, and start it where none runs.

    Returns:
        the answer; None when the process was started twice and gave none.

    Raises:
        PgproofError: ``late``, when the time is over.
    """
    began, limit, pause, starts = time.monotonic(), _FIRST_LIMIT[kind], _SHORTEST, 0
    while (answer := look()) is None:
        try:
            lock = spool.try_lock(kind)
            if lock is None:
                settings, told = spool.holder(kind)
                limit = told or limit
                if settings and settings != spool.settings:
                    spool.ask_to_stop(kind)
            elif (answer := look()) is not None or starts == START_LIMIT:
                os.close(lock)
                return answer
            else:
                spool.start(kind, lock)
                starts += 1
        except OSError as error:
            _say(f"pgproof: no background process: {error}\n")
            return None
        if time.monotonic() - began > limit:
            raise late
        time.sleep(pause)
        pause = min(pause * 1.3, _LONGEST)
    return answer


class _Deadline:
    """End the process when a block takes too long: a store that hangs must never hang the server's archiver."""

    def __init__(self, seconds: float, code: int, what: str) -> None:
        import threading

        self._code, self._what, self._seconds = code, what, seconds
        self._timer = threading.Timer(seconds, self._over)
        self._timer.daemon = True

    def _over(self) -> None:
        _say(f"pgproof: {self._what} took more than {self._seconds:.0f} s\n")
        os._exit(self._code)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def openers(
    config: Config, cluster: ClusterConfig, system_identifier: int, patience: float = 0
) -> dict[str, Callable[[], Archive]]:
    """What opens each repository that gets a cluster's WAL, by name, the cluster's own first.

    Args:
        config, cluster, system_identifier: of the WAL.
        patience: seconds for which a request is tried again at most; none by default, as PostgreSQL asks again.
    """
    from pgproof.repository.repository import open_repository

    def opener(repository: str) -> Callable[[], Archive]:
        settings = config.repositories[repository]
        settings = settings.model_copy(update={"patience": min(settings.patience, patience)})
        return lambda: open_repository(settings).archive(cluster.name, system_identifier)

    return {name: opener(name) for name in (cluster.repository, *cluster.copies)}


def cluster_of(config: Config, name: str | None, system_identifier: int) -> ClusterConfig:
    """The configured cluster that a system identifier belongs to.

    Args:
        config: the configuration.
        name: when ``--cluster`` gave one.
        system_identifier: of the WAL or the data directory.

    Raises:
        ConfigError: no cluster fits, or several could.
        WrongSystem: the named one has another system identifier.
    """
    from pgproof.repository.repository import check_system

    if name is None:
        for cluster in config.clusters.values():
            if cluster.system_identifier == system_identifier:
                return cluster
    try:
        cluster = config.cluster(name)
    except ConfigError as error:
        raise ConfigError(
            f"no cluster with system identifier {system_identifier} is configured",
            error.detail,
            f"set system_identifier = {system_identifier} in its section, or name it with --cluster",
        ) from error
    check_system(cluster.system_identifier, system_identifier, "this WAL")
    return cluster
