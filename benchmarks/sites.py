"""Sites: a fresh place for every run of a tool, and its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.processes import end_leftovers
from benchmarks.tools.tool import Site, Tool
from benchmarks.workload import Workload


@contextmanager
def fresh(tool: Tool, workload: Workload, parent: Path) -> Iterator[Site]:
    """A tool set up with an empty repository, for the time of a block; nothing of it is left afterwards."""
    home = parent / tool.key
    shutil.rmtree(home, ignore_errors=True)
    site = Site(home, home / "spool", workload.data, workload)
    site.spool.mkdir(parents=True)
    try:
        tool.prepare(site)
        os.sync()
        yield site
    finally:
        end_leftovers(site.spool)
        shutil.rmtree(home)


@contextmanager
def recovering(site: Site, directory: Path) -> Iterator[Site]:
    """The same repository, seen from a copy of the cluster that is to recover, with a spool of its own."""
    shutil.rmtree(directory, ignore_errors=True)
    other = replace(site, spool=directory / "spool", data=directory / "data")
    other.spool.mkdir(parents=True)
    shutil.copytree(site.workload.base, other.data)
    try:
        os.sync()
        yield other
    finally:
        end_leftovers(other.spool)
        shutil.rmtree(directory)
