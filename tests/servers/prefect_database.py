"""Prefect's database for the tests' servers: migrated and with its block types once, and that is copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.servers.data import made_once

# Of a server whose database is a copy: it does not look for the block types again, which takes more than a CPU second
REGISTERED = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
# What a server does with a new database before it listens
_MAKE = """
import asyncio
from prefect.plugins import load_prefect_collections
from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration

async def make():
    database = provide_database_interface()
    await database.create_db()
    load_prefect_collections()
    async with await database.session() as session:
        await run_block_auto_registration(session=session)

asyncio.run(make())
"""


def place_database(home: Path) -> None:
    """Put an empty database where a server with this PREFECT_HOME keeps its own; one that is there stays.

    Args:
        home: the directory; it is made.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "prefect.db").exists():
        shutil.copyfile(made_once("prefect", _make) / "prefect.db", home / "prefect.db")


def _make(home: Path) -> None:
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "HOME": str(home)}
    command = [sys.executable, "-c", _MAKE]
    subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True, timeout=120)
