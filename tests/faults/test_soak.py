"""Random faults, one after the other, while a source commits numbered rows; then everything is asked for.

What must hold at the end, whatever was killed, filled, or refused: every listed backup restores and is exactly equal,
no acknowledged commit is lost, and nothing is left over. A seed gives the same order of faults; the moment at which a
process dies is the machine's.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgproof.postgres.programs import account
from tests.faults.site import Site, seeded, site_in_bucket, site_in_directory
from tests.faults.table import note
from tests.servers.background import processes
from tests.servers.postgres import PGPROOF, PROJECT
from tests.servers.proxy import AFTER, BEFORE, HANG, LOST, TRUNCATE
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.usefixtures("without_expectations")
SEED = int(os.environ.get("PGPROOF_SEED", "15"))
MANY = int(os.environ.get("PGPROOF_FAULT_COUNT", "500"))  # on each of two kinds of store
FEW = int(os.environ.get("PGPROOF_FEW_FAULTS", "4"))
CHECK_EVERY = 100

COMMANDS: dict[str, list[str]] = {
    "backup": ["backup", "main"],
    "drill": ["drill", "main"],
    "expire": ["expire", "main", "--yes"],
    "verify": ["verify", "main"],
    "restore": ["restore", "main", "--to", "PLACE"],
    "wal check": ["wal", "check", "main"],
    "list": ["list", "main"],
}
WEIGHTS = {"backup": 6, "drill": 2, "expire": 2, "verify": 1, "restore": 2, "wal check": 1, "list": 1}
Break = Callable[[Site, random.Random, str], str]


def start(site: Site, words: list[str]) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, so that it can be killed with what it started."""
    place = str(site.source.root / "place")
    arguments = [{"PLACE": place}.get(word, word) for word in words]
    return subprocess.Popen(
        [*PGPROOF, "--config", str(site.source.config_path), *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_of(process: subprocess.Popen[bytes]) -> str:
    try:
        return f"exit code {process.wait(timeout=120)}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "did not end"


# ---- the faults: each is made while a command works, and gives how the command ended


def killed(number: signal.Signals) -> Break:
    def fault(site: Site, chance: random.Random, command: str) -> str:
        process = start(site, COMMANDS[command])
        time.sleep(chance.uniform(0.2, 2.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        return end_of(process)

    return fault


def pusher_killed(site: Site, chance: random.Random, command: str) -> str:
    site.commit(5)
    process = start(site, COMMANDS[command])
    site.source.sql("SELECT pg_switch_wal()")
    time.sleep(chance.uniform(0.0, 0.5))
    for found in processes(site.source.root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found, signal.SIGKILL)
    return end_of(process)


def server_killed(site: Site, chance: random.Random, command: str) -> str:
    process = start(site, COMMANDS[command])
    time.sleep(chance.uniform(0.2, 1.5))
    site.source.server.stop("immediate")
    site.source.server.start()
    site.source.server.wait_ready()
    return end_of(process)


def answered_badly(kind: str) -> Break:
    def fault(site: Site, chance: random.Random, command: str) -> str:
        site.front.break_(kind, skip=chance.randrange(20), times=chance.randint(1, 4))
        return end_of(start(site, COMMANDS[command]))

    return fault


def refused_for_seconds(site: Site, chance: random.Random, command: str) -> str:
    site.front.break_(BEFORE, skip=chance.randrange(20), seconds=chance.uniform(1, 5))
    return end_of(start(site, COMMANDS[command]))


def full_disk(site: Site, chance: random.Random, command: str) -> str:
    """Only root can give the repository a file system of its own."""
    filler = site.source.repository_path / "filler"
    process = start(site, COMMANDS[command])
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(64 << 10))
    outcome = end_of(process)
    filler.unlink()
    return outcome


def read_only(site: Site, chance: random.Random, command: str) -> str:
    process = start(site, COMMANDS[command])
    time.sleep(chance.uniform(0.2, 1.0))
    mounted = ["mount", "-o", "remount,ro", str(site.source.repository_path)]
    done = subprocess.run(mounted, capture_output=True)  # busy while a file is open for writing
    outcome = end_of(process)
    subprocess.run([*mounted[:2], "remount,rw", mounted[3]], check=True)
    return outcome if not done.returncode else f"{outcome}, the mount was busy"


def unmounted(site: Site, chance: random.Random, command: str) -> str:
    place = site.source.repository_path
    aside = place.with_name("aside")
    process = start(site, COMMANDS[command])
    time.sleep(chance.uniform(0.2, 1.0))
    aside.mkdir(exist_ok=True)
    subprocess.run(["mount", "--move", str(place), str(aside)], check=True)
    outcome = end_of(process)
    subprocess.run(["mount", "--move", str(aside), str(place)], check=True)
    return outcome


EVERYWHERE: dict[str, Break] = {
    "command killed": killed(signal.SIGKILL),
    "command ended": killed(signal.SIGTERM),
    "pusher killed": pusher_killed,
    "server killed": server_killed,
}
IN_A_BUCKET: dict[str, Break] = {
    **EVERYWHERE,
    "refused for seconds": refused_for_seconds,
    **{kind: answered_badly(kind) for kind in (BEFORE, AFTER, LOST, TRUNCATE, HANG)},
}
MOUNTED: dict[str, Break] = {
    **EVERYWHERE,
    "full disk": full_disk,
    "read-only": read_only,
    "unmounted": unmounted,
}


def soak(site: Site, faults: dict[str, Break], count: int, part: str) -> None:
    """So many faults, each on a command that chance chooses; looked at every now and then, and at the end."""
    chance = seeded(SEED)
    site.taken = dict.fromkeys(site.labels, 0)
    for number in range(count):
        command = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        kind = chance.choice(list(faults))
        if command == "expire":
            site.aged |= site.taken
        before = max(site.acknowledged, default=0)
        with site.committing():
            outcome = faults[kind](site, chance, command)
        shutil.rmtree(site.source.root / "place", ignore_errors=True)
        site.heal()
        note(part, command, kind, outcome)
        site.taken |= {label: before for label in site.labels if label not in site.taken}
        assert outcome != "did not end", f"{number}: {command}, {kind}"
        if number % CHECK_EVERY == CHECK_EVERY - 1:
            site.check()
    found = site.check()
    site.check_leftovers()
    if count > CHECK_EVERY:  # what expire has left, too
        found = site.check()
    assert found["backups"] >= 1
    print(f"{part}: {count} faults, {found['backups']} backups equal, {found['commits']} commits")


def first_backup(site: Site) -> None:
    code, _, err = site.run("backup", "main")
    assert code == 0, err


@pytest.fixture
def mounted() -> Iterator[Site]:
    """A site whose repository is a file system of its own, of 300 MB; only root can mount one."""
    owner = account(None)
    assert owner is not None
    with site_in_directory() as site:
        place: Path = site.source.repository_path
        saved = place.with_name("saved")
        subprocess.run(["cp", "-a", str(place), str(saved)], check=True)
        options = f"size=300m,mode=0750,uid={owner.pw_uid},gid={owner.pw_gid}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        try:
            subprocess.run(["cp", "-a", f"{saved}/.", str(place)], check=True)
            yield site
        finally:
            site.source.server.stop("immediate")
            subprocess.run(["umount", "--lazy", str(place)], check=True)


# ---- a few in every run, a thousand with -m slow


def test_a_few_faults_in_a_directory() -> None:
    with site_in_directory() as site:
        first_backup(site)
        soak(site, EVERYWHERE, FEW, "a few, directory")


def test_a_few_faults_in_a_bucket(seaweedfs: S3Server) -> None:
    with site_in_bucket(seaweedfs) as site:
        first_backup(site)
        soak(site, IN_A_BUCKET, FEW, "a few, bucket")


@pytest.mark.as_root
def test_a_few_faults_of_a_mount(mounted: Site) -> None:
    first_backup(mounted)
    soak(mounted, MOUNTED, FEW, "a file system of its own")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_faults_in_a_directory() -> None:
    with site_in_directory() as site:
        first_backup(site)
        soak(site, EVERYWHERE, MANY, "random, directory")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_faults_in_a_bucket(seaweedfs: S3Server) -> None:
    with site_in_bucket(seaweedfs) as site:
        first_backup(site)
        soak(site, IN_A_BUCKET, MANY, "random, bucket")
