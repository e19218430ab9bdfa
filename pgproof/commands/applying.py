"""Applying: the missing steps of a source run one by one, each with what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import psycopg
from psycopg import sql

from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.grants import RELOAD, Step
from pgproof.secret import resolve_secret

State = Literal["to do", "done", "needs restart", "failed", "left out"]
_PASSWORD = "\\password "
_RELOAD_LIMIT = 3.0  # seconds until a reload must show


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step, and what became of it; ``detail`` says why where that is not plain."""

    step: Step
    state: State
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**self.step.as_dict(), "state": self.state, "detail": self.detail}


def show_steps(steps: Iterable[Step]) -> tuple[StepResult, ...]:
    """The steps, none of them run."""
    return tuple(StepResult(step, "to do") for step in steps)


def waiting_steps(steps: Iterable[Step]) -> tuple[StepResult, ...]:
    """Steps that were run before, and wait for a restart."""
    return tuple(StepResult(step, "needs restart", "changed before") for step in steps)


def apply_steps(
    administrator: ClusterConfig, role: str, steps: Iterable[Step], password: str | None, optional: bool
) -> tuple[StepResult, ...]:
    """Run steps one by one; one that fails does not keep the others from being tried.

    Args:
        administrator: whose connection may run them, into the database that pgproof will use.
        role: whose password is set.
        steps: to run.
        password: the reference of the role's password; it is hashed here, as psql's ``\\password`` does.
        optional: run the optional ones too.

    Raises:
        ServerUnreachable, AuthenticationFailed: nothing was run.
    """
    with connect(administrator) as connection:
        results = []
        for step in steps:
            if step.sql.startswith(_PASSWORD):
                results.append(_set_password(connection, role, step, password))
            elif step.optional and not optional:
                results.append(StepResult(step, "left out", "optional"))
            else:
                results.append(_run(connection, step))
        if any(result.step.setting for result in results if _worked(result)):
            return _reload(connection, results)
        return tuple(results)


def _worked(result: StepResult) -> bool:
    return result.state in ("done", "needs restart")


def _run(connection: psycopg.Connection, step: Step) -> StepResult:
    try:
        connection.execute(step.sql.encode())
    except psycopg.Error as error:
        return StepResult(step, "failed", _one_line(error))
    return StepResult(step, "needs restart" if step.needs_restart else "done")


def _set_password(connection: psycopg.Connection, role: str, step: Step, reference: str | None) -> StepResult:
    if reference is None:
        return StepResult(step, "left out", "no password was given; type it into psql")
    try:
        secret = resolve_secret(reference).get_secret_value()
        hashed = connection.pgconn.encrypt_password(secret.encode(), role.encode(), b"scram-sha-256")
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
        connection.execute(statement.format(sql.Identifier(role), sql.Literal(hashed.decode())))
    except (PgproofError, psycopg.Error) as error:
        return StepResult(step, "failed", _one_line(error))
    return StepResult(step, "done", f"from {reference}")


def _reload(connection: psycopg.Connection, results: list[StepResult]) -> tuple[StepResult, ...]:
    """Reload, and see that the server takes every setting: its command line or another tool may override."""
    try:
        connection.execute(RELOAD.encode())
    except psycopg.Error as error:
        reason = f"set, but not reloaded: {_one_line(error)}"
        return tuple(replace(r, state="failed", detail=reason) if r.step.setting else r for r in results)
    names = {r.step.setting for r in results if _worked(r) and r.step.setting}
    ignored = _ignored(connection, names)
    return tuple(_checked(result, ignored) for result in results)


def _checked(result: StepResult, ignored: dict[str, str]) -> StepResult:
    source = ignored.get(result.step.setting) if _worked(result) else None
    if source is None:
        return result
    return replace(result, state="failed", detail=f"the server keeps the value of its {source}")


def _ignored(connection: psycopg.Connection, names: set[str]) -> dict[str, str]:
    """Settings that did not come from postgresql.auto.conf after a reload, and where they come from."""
    end = time.monotonic() + _RELOAD_LIMIT
    while True:
        rows: list[Any] = connection.execute(
            """SELECT name, source FROM pg_settings
                WHERE name = ANY(%s) AND NOT pending_restart
                  AND (source <> 'configuration file' OR sourcefile NOT LIKE '%%/postgresql.auto.conf')""",
            (sorted(names),),
        ).fetchall()
        if not rows or time.monotonic() > end:
            return dict(rows)
        time.sleep(0.05)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
