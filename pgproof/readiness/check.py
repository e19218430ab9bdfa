"""A check is one question about readiness with its answer: a fact, and the mend when the fact is a bad one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from pgproof.config import ClusterConfig, Config, RepositoryConfig
from pgproof.errors import PermanentError, PgproofError
from pgproof.postgres.facts import ServerFacts
from pgproof.readiness.source import Source
from pgproof.repository.repository import Archive, Repository

Blocks = Literal["backup", "restore", "proof", ""]


@dataclass(frozen=True, slots=True)
class Check:
    """One answer.

    Args:
        name: what was looked at.
        ok: whether it is as it should be; None when nobody could look.
        blocks: what a bad answer stops; empty for advice, which stops nothing.
        fact: what was found, one line.
        mend: what to do about it, best a line to paste; empty when all is well.
    """

    name: str
    ok: bool | None
    blocks: Blocks
    fact: str
    mend: str = ""

    @property
    def state(self) -> str:
        """One word for a table: ok, unknown, advice, or what is stopped."""
        if self.ok:
            return "ok"
        if self.ok is None:
            return "unknown"
        return f"stops {self.blocks}" if self.blocks else "advice"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "blocks": self.blocks,
            "fact": self.fact,
            "mend": self.mend,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question found; ``blocks`` where it is another than the question's own."""

    ok: bool | None
    fact: str
    mend: str = ""
    blocks: Blocks | None = None


class CannotLook(Exception):
    """A question rests on something that could not be opened; never leaves this package."""


@dataclass(frozen=True)
class Subject:
    """What the questions are asked about.

    Args:
        cluster, config: as configured.
        found_source: the source, or why it could not be looked at.
        found_repository: the repository, or why it could not be opened.
        now: seconds since the epoch.
    """

    cluster: ClusterConfig
    config: Config
    found_source: Source | PgproofError
    found_repository: Repository | PgproofError
    now: float

    @property
    def source(self) -> Source:
        if isinstance(self.found_source, PgproofError):
            raise CannotLook("there is no connection to the server")
        return self.found_source

    @property
    def facts(self) -> ServerFacts:
        return self.source.facts

    @property
    def repository(self) -> Repository:
        if isinstance(self.found_repository, PgproofError):
            raise CannotLook("the repository is not open")
        return self.found_repository

    @property
    def repository_config(self) -> RepositoryConfig:
        return self.config.repository_of(self.cluster)

    @property
    def system_identifier(self) -> int:
        """The configured one, else the server's own."""
        configured = self.cluster.system_identifier
        return self.facts.system_identifier if configured is None else configured

    @property
    def archive(self) -> Archive:
        return self.repository.archive(self.cluster.name, self.system_identifier)


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        name: of the check it becomes.
        blocks: what a bad answer stops.
        answer: looks, and may raise.
    """

    name: str
    blocks: Blocks
    answer: Callable[[Subject], Answer]

    def ask(self, subject: Subject) -> Check:
        """Ask, and turn whatever is raised into an answer."""
        try:
            answer = self.answer(subject)
        except CannotLook as error:
            answer = Answer(None, f"could not look: {error}")
        except PgproofError as error:
            answer = answer_of(error)
        except (OSError, psycopg.Error) as error:
            answer = Answer(None, f"could not look: {one_line(str(error))}")
        blocks = self.blocks if answer.blocks is None else answer.blocks
        return Check(self.name, answer.ok, blocks, answer.fact, answer.mend)


def answer_of(error: PgproofError) -> Answer:
    """An error as an answer: a permanent one is a finding, a passing one may hide anything."""
    fact = f"{error.fact}: {one_line(error.detail).rstrip('.')}" if error.detail else error.fact
    return Answer(False if isinstance(error, PermanentError) else None, fact, error.hint)


def one_line(text: str) -> str:
    """Text of a program or a server on one line."""
    return " ".join(text.split())
