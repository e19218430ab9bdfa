"""Clusters that are kept in Prefect blocks: made in the UI, deployed without a pgproof.toml."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.server import server
from pgproof.config import ClusterConfig
from pgproof.errors import ConfigError

SLUG = "pgproof-cluster"


def reference(name: str) -> str:
    """What a flow of the cluster gets as ``config``."""
    return f"block:{SLUG}/{name}"


def register_blocks() -> list[str]:
    """Make our block types known to the server; their names.

    Raises:
        ConfigError: no Prefect server is named.
        AuthenticationFailed, TransientError: the server did not take them.
    """
    with server():
        from tasks.blocks import register

        return register()


@dataclass(frozen=True)
class BlockClusters:
    """The clusters of blocks, and why those that cannot be read are none, by name."""

    clusters: list[ClusterConfig] = field(default_factory=list)
    broken: dict[str, ConfigError] = field(default_factory=dict)


def block_clusters(name: str | None = None) -> BlockClusters:
    """The clusters of every block on the server, or of one; a broken block does not stop the others.

    Raises:
        ConfigError: the block of this name is broken, or there is none; or every block is broken.
    """
    from tasks.work import read_config

    found = BlockClusters()
    for one in [name] if name is not None else _names():
        try:
            found.clusters.append(read_config(reference(one)).cluster(one))
        except ConfigError as error:
            found.broken[one] = error
    if found.broken and not found.clusters:
        raise next(iter(found.broken.values()))
    return found


def _names() -> list[str]:
    with server() as client:
        found = client.read_block_documents_by_type(SLUG, include_secrets=False)
    return sorted(document.name for document in found if document.name and not document.is_anonymous)
