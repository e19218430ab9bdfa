"""The machine: what a table of measurements must say about where it was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def describe(scratch: Path) -> list[tuple[str, str]]:
    """Facts about the machine, as label and value."""
    return [
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"),
        ("disk", _disk(scratch)),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("system", _system()),
        ("load when it began", " ".join(f"{load:.2f}" for load in os.getloadavg())),
    ]


def first_line(*words: str | Path) -> str:
    """What a program says about its version; empty when it is not installed."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[0] if text else ""


def revision(tree: Path) -> str:
    """The commit of a tree, and whether it had changes that are not committed."""
    commit = first_line("git", "-C", tree, "rev-parse", "--short", "HEAD") or "no commit"
    changed = first_line("git", "-C", tree, "status", "--porcelain", "--untracked-files=no")
    return commit + (" with changes" if changed else "")


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found[1].strip() if found else platform.machine()


def _disk(path: Path) -> str:
    """The mount that a path lies on: the longest mount point that is above it (proc(5), /proc/mounts)."""
    best = ("", "", "", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, point, kind, options = line.split()[:4]
        inside = path.is_relative_to(point.encode().decode("unicode_escape"))
        if inside and len(point) >= len(best[1]):
            best = (device, point, kind, options)
    return f"{best[2]} on {best[0]} ({best[3]})"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()
