"""A key names an artifact, and is the same in every run, so that each keeps its history."""

from __future__ import annotations


def key_for(cluster: str, noun: str) -> str:
    """An artifact key: lower-case letters, digits and dashes, as Prefect wants them.

    Args:
        cluster: its name.
        noun: what the artifact is about.
    """
    return f"pgproof-{cluster.replace('_', '--')}-{noun}"
