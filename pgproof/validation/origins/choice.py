"""A choice of origin: the one that ``--from`` names, with the cluster's configuration of it."""

from __future__ import annotations

import pwd
from typing import Literal, get_args

from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError, UsageError
from pgproof.validation.origins.barman import Barman
from pgproof.validation.origins.directory import Directory
from pgproof.validation.origins.origin import Origin
from pgproof.validation.origins.pgbackrest import PgBackRest

OriginKind = Literal["pgbackrest", "barman", "directory"]
KINDS: tuple[str, ...] = get_args(OriginKind)
_EXAMPLES = {
    "pgbackrest": 'name = "..."',
    "barman": 'server = "..."',
    "directory": 'backups = "/path" and wal = "/path"',
}


def open_origin(cluster: ClusterConfig, kind: str, owner: pwd.struct_passwd | None = None) -> Origin:
    """The origin of a kind.

    Args:
        cluster: its configuration.
        kind: of KINDS.
        owner: account that runs the tool when we are root.

    Raises:
        UsageError: there is no such kind.
        ConfigError: the cluster has no section for it.
    """
    if kind not in KINDS:
        raise UsageError(f'cannot drill backups from "{kind}"', f"--from takes: {', '.join(KINDS)}.")
    if kind == "pgbackrest" and cluster.pgbackrest is not None:
        return PgBackRest(cluster.pgbackrest, owner)
    if kind == "barman" and cluster.barman is not None:
        return Barman(cluster.barman, owner)
    if kind == "directory" and cluster.directory is not None:
        return Directory(cluster.directory, owner)
    raise ConfigError(
        f'cluster "{cluster.name}" says nothing of {kind}',
        hint=f"add a section [clusters.{cluster.name}.{kind}] with {_EXAMPLES[kind]}",
    )
