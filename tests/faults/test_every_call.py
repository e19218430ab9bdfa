"""A fault at every call of every command: the calls of a command are counted, and then each is broken in turn.

One fault, of whatever kind, must change nothing: the command ends as it does without it, and the repository holds the
same. A part of the walk is made in every run; ``-m slow`` makes all of it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.wal.fetch import fetch_from
from pgproof.wal.push import push
from tests.faults.site import Site, site_in_bucket
from tests.faults.table import note
from tests.servers.background import end_background
from tests.servers.proxy import KINDS, Request
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.usefixtures("without_expectations")
SEED = 15
EVERY = int(os.environ.get("PGPROOF_EVERY_CALL", "1"))  # one call in so many is broken by the whole walk


@dataclass(frozen=True)
class Command:
    """One command of the walk.

    Args:
        words: of the command line; those of a step of the engine begin with ``(``.
        code: its exit code, with or without a fault.
        may: other exit codes with a fault.
        every: one call in so many is broken by the whole walk.
    """

    words: tuple[str, ...]
    code: int = 0
    may: tuple[int, ...] = ()
    every: int = 1

    def __str__(self) -> str:
        return " ".join(word for word in self.words if word not in ("main", "--json", "--yes"))


COMMANDS = [
    Command(("list", "main", "--json")),
    Command(("verify", "main")),
    Command(("backup", "main")),
    Command(("backup", "main", "--incremental")),
    Command(("restore", "main", "--to", "PLACE", "--dry-run")),
    Command(("restore", "main", "--to", "PLACE")),
    Command(("wal", "check", "main")),
    Command(("hold", "main", "LABEL", "--reason", "a walk")),
    Command(("hold", "main", "HELD", "--release")),
    Command(("expire", "main", "--yes")),
    Command(("objectives", "main"), code=1),
    Command(("doctor", "main"), may=(1,)),  # it asks once: what the store answers now is what it is asked for
    Command(("drill", "main"), every=7),
    Command(("(wal push)",)),
    Command(("(wal fetch)",)),
]


@pytest.fixture(scope="module")
def site(seaweedfs: S3Server) -> Iterator[Site]:
    with site_in_bucket(seaweedfs, summarize_wal="on") as made:
        made.commit(20)
        code, _, err = made.run("backup", "main")
        assert code == 0, err
        code, _, err = made.run("backup", "main")
        assert code == 0, err
        made.known = made.labels
        code, _, err = made.run("hold", "main", made.known[1], "--reason", "a walk")
        assert code == 0, err
        made.commit(20)
        made.source.archive_now()
        yield made


def run(site: Site, command: Command) -> int:
    """The command's exit code."""
    place = site.source.root / "place"
    try:
        if command.words == ("(wal push)",):
            archive, name = site.source.archive, site.segment
            stored = next(key for key in site.objects() if key.endswith(f"/{name}.zst"))
            site.behind.client.delete_object(Bucket=site.bucket, Key=stored)
            push(archive, site.source.data / "pg_wal" / name)
            return 0 if stored in site.objects() else 1
        if command.words == ("(wal fetch)",):
            place.mkdir()
            archive = site.source.archive
            fetch_from([lambda: archive], site.segment, place / site.segment)
            return 0
        meant = {"PLACE": str(place), "LABEL": site.known[0], "HELD": site.known[1]}
        words = [meant.get(word, word) for word in command.words]
        code, site.said, site.complaint = site.run(*words)
        return code
    finally:
        end_background(place)
        shutil.rmtree(place, ignore_errors=True)


def reset(site: Site, base: dict[str, int]) -> None:
    """Take away what a command has added, and put back what it removed."""
    site.heal()
    keys = site.objects()
    for key in keys.keys() - base.keys():
        if not key.endswith("lease.json") and "/wal/" not in key:
            site.behind.client.delete_object(Bucket=site.bucket, Key=key)
    for key in base.keys() - keys.keys():
        site.behind.client.put_object(Bucket=site.bucket, Key=key, Body=site.kept[key])


def keep(site: Site) -> dict[str, int]:
    base = site.objects()
    site.kept = {
        key: site.behind.client.get_object(Bucket=site.bucket, Key=key)["Body"].read() for key in base
    }
    return base


def shape(site: Site) -> list[str]:
    """What the repository holds, without what differs from one run to the next: labels, times and WAL."""
    site.heal()
    catalog = read_catalog(site.source.archive)
    assert catalog.torn == ()
    names = []
    for entry in catalog.entries:
        there = {key: size for key, size in site.objects().items() if f"/{entry.label}/" in key}
        named = {stored.key: stored.size for stored in entry.record.objects}
        assert named.items() <= there.items()
        names.append(f"{entry.label.rpartition('-')[2]} {entry.state} {'held' if entry.hold else ''}")
    return names


def walk(site: Site, command: Command, chosen: random.Random | None) -> None:
    """Break calls of a command in turn: all of them, or a few that chance chooses."""
    base = keep(site)
    try:
        site.front.requests.clear()
        assert run(site, command) == command.code, site.complaint
        requests = list(site.front.requests)
        expected = shape(site)
        step = max(command.every, EVERY if len(requests) > 12 else 1)
        reset(site, base)
        cases = [(call, kind) for call in range(0, len(requests), step) for kind in KINDS]
        for call, kind in chosen.sample(cases, min(2, len(cases))) if chosen else cases:
            break_one(site, command, call, kind, requests[call], expected)
            reset(site, base)
    finally:
        reset(site, base)


def break_one(
    site: Site, command: Command, call: int, kind: str, request: Request, expected: list[str]
) -> None:
    fault = site.front.break_(kind, skip=call, times=1)
    code = run(site, command)
    case = f"{command}: {kind} at call {call + 1}, {request}"
    assert code in (command.code, *command.may), f"{case}: {code}\n{site.said}\n{site.complaint}"
    assert shape(site) == expected, case
    note(
        "every call",
        str(command),
        kind,
        "ended as without" if code == command.code else f"exit code {code}",
        fault.met,
    )


def sample(command: Command) -> random.Random:
    return random.Random(f"{SEED} {command}")


@pytest.mark.parametrize("command", [found for found in COMMANDS if found.every == 1], ids=str)
def test_a_few_calls(site: Site, command: Command) -> None:
    walk(site, command, sample(command))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_call(site: Site, command: Command) -> None:
    walk(site, command, None)
