"""How this pgproof is started again by somebody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.postgres.programs import running_program


def test_the_console_script_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "pgproof"
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", ["./pgproof"])
    monkeypatch.chdir(tmp_path)
    assert running_program() == (str(script),)


def test_a_module_that_is_not_installed_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["-m"])
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # no script beside it
    words = running_program()
    package = Path(__file__).resolve().parents[2]
    assert words[1:] == (f"PYTHONPATH={package}", str(tmp_path / "python"), "-P", "-m", "pgproof.cli")
    (tmp_path / "pgproof.py").write_text("raise SystemExit('the wrong pgproof')")
    command = [word.replace(str(tmp_path / "python"), python) for word in words]
    done = subprocess.run(
        [*command, "wal", "push", "nothing"], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert done.returncode == 10
    assert done.stderr.startswith('pgproof: "nothing" is not a file that PostgreSQL archives')
