"""Watching the programs that this process starts: their command lines, which all accounts see, and environments."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MARK = "WATCHED_BY_A_TEST"
_LOOKS = 5  # at each process: it becomes another program after its start
_PAUSE = 0.01  # seconds


@dataclass
class Seen:
    """What was seen.

    Args:
        commands: every command line.
        environments: every environment, with the command line of its process.
    """

    commands: set[str] = field(default_factory=set)
    environments: set[tuple[str, str]] = field(default_factory=set)


@contextlib.contextmanager
def watching() -> Iterator[Seen]:
    """Look at every program that is started during a block, by whatever thread."""
    seen, stop, looks = Seen(), threading.Event(), dict[str, int]()
    mark = os.environ[MARK] = uuid.uuid4().hex
    known = {name for name in os.listdir("/proc") if name.isdigit()}

    def look() -> None:
        while not stop.wait(_PAUSE):
            for name in os.listdir("/proc"):
                if name.isdigit() and name not in known and looks.setdefault(name, _LOOKS):
                    looks[name] -= 1
                    with contextlib.suppress(OSError):
                        environment = Path(f"/proc/{name}/environ").read_bytes().decode(errors="replace")
                        command = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
                        if f"{MARK}={mark}" in environment:
                            seen.commands.add(command.replace("\0", " "))
                            seen.environments.add((command.replace("\0", " "), environment))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        del os.environ[MARK]
