"""Latency: what one call of an archive_command takes, alone, and on what is archived already."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.errors import BenchmarkError
from benchmarks.processes import end_leftovers, run_as_server
from benchmarks.tools.tool import Site, Tool

_ARCHIVED_IN = 20.0


def single(tool: Tool, site: Site, segments: Sequence[str], *, warm: bool) -> float:
    """One segment is ready, again and again; every other is archived.

    Args:
        tool: whose command.
        site: with a fresh repository.
        segments: one for each push; the first is not timed when it warms up.
        warm: a background process that an earlier push left keeps running; else it is ended before each push.

    Returns:
        the median in milliseconds.
    """
    times = []
    for number, name in enumerate(segments):
        if not warm:
            end_leftovers(site.spool)
        site.workload.mark((name,))
        took = _push(tool, site, name)
        if number or not warm:
            times.append(took)
    site.workload.mark(())
    return statistics.median(times) * 1000


def acknowledged(tool: Tool, site: Site, segments: Sequence[str]) -> tuple[float, ...]:
    """Calls for segments that are archived by the time of the call, as the archiver makes them after a batch.

    All are ready, the first call starts the batch, and it is waited for. A tool without a batch is called
    for each segment before, so that each is archived, and then again.

    Returns:
        milliseconds of each call after the first.
    """
    site.workload.mark(segments)
    _push(tool, site, segments[0])
    if not _all_stored(tool, site, len(segments)):
        for name in segments[1:]:
            run_as_server(tool.push(site), site.data, f"pg_wal/{name}", site.log)
    times = tuple(_push(tool, site, name) * 1000 for name in segments[1:])
    site.workload.mark(())
    if tool.stored(site) != len(segments):
        raise BenchmarkError(f"{len(segments)} segments were acknowledged, {tool.stored(site)} are stored")
    return times


def _push(tool: Tool, site: Site, name: str) -> float:
    took = run_as_server(tool.push(site), site.data, f"pg_wal/{name}", site.log)
    site.workload.done(name)
    return took


def _all_stored(tool: Tool, site: Site, count: int) -> bool:
    """Whether a batch has stored everything; given up when a second brings nothing new."""
    end, seen, changed = time.monotonic() + _ARCHIVED_IN, 0, time.monotonic()
    while time.monotonic() < end:
        stored = tool.stored(site)
        if stored >= count:
            time.sleep(0.5)  # the acknowledgement is written after the segment
            return True
        if stored != seen:
            seen, changed = stored, time.monotonic()
        elif time.monotonic() - changed > 1:
            return False
        time.sleep(0.05)
    return False
