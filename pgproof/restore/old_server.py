"""The old server is the one whose place a restored cluster takes: it must be down before the other acts as it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError, DestinationRefused, OldServerRuns, PgproofError, ServerUnreachable
from pgproof.postgres.connection import connect, display_dsn
from pgproof.postgres.control import read_system_identifier
from pgproof.postgres.lock_file import RunningServer, running_everywhere
from pgproof.restore.record import read_record
from pgproof.restore.restored import RestoredCluster


def refuse_others(restored: RestoredCluster) -> None:
    """Refuse while another server of the same cluster writes on this machine.

    Standbys do not write, and other restored clusters are isolated.
    """
    for server in running_everywhere():
        if _same(server, restored):
            raise OldServerRuns(
                f'cannot accept "{restored.data}": the old server runs',
                f"Process {server.pid} serves the same cluster in {server.data}.",
                f"stop it for good: {restored.bin_directory / 'pg_ctl'} -D {server.data} stop; "
                "or by what started it, such as systemctl",
            )


def _same(server: RunningServer, restored: RestoredCluster) -> bool:
    """Whether it writes for the same cluster: no standby, and not isolated itself."""
    try:
        if (server.data / "standby.signal").exists() or _isolated(server.data):
            return False
        identifier = read_system_identifier(server.data)
        return identifier == restored.record.system_identifier and not server.data.samefile(restored.data)
    except (DestinationRefused, OSError):
        return False


def _isolated(data: Path) -> bool:
    try:
        return read_record(data).isolated
    except DestinationRefused:
        return False


def ask_old_server(restored: RestoredCluster, cluster: ClusterConfig | None) -> str:
    """The caution that is left when the server at the DSN was asked.

    Raises:
        OldServerRuns: it answers.
    """
    stays = "be sure that it is down and stays down: two servers must not act as one"
    if cluster is None:
        return f"no pgproof.toml says where the old server is; {stays}"
    shown = display_dsn(cluster.dsn)
    try:
        with connect(cluster) as connection:
            row: Any = connection.execute(
                "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery()"
            ).fetchone()
    except ConfigError as error:
        return f"the old server was not asked: {error.fact}; {stays}"
    except PgproofError as error:
        if isinstance(error, ServerUnreachable) and "FATAL:" not in error.detail:
            return f'the old server does not answer at "{shown}"; {stays}'
        raise OldServerRuns(
            f'cannot accept "{restored.data}": a server answers at "{shown}", and does not let us ask which it is',
            error.detail,
            "stop it for good, or let pgproof log in: it may be the old server, and two must not act as one",
        ) from error
    if row[0] % (1 << 64) != restored.record.system_identifier:
        return f'at "{shown}" another cluster answers; {stays}'
    if row[1]:
        return f'at "{shown}" a standby of the same cluster answers; it will not follow this one by itself'
    raise OldServerRuns(
        f'cannot accept "{restored.data}": the old server runs',
        f'It answers at "{shown}", and is open for writing.',
        "stop it for good; to keep both, leave this one isolated: SELECT pg_promote() opens it for writing",
    )
