"""Throughput: how fast a server's own archiver gets rid of segments that wait."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.errors import BenchmarkError
from benchmarks.processes import tail
from benchmarks.tools.tool import Site, Tool
from benchmarks.workload import Workload, connected, setting
from pgproof.postgres.server import LocalServer

_DEADLINE = 600.0
_LOOK = 0.01


def archive(server: LocalServer, tool: Tool, site: Site, segments: Sequence[str]) -> float:
    """Give the server an archive_command while segments wait, until it says that all are archived.

    Args:
        server: running, and without an archive_command.
        tool: whose command.
        site: with a fresh repository.
        segments: to archive.

    Returns:
        segments per second, by the archiver's own count.

    Raises:
        BenchmarkError: a command failed, it took too long, or the repository holds less than was acknowledged.
    """
    with connected(server) as connection:
        site.workload.mark(segments)
        connection.execute("SELECT pg_stat_reset_shared('archiver')")
        began = time.perf_counter()
        setting(connection, tool.push(site))
        try:
            while True:
                row = connection.execute(
                    "SELECT archived_count, failed_count FROM pg_stat_archiver"
                ).fetchone()
                took = time.perf_counter() - began
                archived, failed = row or (0, 0)
                if archived >= len(segments):
                    break
                if failed or took > _DEADLINE:
                    said = tail(site.log) or tail(server.log)
                    raise BenchmarkError(f"{archived} archived, {failed} failed after {took:.0f} s: {said}")
                time.sleep(_LOOK)
        finally:
            setting(connection, "")
            site.workload.mark(())
    check_stored(tool, site, len(segments))
    return len(segments) / took


def check_stored(tool: Tool, site: Site, count: int) -> None:
    """An acknowledged segment that is not in the repository would make every number worthless."""
    stored = tool.stored(site)
    if stored != count:
        raise BenchmarkError(f"{count} segments were acknowledged and {stored} are in the repository")


def chosen(tool: Tool, workload: Workload) -> tuple[str, ...]:
    """The segments that a tool is timed over."""
    return workload.segments[: max(3, round(len(workload.segments) * tool.share))]
