"""The gap check by name on a million segments: seconds and peak memory, medians of 5, each in a process of its own.

    python benchmarks/gap_check.py [--segments 1000000] [--repetitions 5] [--json]

Measured is the listing, handed over as objects one by one, and the check of what it holds against 25 backups on
three timelines. Making the objects is a part of the time, as a store has to do it, too; what that alone takes is
shown beside ("of it names", measured again after the check). On a busy machine look at the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.record import BackupRecord
from pgproof.config import RetentionConfig
from pgproof.gaps.check import expired_of
from pgproof.gaps.gap import check_gaps
from pgproof.repository.layout import Layout
from pgproof.repository.repository import StoredObject
from pgproof.repository.store import ObjectInfo
from pgproof.retention.window import Holdings
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.wal.archive import listing_of

SIZE = 16 << 20
LAYOUT = Layout("shop", 7446001122334455667)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
BACKUPS = 25
FIRST = 1000

Names = Iterable[tuple[int, int]]  # timeline and number


def forks(segments: int) -> tuple[int, int]:
    """Where timelines 2 and 3 begin."""
    return FIRST + segments // 3, FIRST + 2 * segments // 3


def histories(segments: int) -> dict[int, TimelineHistory]:
    two, three = (Fork(n, LSN(at * SIZE + 4096)) for n, at in enumerate(forks(segments), 1))
    return {2: TimelineHistory(2, (two,)), 3: TimelineHistory(3, (two, three))}


def catalog(segments: int) -> Catalog:
    """Backups a day apart, the newest one of today."""
    two, three = forks(segments)
    entries = []
    for index in range(BACKUPS):
        number = FIRST + 1 + index * (segments - 10) // BACKUPS
        timeline = 1 + (number > two) + (number > three)
        stopped = NOW - timedelta(days=BACKUPS - 1 - index, hours=1)
        stored = StoredObject("manifest", 1, "0")
        record = BackupRecord(
            f"{stopped:%Y%m%dT%H%M%SZ}-full",
            "shop",
            LAYOUT.system_identifier,
            170010,
            timeline,
            LSN(number * SIZE + 40),
            LSN(number * SIZE + 8192),
            stopped,
            stopped,
            SIZE,
            (),
            stored,
        )
        entries.append(BackupEntry(record, proven_at=stopped))
    return Catalog(tuple(entries))


def in_order(segments: int) -> Names:
    two, three = forks(segments)
    for number in range(FIRST, FIRST + segments):
        yield 1 + (number >= two) + (number >= three), number


def shuffled(segments: int) -> Names:
    names = list(in_order(segments))
    random.Random(1).shuffle(names)
    return names


def holed(every: int) -> Callable[[int], Names]:
    return lambda segments: (name for name in in_order(segments) if name[1] % every)


def expired(segments: int) -> Names:
    """Only the first backup's own WAL and the last tenth are left: that backup is kept, for an auditor say."""
    keep = FIRST + segments - segments // 10
    return (name for name in in_order(segments) if name[1] <= FIRST + 2 or name[1] >= keep)


EXPIRED = "nine tenths expired"
CASES: dict[str, Callable[[int], Names]] = {
    "in order": in_order,
    "in any order": shuffled,
    "a hole every 1,000 segments": holed(1000),
    "every second segment missing": holed(2),
    EXPIRED: expired,
}


def objects(names: Names) -> Iterator[ObjectInfo]:
    for timeline, number in names:
        log, place = divmod(number, 256)
        key = f"shop/7446001122334455667/wal/{timeline:08X}/{log:08X}/{timeline:08X}{log:08X}{place:08X}.zst"
        yield ObjectInfo(key, 4_000_000, 1.0)


def kept(case: str, segments: int) -> tuple[Catalog, RetentionConfig]:
    """The backups, and a policy: all of them are kept, and all WAL, unless most of it has expired."""
    backups = catalog(segments)
    if case != EXPIRED:
        return backups, RetentionConfig(daily=100, weekly=0, monthly=0, wal_window=100 * 86400)
    tenth = LSN((FIRST + segments - segments // 10) * SIZE)
    newest = [entry for entry in backups.entries if entry.record.start_lsn >= tenth]
    policy = RetentionConfig(daily=100, weekly=0, monthly=0, wal_window=86400)
    return Catalog((backups.entries[0], *newest)), policy


def measure(case: str, segments: int) -> dict[str, float]:
    """One run."""
    backups, policy = kept(case, segments)
    known = histories(segments)
    files = [ObjectInfo(f"{LAYOUT.wal_file(f'{t:08X}.history')}.zst", 100) for t in known]
    names = CASES[case](segments)
    start, cpu = time.perf_counter(), time.process_time()
    listing = listing_of(
        LAYOUT, chain(objects(names), files), SIZE, lambda key: known[int(key.rsplit("/", 1)[-1][:8], 16)]
    )
    listed = time.perf_counter()
    report = check_gaps(
        backups, listing, None, lambda missing: expired_of(policy, backups, Holdings(listing), missing, NOW)
    )
    checked = time.perf_counter()
    used = time.process_time()
    deque(objects(CASES[case](segments)), maxlen=0)
    made = time.process_time() - used
    return {
        "list": listed - start,
        "check": checked - listed,
        "seconds": checked - start,
        "cpu": used - cpu,
        "made": made,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "segments": report.segments,
        "gaps": len(report.gaps),
        "windows": len(report.windows),
    }


def main() -> None:
    options = argparse.ArgumentParser(description="The gap check on a million names.")
    options.add_argument("--segments", type=int, default=1_000_000)
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--json", action="store_true")
    options.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.segments)))
        return
    medians = {case: _medians(case, given.segments, given.repetitions) for case in CASES}
    if given.json:
        print(json.dumps(medians, indent=2))
        return
    columns = (
        "archived",
        "windows",
        "gaps",
        "list s",
        "check s",
        "seconds",
        "CPU s",
        "of it names",
        "peak memory MB",
    )
    print(f"| {given.segments:,} names | {' | '.join(columns)} |")
    print(f"|---|{'--:|' * len(columns)}")
    for case, found in medians.items():
        print(
            f"| {case} | {found['segments']:,} | {found['windows']} | {found['gaps']:,} "
            f"| {found['list']:.2f} | {found['check']:.3f} | {found['seconds']:.2f} "
            f"| {found['cpu']:.2f} | {found['made']:.2f} | {found['peak'] / 1e6:.0f} |"
        )


def _medians(case: str, segments: int, repetitions: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--segments", str(segments)]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(repetitions)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


if __name__ == "__main__":
    main()
