"""The options before the command."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from pgproof import __version__
from pgproof.cli import main


@pytest.mark.parametrize("words", [["--version"], ["--config", "/nowhere/pgproof.toml", "--version"]])
def test_the_version_needs_no_command_and_no_configuration(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert capsys.readouterr() == (f"pgproof {__version__}\n", "")


def test_the_package_has_the_version_that_the_command_shows() -> None:
    assert version("pgproof") == __version__
