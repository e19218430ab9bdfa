"""``wal push`` and ``wal fetch``: what PostgreSQL calls for every segment, so little is imported here.

Exit codes of push: 0 archived, else the error's own, below 126 so that the archiver asks again.
Exit codes of fetch: 0 fetched, 1 not archived, else the error's own plus 128, so that recovery stops rather than
takes a passing fault for the end of WAL (``RestoreArchivedFile``: over 125 ends recovery; never 143).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pgproof.errors import ConfigError, ObjectMissing, PgproofError

if TYPE_CHECKING:
    from pgproof.config import ClusterConfig, Config

_FETCH_OFFSET = 128
_UNEXPECTED = 70  # EX_SOFTWARE


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
        if name in ("--config", "--cluster"):
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
        return _reported(lambda: _fetch(options, words[2], words[3]), _FETCH_OFFSET)
    return None


def _reported(action: Callable[[], None], offset: int) -> int:
    """Run an action; any error becomes a message in the server's log and an exit code."""
    try:
        action()
    except PgproofError as error:
        _say(f"pgproof: {error}\n")
        if offset and isinstance(error, ObjectMissing):
            return 1
        return offset + error.exit_code
    except BaseException as error:  # a fault of ours must never read as "not archived" (a bare exit is 1)
        _say(f"pgproof: unexpected error: {error!r}\n")
        return offset + _UNEXPECTED
    return 0


def _say(text: str) -> None:
    """Into the server's log; when that disk is full, or there is no log, the exit code still counts."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        sys.stderr.write(text)


def _push(options: dict[str, str], text: str) -> None:
    from pgproof import config as configuration
    from pgproof.repository.repository import open_repository
    from pgproof.wal.push import push, system_identifier_of

    path = Path(text).absolute()
    system = system_identifier_of(path)
    config = configuration.load(options.get("--config"))
    cluster = cluster_of(config, options.get("--cluster"), system)
    repository = open_repository(config.repository_of(cluster))
    push(repository.archive(cluster.name, system), path)


def _fetch(options: dict[str, str], name: str, destination: str) -> None:
    from pgproof import config as configuration
    from pgproof.postgres.control import read_system_identifier
    from pgproof.repository.repository import open_repository
    from pgproof.wal.fetch import fetch

    path = Path(destination).absolute()
    system = read_system_identifier(path.parent.parent)
    config = configuration.load(options.get("--config"))
    cluster = cluster_of(config, options.get("--cluster"), system)
    repository = open_repository(config.repository_of(cluster))
    fetch(repository.archive(cluster.name, system), name, path)


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
