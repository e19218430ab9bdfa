"""A tool's program, run to its end: not installed, failed and ended well are told apart."""

from __future__ import annotations

import json
import pwd
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.errors import ProgramMissing, ToolFailed
from pgproof.postgres.programs import run

_CHARACTERS = 800  # of what a program said, in an error
RESTORE, ASK = 7 * 86400.0, 600.0  # seconds


@dataclass(frozen=True)
class Program:
    """One program of another tool.

    Args:
        name: as it is found on PATH.
        package: of Debian, for the hint.
        owner: account that runs it when we are root.
    """

    name: str
    package: str
    owner: pwd.struct_passwd | None = None

    def run(self, words: Sequence[str | Path], timeout: float = ASK) -> subprocess.CompletedProcess[str]:
        """Run it; the exit code is the caller's to judge.

        Raises:
            ProgramMissing: it is not installed.
            ToolFailed: it did not end in time.
        """
        try:
            return run([self.name, *words], timeout=timeout, owner=self.owner)
        except FileNotFoundError as error:
            raise ProgramMissing(
                f'program "{self.name}" is not installed here', hint=f"apt-get install {self.package}"
            ) from error
        except PermissionError as error:
            raise ToolFailed(f'cannot run program "{self.name}"', f"{error.strerror}.") from error
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(f"{self.name} did not end within {timeout:.0f} s") from error

    def ask(self, words: Sequence[str | Path], what: str) -> str:
        """What it answers.

        Args:
            words: after its name.
            what: it was asked for, such as "list its backups".

        Raises:
            ToolFailed: with its exit code and last lines.
        """
        done = self.run(words)
        if done.returncode != 0:
            raise self.failed(done, what)
        return done.stdout

    def ask_json(self, words: Sequence[str | Path], what: str) -> Any:
        """What it answers, as JSON.

        Raises:
            ToolFailed: it failed, or answered something else.
        """
        answer = self.ask(words, what)
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ToolFailed(
                f"{self.name} could not {what}", f"Its answer is not JSON: {answer.strip()[:200]}"
            ) from error

    def failed(self, done: subprocess.CompletedProcess[str], what: str) -> ToolFailed:
        """The error of a program that failed."""
        return ToolFailed(
            f"{self.name} could not {what}", f"It ended with exit code {done.returncode}: {said(done)}"
        )


def warnings_in(done: subprocess.CompletedProcess[str]) -> tuple[str, ...]:
    """The lines in which a tool that ended well warned of something."""
    lines = [line.strip() for text in (done.stderr, done.stdout) for line in text.split("\n")]
    return tuple(line for line in lines if re.search(r"\bWARN(ING)?\b", line))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a program said, errors before answers, in one line."""
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines()]
    return " | ".join(line for line in lines if line)[-_CHARACTERS:]
