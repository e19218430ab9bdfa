"""Answers of the command, run in this process against the server of the tests."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from pgproof.cli import main


def answer(config: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, output and error output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--config", str(config), *words])
    return code, out.getvalue(), err.getvalue()


def done(config: Path, *words: str) -> str:
    """The output of a command that ends well."""
    code, out, err = answer(config, *words)
    assert (code, err) == (0, "")
    return out


def raw_automations(client: Any) -> list[dict[str, Any]]:
    """Every automation as the server has it."""
    found: list[dict[str, Any]] = client.request("POST", "/automations/filter", json={"limit": 200}).json()
    return found
