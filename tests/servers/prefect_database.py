"""Prefect's database for the tests' servers: its migrations run once, and their result is copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.servers.data import made_once


def place_database(home: Path) -> None:
    """Put an empty database where a server with this PREFECT_HOME keeps its own; one that is there stays.

    Args:
        home: the directory; it is made.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "prefect.db").exists():
        shutil.copyfile(made_once("prefect", _migrate) / "prefect.db", home / "prefect.db")


def _migrate(home: Path) -> None:
    home.mkdir()
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "HOME": str(home)}
    subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True, timeout=120)
