"""The WAL benchmark: push, latency, start-up and recovery of pgproof and others, in one run.

``python -m benchmarks.wal --help`` has the options; benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import pwd
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from benchmarks import machine, scratch
from benchmarks.errors import BenchmarkError
from benchmarks.report import render
from benchmarks.sections import Bench
from benchmarks.series import Section
from benchmarks.tools.barman import Barman
from benchmarks.tools.pgbackrest import PgBackRest
from benchmarks.tools.pgproof import Pgproof
from benchmarks.tools.plain import Copy, Zstd
from benchmarks.tools.tool import Tool
from benchmarks.workload import CLIENTS, SCALE, Workload, prepare
from pgproof.postgres.programs import account, find_bin_directory

PROJECT = Path(__file__).resolve().parents[1]
RESULT = PROJECT / "benchmarks" / "results" / "wal.md"
GAP_CHECK = PROJECT / "benchmarks" / "gap_check.py"
MAJOR = 15
PARTS = ("push", "single", "acknowledged", "recovery", "gaps")


def main() -> int:
    """Prepare as who we are, measure as an unprivileged account, keep the page if that was asked for."""
    options = _options()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # whatever ends us, the scratch directory is cleared
    owner = account(None)
    try:
        place = scratch.make(options.scratch, owner, _room(options))
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    try:
        return _run(options, owner, place)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep:
            print(f"kept: {place}", file=sys.stderr)
        else:
            scratch.clear(place)


def _run(options: argparse.Namespace, owner: pwd.struct_passwd | None, place: Path) -> int:
    further = _gap_check() if "gaps" in options.parts else ""
    if options.parts == ["gaps"]:
        print(further)
        return 0
    page = place / "wal.md"
    page.unlink(missing_ok=True)
    pgproof = Pgproof(scratch.install(options.tree, place), machine.revision(options.tree))
    code: int = scratch.run_as(
        owner, place / "home", lambda: _measured(options, place, pgproof, page, further)
    )
    if options.write and code == 0:  # a page with failures is shown, not kept
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(page.read_text())
        print(f"written: {RESULT}", file=sys.stderr)
    return code


def _room(options: argparse.Namespace) -> int:
    """Bytes that a run takes: the segments, an archive of them for each tool, and three copies of the cluster."""
    return int(options.segments * 16 * 4 << 20) + (4 << 30)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wal", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--segments", type=int, default=200, help="finished 16 MB segments, at least 3 (default 200)")
    add("--repetitions", type=int, default=5, help="of everything but the acknowledged push (default 5)")
    add("--only", action="append", default=[], metavar="NAME", help="a tool or a part; may be repeated")
    add(
        "--tree",
        type=lambda text: Path(text).resolve(),
        default=PROJECT,
        help="the pgproof to install and measure (default: this one)",
    )
    add(
        "--scratch",
        type=Path,
        help="directory for everything, empty or kept (default: a new one in /var/tmp)",
    )
    add("--keep", action="store_true", help="keep the scratch directory; its workload is used again")
    add("--write", action="store_true", help="write benchmarks/results/wal.md")
    options = parser.parse_args()
    known = {*PARTS, *(tool.key for tool in _tools(Pgproof(Path(), "")))}
    unknown = set(options.only) - known
    if unknown:
        parser.error(f"--only knows no {', '.join(sorted(unknown))}; there is {', '.join(sorted(known))}")
    if options.segments < 3 or options.repetitions < 1:
        parser.error("--segments is at least 3, and --repetitions at least 1")
    if not (options.tree / "pyproject.toml").exists():
        parser.error(f"--tree {options.tree} has no pyproject.toml")
    if options.write and options.only:
        parser.error("--write is for a page that has everything; leave out --only")
    options.parts = [part for part in PARTS if part in options.only] or list(PARTS)
    return options


def _tools(pgproof: Pgproof) -> tuple[Tool, ...]:
    return (
        pgproof,
        PgBackRest(True, "pgbackrest-async", "pgBackRest, async", batches=True),
        PgBackRest(False, "pgbackrest-sync", "pgBackRest, sync"),
        Barman(),
        Zstd(),
        Copy(),
    )


def _measured(options: argparse.Namespace, place: Path, pgproof: Pgproof, page: Path, further: str) -> int:
    try:
        return _measure(options, place, pgproof, page, further)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace, place: Path, pgproof: Pgproof, page: Path, further: str) -> int:
    """Everything that is measured, as the account that servers run as."""
    began, clock = time.monotonic(), datetime.now().astimezone()
    facts = machine.describe(place)
    wanted = [tool for tool in _tools(pgproof) if tool.key in options.only] or list(_tools(pgproof))
    tools = tuple(tool for tool in wanted if not tool.missing())
    if not options.keep:
        shutil.rmtree(place / "workload", ignore_errors=True)
    workload = prepare(place / "workload", find_bin_directory(MAJOR), options.segments)
    runs = place / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    sections = _sections(options, workload, tools, runs)
    shutil.rmtree(runs)
    facts += [
        ("workload", f"{options.segments} segments of 16 MB; pgbench, scale {SCALE}, {CLIENTS} clients; "
                     f"{workload.images:.0f} % of it is full page images"),
        ("repetitions", f"{options.repetitions}, taken in turns"),
        ("run", f"{clock:%F %H:%M %z}, {(time.monotonic() - began) / 60:.0f} minutes"),
    ]  # fmt: skip
    versions = [("PostgreSQL", machine.first_line(workload.bin / "postgres", "--version"))]
    versions += [(tool.name, tool.version()) for tool in tools]
    left_out = [(tool.name, tool.missing()) for tool in wanted if tool.missing()]
    text = render(sections, facts, versions, left_out, further)
    page.write_text(text)
    print(text)
    return int(any(series.failure for section in sections for series in section.series))


def _sections(
    options: argparse.Namespace, workload: Workload, tools: tuple[Tool, ...], runs: Path
) -> list[Section]:
    server = workload.server()
    bench = Bench(workload, server, tools, runs, options.repetitions)
    workload.rest()
    with server.run():
        measured = [getattr(bench, part)() for part in options.parts if part != "gaps"]
        return [section for sections in measured for section in sections]


def _gap_check() -> str:
    """What the gap check's own script measures, on this tree; nothing when it is not there."""
    if not GAP_CHECK.exists():
        return ""
    words = [sys.executable, "-m", f"benchmarks.{GAP_CHECK.stem}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, timeout=900)
    if done.returncode != 0:
        raise BenchmarkError(f"{GAP_CHECK.name} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout if done.stdout.startswith("#") else f"## Gap check\n\n{done.stdout}"


if __name__ == "__main__":
    sys.exit(main())
