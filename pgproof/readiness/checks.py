"""Checks: every question about a cluster's readiness, asked in the order in which the answers depend."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pgproof.config import ClusterConfig, Config
from pgproof.errors import PgproofError
from pgproof.readiness import archiving, configuration, host, proofs, receiving, recovery, role, server, store
from pgproof.readiness.check import Check, Subject
from pgproof.readiness.source import look_at_source
from pgproof.repository.credentials import Credentials
from pgproof.repository.opening import impatient
from pgproof.repository.repository import open_repository

__all__ = ["QUESTIONS", "Check", "examine", "stopped"]

QUESTIONS = (
    *server.QUESTIONS,
    *role.QUESTIONS,
    *configuration.QUESTIONS,
    *store.QUESTIONS,
    *archiving.QUESTIONS,
    *receiving.QUESTIONS,
    *recovery.QUESTIONS,
    *host.QUESTIONS,
    *proofs.QUESTIONS,
)

Found = TypeVar("Found")


def examine(
    cluster: ClusterConfig,
    config: Config,
    credentials: Credentials | None = None,
    clock: Callable[[], float] = time.time,
) -> list[Check]:
    """Ask every question; whatever is found is an answer, and nothing is raised.

    The same checks come back in the same order each time. Nothing stays changed: one object is written to the
    repository and removed again.

    Args:
        cluster: to ask about.
        config: that it is part of.
        credentials: of the repository, where they come from a block.
        clock: of this machine, seconds since the epoch.
    """
    subject = Subject(
        cluster,
        config,
        found_source=_found(lambda: look_at_source(cluster, clock)),
        found_repository=_found(
            lambda: open_repository(impatient(config.repository_of(cluster)), credentials)
        ),
        now=clock(),
    )
    return [question.ask(subject) for question in QUESTIONS]


def stopped(checks: list[Check]) -> tuple[str, ...]:
    """What the bad answers stop, such as ``("backup", "proof")``; empty when nothing is stopped.

    What stops a backup stops a proof of newer data too, but not a proof or a restore of what is stored.
    """
    found = {check.blocks for check in checks if check.ok is False}
    return tuple(name for name in ("backup", "restore", "proof") if name in found)


def _found(look: Callable[[], Found]) -> Found | PgproofError:
    try:
        return look()
    except PgproofError as error:
        return error
