"""Clusters that are kept in Prefect blocks: made in the UI, deployed without a pgproof.toml."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.server import server
from pgproof.config import ClusterConfig

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


def block_clusters(name: str | None = None) -> list[ClusterConfig]:
    """The clusters of every block on the server, or of one.

    Raises:
        ConfigError: a value of a block is wrong, or there is none of this name.
    """
    from tasks.work import read_config

    names: Sequence[str] = [name] if name is not None else _names()
    return [read_config(reference(one)).cluster(one) for one in names]


def _names() -> list[str]:
    with server() as client:
        found = client.read_block_documents_by_type(SLUG, include_secrets=False)
    return sorted(document.name for document in found if document.name and not document.is_anonymous)
