"""A database host, which has the engine alone: commands of the layers above say what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.postgres import PROJECT

# what `pip install .` does not bring: importing it raises ModuleNotFoundError
WITHOUT = """
import sys
for name in ("prefect", "yaml", "pandas", "httpx"):
    sys.modules[name] = None
from pgproof.cli import main
sys.exit(main(sys.argv[1:]))
"""


def engine(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path.write_text('[repositories.main]\nurl = "memory://x"\n[clusters.shop]\ndsn = "host=/nowhere"\n')
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, "--config", str(path), *words],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "HOME": str(path.parent)},
        cwd=path.parent,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "lacks"),
    [
        (("protect", "shop"), "prefect"),
        (("protect", "shop", "--json"), "prefect"),
        (("deploy", "shop", "--prune"), "yaml"),
        (("alerts", "apply", "shop", "--webhook", "http://x"), "yaml"),
        (("up", "--port", "4300"), "yaml"),
    ],
)
def test_a_command_that_needs_prefect_says_so(tmp_path: Path, words: tuple[str, ...], lacks: str) -> None:
    done = engine(tmp_path / "pgproof.toml", *words)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"pgproof: pgproof {words[0]} needs Prefect, which is not installed here\n"
        f"DETAIL: import of {lacks} halted; None in sys.modules.\n"
        "HINT: pip install 'pgproof[prefect]'\n"
    )


def test_the_engine_works_without_it(tmp_path: Path) -> None:
    done = engine(tmp_path / "pgproof.toml", "list", "shop")
    assert (done.returncode, done.stderr.partition("\n")[0]) == (
        30,
        'pgproof: there is no repository at "memory://x"',
    )
    help_text = engine(tmp_path / "pgproof.toml", "--help")
    assert help_text.returncode == 0 and "Needs pgproof[prefect]." in help_text.stdout
