"""Another package under the name of one of ours: it is named, wherever ours is wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.packages import NAMES, installed, require_own
from tests.servers.postgres import PGPROOF, PROJECT

CONFIG = '[repositories.main]\nurl = "memory://x"\n[clusters.shop]\ndsn = "host=/nowhere"\n'
START = "import flows.reap"  # as a run of the flow begins
PULL = "from pgproof.packages import installed; installed()"


@pytest.fixture(params=[*NAMES, "tasks.py"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Somebody else's package or module."""
    path = tmp_path / "others" / str(request.param)
    file = path if path.suffix else path / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    return path


def run(foreign: Path, *words: str) -> subprocess.CompletedProcess[str]:
    config = foreign.parent.parent / "pgproof.toml"
    config.write_text(CONFIG)
    return subprocess.run(
        words,
        env=os.environ | {"PYTHONPATH": f"{foreign.parent}:{PROJECT}", "PGPROOF_CONFIG": str(config)},
        cwd="/",
        capture_output=True,
        text=True,
    )


def test_a_command_says_so(foreign: Path) -> None:
    done = run(foreign, *PGPROOF, "protect", "shop")
    name = foreign.stem
    assert (done.returncode, done.stderr) == (
        2,
        f'pgproof: package "{name}" is not that of pgproof\n'
        f'DETAIL: Python finds it in "{foreign}"; that of pgproof is "{PROJECT / name}".\n'
        "HINT: install pgproof into a virtual environment of its own, and run it without PYTHONPATH: "
        "python3 -m venv /opt/pgproof; /opt/pgproof/bin/pip install 'pgproof[prefect]'; "
        "env -u PYTHONPATH /opt/pgproof/bin/pgproof\n",
    )


def test_doctor_and_a_flow_say_so(foreign: Path) -> None:
    done = run(foreign, *PGPROOF, "doctor", "shop", "--json")
    (check,) = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "packages"]
    assert (check["ok"], check["blocks"]) == (False, "")
    assert check["fact"].startswith(
        f'package "{foreign.stem}" is not that of pgproof: Python finds it in "{foreign}"'
    )
    imported = f"import {foreign.stem}; {PULL}"  # by something that the run has begun with
    for script in (imported, START) if foreign.stem == "tasks" else (imported,):
        done = run(foreign, sys.executable, "-P", "-c", script)
        assert f'package "{foreign.stem}" is not that of pgproof' in done.stderr, script


def test_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    require_own()
    monkeypatch.chdir("/")
    assert installed() == {"directory": str(PROJECT)}
