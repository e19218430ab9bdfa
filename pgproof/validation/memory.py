"""Memory that a source's server takes at its start, and that a drill's machine may not have to spare.

A drill often runs beside a server that people use. So a server that it starts under the source's configuration gets no
huge pages, which somebody else has reserved, and not more shared memory than a quarter of what is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pgproof.postgres.programs import run
from pgproof.restore.command_line import options
from pgproof.restore.restored import RestoredCluster
from pgproof.wording import size

_SHARE = 4
_LEAST = 128 << 20  # bytes of shared_buffers, PostgreSQL's default
# each with the bytes of its unit
_UNITS = {"shared_buffers": 8192, "min_dynamic_shared_memory": 1 << 20}


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a server is given instead of the source's settings, and a sentence about each."""

    settings: dict[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()


def lowered(restored: RestoredCluster) -> Lowered:
    """The settings of memory that are too large for this machine; none where the configuration cannot be read.

    Args:
        restored: a restored cluster whose server does not run.
    """
    limit = max(free() // _SHARE, _LEAST)
    settings, said = {"huge_pages": "off"}, []
    for name, unit in _UNITS.items():
        wanted = (_configured(restored, name) or 0) * unit
        if wanted <= limit:
            continue
        settings[name] = f"{_LEAST >> 20}MB" if name == "shared_buffers" else "0"
        said.append(
            f"{name} = {size(wanted)} of the source: this machine has {size(free())} free, so it was {settings[name]}"
        )
    return Lowered(settings, tuple(said))


def free() -> int:
    """Bytes of memory that this machine can give without swapping (``MemAvailable`` of proc(5)), or our container."""
    lines = Path("/proc/meminfo").read_text().split("\n")
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    try:
        most, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        found += [int(most) - int(used)] if most.strip() != "max" else []
    except (OSError, ValueError):  # no control group of version 2, or none of its own
        pass
    return max(0, min(found, default=0))


def _configured(restored: RestoredCluster, name: str) -> int | None:
    """A setting as the server would have it, in its unit; None where the configuration is wrong."""
    command: list[str | Path] = [restored.bin_directory / "postgres", "-D", restored.data, "-C", name]
    for key, value in options(restored, restored.data).items():
        command += ["-c", f"{key}={value}"]
    done = run(command, timeout=60, owner=restored.owner)
    text = done.stdout.strip()
    return int(text) if done.returncode == 0 and text.isdigit() else None
