"""The sections of the WAL benchmark: who is measured against whom, and what is wrong when the results differ."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.latency import acknowledged, single
from benchmarks.processes import end_leftovers, run_as_server
from benchmarks.recovery import recover
from benchmarks.series import Contender, Section, Series, take_turns
from benchmarks.sites import fresh, recovering
from benchmarks.throughput import archive, chosen
from benchmarks.tools.tool import Site, Tool
from benchmarks.workload import Workload
from pgproof.postgres.server import LocalServer

SINGLES = 11  # calls of one repetition of the latency of a single push; the first warms up
ACKNOWLEDGED = 101
FLOORS = (("nothing: sh and true", "exec true"), ("nothing: sh and python3", "exec python3 -I -S -c pass"))
ASYNC, SYNC = "pgBackRest, async", "pgBackRest, sync"


@dataclass(frozen=True)
class Bench:
    """What all sections share.

    Args:
        workload: the segments and the cluster that wrote them.
        server: of that cluster, running without an archive_command.
        tools: the contenders, in the order of the tables.
        directory: for the runs.
        repetitions: of everything but the acknowledged push.
    """

    workload: Workload
    server: LocalServer
    tools: tuple[Tool, ...]
    directory: Path
    repetitions: int

    def push(self) -> list[Section]:
        """Throughput of the server's archiver."""

        def measure(tool: Tool, _: int) -> float:
            with fresh(tool, self.workload, self.directory) as site:
                return archive(self.server, tool, site, chosen(tool, self.workload))

        series = self._turns("push", [Contender(tool.name, partial(measure, tool)) for tool in self.tools])
        notes = [f"{len(self.workload.segments)} segments wait; the server's archiver calls archive_command."]
        for tool in self.tools:
            if (count := len(chosen(tool, self.workload))) < len(self.workload.segments):
                notes.append(f"{tool.name}: over {count} segments, one at a time at one rate.")
        return [Section("Push throughput", "segments per second", True, ASYNC, series, tuple(notes))]

    def single(self) -> list[Section]:
        """Latency of one push."""

        def measure(tool: Tool, warm: bool, _: int) -> float:
            with fresh(tool, self.workload, self.directory) as site:
                return single(tool, site, self.workload.segments[:SINGLES], warm=warm)

        contenders = []
        for tool in self.tools:
            if tool.resident:
                cold = f"{tool.name}, cold"
                contenders.append(Contender(cold, partial(measure, tool, False)))
                contenders.append(Contender(f"{tool.name}, warm", partial(measure, tool, True)))
            else:
                contenders.append(Contender(tool.name, partial(measure, tool, True)))
        series = self._turns("single push", contenders)
        notes = (f"One segment is ready. Each value is the median of {SINGLES - 1} or {SINGLES} pushes.",)
        return [Section("Latency of a single push", "milliseconds", False, SYNC, series, notes)]

    def acknowledged(self) -> list[Section]:
        """Calls for what is archived already: one round, each call a value."""
        series = [self._acknowledged(tool) for tool in self.tools if tool.batches]
        for name, command in FLOORS:
            values = (
                run_as_server(command, self.workload.data, "", self.directory / "said") for _ in range(100)
            )
            series.append(Series(name, tuple(1000 * value for value in values)))
        notes = ("One process from start to end, each call a value; the batch before it is not timed.",)
        return [
            Section("Push of an acknowledged segment", "milliseconds", False, ASYNC, tuple(series), notes)
        ]

    def _acknowledged(self, tool: Tool) -> Series:
        try:
            with fresh(tool, self.workload, self.directory) as site:
                return Series(tool.name, acknowledged(tool, site, self.workload.segments[:ACKNOWLEDGED]))
        except BenchmarkError as error:
            return Series(tool.name, failure=f"failed: {error}")

    def recovery(self) -> list[Section]:
        """Recovery through each tool's restore_command; those that take one segment at a time have a short one."""
        whole = [tool for tool in self.tools if tool.share == 1]
        sections = [self._recovery(whole, self.workload.segments, "Recovery")]
        if slow := [tool for tool in self.tools if tool.share < 1]:
            few = chosen(slow[0], self.workload)
            beside = [tool for tool in whole if tool.key in ("pgproof", "cp")]
            sections.append(self._recovery([*slow, *beside], few, "Recovery, a short one"))
        return sections

    def _recovery(self, tools: list[Tool], segments: tuple[str, ...], title: str) -> Section:
        archives = Archives(
            self.workload, self.server, segments, self.directory / f"archives-{len(segments)}"
        )
        ends: dict[str, str] = {}

        def measure(tool: Tool, _: int) -> float:
            with recovering(archives.of(tool), self.directory / f"recovery-{tool.key}") as site:
                found = recover(site, tool.fetch(site), site.data.parent / "log")
            if found.segments != len(segments):
                raise BenchmarkError(f"{found.segments} of {len(segments)} segments were restored")
            if set(ends.values()) - {found.end}:
                raise BenchmarkError(f"recovery ended at {found.end}, that of others at {ends}")
            ends[tool.name] = found.end
            return found.seconds

        try:
            series = self._turns(
                title.lower(), [Contender(tool.restore_name, partial(measure, tool)) for tool in tools]
            )
        finally:
            archives.remove()
        notes = (f"{len(segments)} segments, from the start of the server to the end of recovery.",)
        return Section(title, "seconds", False, "cp", series, notes)

    def _turns(self, what: str, contenders: list[Contender]) -> tuple[Series, ...]:
        return take_turns(what, contenders, self.repetitions)


@dataclass
class Archives:
    """An archive of some segments for each tool, filled by the server's archiver when it is first asked for."""

    workload: Workload
    server: LocalServer
    segments: tuple[str, ...]
    directory: Path
    _sites: dict[str, Site] = field(default_factory=dict)

    def of(self, tool: Tool) -> Site:
        if tool.key not in self._sites:
            home = self.directory / tool.key
            site = Site(home, home / "spool", self.workload.data, self.workload)
            site.spool.mkdir(parents=True)
            tool.prepare(site)
            archive(self.server, tool, site, self.segments)
            end_leftovers(site.spool)
            tool.settle(site)
            self._sites[tool.key] = site
        return self._sites[tool.key]

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
