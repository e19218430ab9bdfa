"""The drill benchmark: how fast it reads, what the source pays meanwhile, and where a drill's time goes.

``python -m benchmarks.drill --help`` has the options; benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import pwd
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

from benchmarks import machine, scratch
from benchmarks.errors import BenchmarkError
from benchmarks.holding import holding
from benchmarks.phases import drills, table
from benchmarks.reading import reading
from benchmarks.report import render
from benchmarks.series import Section
from benchmarks.shop import Shop, running_shop
from pgproof.errors import PgproofError
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.quantity import size

PROJECT = Path(__file__).resolve().parents[1]
RESULT = PROJECT / "benchmarks" / "results" / "drill.md"
PARTS = ("reading", "holding", "drill")


def main() -> int:
    """Measure as an unprivileged account, and keep the page if that was asked for."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends us, nothing is left behind
    owner = account(None)
    try:
        find_bin_directory(options.postgresql)
        place = scratch.make(options.scratch, owner, 6 * options.size + (4 << 30))
    except (BenchmarkError, PgproofError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    try:
        return _run(options, owner, place)
    except KeyboardInterrupt:
        return 130
    finally:
        scratch.clear(place)


def _run(options: argparse.Namespace, owner: pwd.struct_passwd | None, place: Path) -> int:
    page = place / "drill.md"
    revision = machine.revision(PROJECT)
    code: int = scratch.run_as(owner, place / "home", lambda: _measured(options, place, page, revision))
    if options.write and code == 0:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(page.read_text())
        print(f"written: {RESULT}", file=sys.stderr)
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=_size, default=size("2GB"), help="of the cluster's databases (default 2GB)")
    add("--rounds", type=int, default=5, help="of reading and of holding (default 5)")
    add("--seconds", type=int, default=12, help="that one run of pgbench takes (default 12)")
    add("--drills", type=int, default=2, help="how often the backup is proven (default 2)")
    add("--only", action="append", default=[], choices=PARTS, help="a part; may be repeated")
    add("--postgresql", type=int, default=17, metavar="MAJOR", help="version of the cluster (default 17)")
    add("--scratch", type=Path, help="directory for everything, empty (default: a new one in /var/tmp)")
    add("--write", action="store_true", help="write benchmarks/results/drill.md")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.drills) < 1:
        parser.error("--rounds, --seconds and --drills are at least 1")
    if options.write and options.only:
        parser.error("--write is for a page that has everything; leave out --only")
    options.parts = [part for part in PARTS if part in options.only] or list(PARTS)
    return options


def _size(text: str) -> int:
    try:
        found = size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found < 50 << 20:
        raise argparse.ArgumentTypeError("a cluster has 50 MB or more here")
    return found


def _measured(options: argparse.Namespace, place: Path, page: Path, revision: str) -> int:
    try:
        return _measure(options, place, page, revision)
    except (BenchmarkError, PgproofError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace, place: Path, page: Path, revision: str) -> int:
    """Everything that is measured, as the account that the server runs as."""
    began, clock = time.monotonic(), datetime.now().astimezone()
    facts = machine.describe(place)
    root = place / "shop"
    root.mkdir()
    with running_shop(options.postgresql, root, options.size) as shop:
        print(
            f"filled: {shop.size / 1e6:,.0f} MB ({time.monotonic() - began:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        facts.append(("cluster", f"{shop.size / 1e6:,.0f} MB of databases, shared_buffers 1 GB, fsync on"))
        sections, further = _parts(options, shop)
        version = machine.first_line(shop.source.bin / "postgres", "--version")
    facts += [
        ("rounds", f"{options.rounds}, taken in turns"),
        ("run", f"{clock:%F %H:%M %z}, {(time.monotonic() - began) / 60:.0f} minutes"),
    ]
    python = f"Python {sys.version.split()[0]}"
    versions = [("PostgreSQL", version), ("pgproof", f"commit {revision}, {python}")]
    text = render(sections, facts, versions, [], further, "Drills, measured", "make bench-drill")
    page.write_text(text)
    print(text)
    return int(any(series.failure for section in sections for series in section.series))


def _parts(options: argparse.Namespace, shop: Shop) -> tuple[list[Section], str]:
    sections = reading(shop, options.rounds) if "reading" in options.parts else []
    if "holding" in options.parts:
        sections.append(holding(shop, options.rounds, options.seconds))
    if "drill" not in options.parts:
        return sections, ""
    return sections, table(drills(shop, options.drills, options.seconds), shop.size)


if __name__ == "__main__":
    sys.exit(main())
