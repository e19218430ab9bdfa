"""A site: a source with its repository in a directory or in a bucket behind a faulty proxy, and numbered commits.

A commit counts as acknowledged once the server has said so; each has a number, so that one that is lost has a name.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pgproof.backups.catalog import read_catalog
from pgproof.repository.repository import create_repository
from tests.drills.damage import answer
from tests.servers.background import end_background
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source
from tests.servers.proxy import Proxy, faulty
from tests.servers.s3 import S3Server

TABLE = "CREATE TABLE commits (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), filler text)"
_KEYS = {"patience": '"60s"', "answer_timeout": '"2s"', "least_rate": '"4MB"'}  # a request ends after 6 s


@dataclass
class Site:
    """One source, its repository, and what was acknowledged.

    Args:
        source: the server.
        proxy: before its store; None when the repository is a directory.
    """

    source: Source
    proxy: Proxy | None = None
    bucket: str = ""
    behind: S3Server = field(default=None, repr=False)  # type: ignore[assignment]
    acknowledged: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _next: int = 0
    said: str = ""
    complaint: str = ""
    known: list[str] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)  # each backup, and a commit that is older than it
    aged: dict[str, int] = field(default_factory=dict)  # likewise, of those that an expire has looked at
    kept: dict[str, bytes] = field(default_factory=dict, repr=False)

    def configure(self, cluster: str = "", **keys: str) -> None:
        """Write pgproof.toml: one backup a day is kept, and WAL for no longer than they need it."""
        lines = [
            *(
                'retention.daily = 1\nretention.weekly = 0\nretention.monthly = 0\nretention.wal_window = "1s"',
            ),
            *("retention.approve_above = 1.0\ndrill.targets = 0\ndrill.checks = []", cluster),
        ]
        if self.proxy is None:
            self.source.write_config("\n".join(lines))
            return
        server, root = self.proxy.server, self.source.root
        for name, value in (("key", server.access_key), ("secret", server.secret_key)):
            path = root / f"{name}.txt"
            if not path.exists():
                path.write_text(value)
                give_to_server(path)
        store = {
            "endpoint": f'"{server.endpoint}"',
            "access_key_id": f'"file:{root}/key.txt"',
            "secret_access_key": f'"file:{root}/secret.txt"',
            **_KEYS,
            **keys,
        }
        text = "\n".join(f"{name} = {value}" for name, value in store.items())
        self.source.write_config("\n".join(lines), repository=f"s3://{self.bucket}", store=text)

    @property
    def labels(self) -> list[str]:
        """The labels of the backups, oldest first."""
        return [entry.label for entry in read_catalog(self.source.archive).entries]

    @property
    def segment(self) -> str:
        """The name of the newest archived segment that the server still has."""
        wal = self.source.data / "pg_wal"
        done = [path.name.removesuffix(".done") for path in (wal / "archive_status").glob("*.done")]
        return max(name for name in done if len(name) == 24 and (wal / name).exists())

    @property
    def front(self) -> Proxy:
        """The proxy before the bucket."""
        assert self.proxy is not None
        return self.proxy

    def heal(self) -> None:
        """Let the store work again."""
        if self.proxy is not None:
            self.proxy.heal()

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and error output of a command, in this process."""
        return answer(self.source, *words)

    def commit(self, count: int = 1) -> None:
        """Commit numbered rows, one a transaction; those that the server has acknowledged are remembered."""
        with self.source.connect() as connection:
            for _ in range(count):
                with self._lock:
                    self._next += 1
                    number = self._next
                connection.execute(
                    "INSERT INTO commits (n, filler) VALUES (%s, repeat(md5(random()::text), 8))", (number,)
                )
                self.acknowledged.add(number)

    @contextlib.contextmanager
    def committing(self, pause: float = 0.02) -> Iterator[None]:
        """Commits that never stop, for the time of a block; a server that is away is tried again."""
        stop = threading.Event()

        def write() -> None:
            while not stop.wait(pause):
                with contextlib.suppress(psycopg.Error):
                    self.commit(5)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # ---- what must hold

    def listed(self) -> dict[str, Any]:
        """What ``list`` says."""
        code, out, err = self.run("list", "main", "--json")
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    def check(self) -> dict[str, int]:
        """Every listed backup restores and equals the source, row by row, and no acknowledged commit is missing.

        Returns:
            how many backups were restored, and how many commits each of them had.
        """
        self.heal()
        self.commit()
        self.source.archive_now()
        expected = self.source.sql("SELECT n, at, filler FROM commits ORDER BY n")
        numbers = {row[0] for row in expected}
        assert self.acknowledged <= numbers, sorted(self.acknowledged - numbers)[:10]
        listed = self.listed()
        assert listed["damaged"] == {} and listed["unread"] == {}, listed
        for backup in listed["backups"]:
            label = backup["label"]
            words = ["restore", "main", "--backup", label, "--to", str(self.source.root / "restored")]
            code, _, err = self.run(*words)
            whole = True
            if code and label in self.aged and "is missing from the archive" in err:
                # retention keeps of an older backup no more WAL than makes it consistent
                whole = False
                code, _, err = self.run(*words, "--target-immediate")
            assert code == 0, f"{label}: {err}"
            found = self._restored(whole)
            if whole:
                assert found == expected, f"{label}: {len(found)} of {len(expected)} rows"
            else:
                last = found[-1][0] if found else 0
                assert set(found) <= set(expected), label
                assert {row[0] for row in found} >= {n for n in self.acknowledged if n <= self.aged[label]}, (
                    label
                )
                assert last >= self.aged[label], label
        return {"backups": len(listed["backups"]), "commits": len(expected)}

    def _restored(self, whole: bool) -> list[tuple[Any, ...]]:
        """The rows of the restored cluster, which is removed."""
        place = self.source.root / "restored"
        try:
            with self.source.copy(place, open_for_writing=whole) as copy:
                return copy.execute("SELECT n, at, filler FROM commits ORDER BY n").fetchall()
        finally:
            end_background(place)
            shutil.rmtree(place, ignore_errors=True)

    def check_leftovers(self) -> None:
        """After one more expire and drill nothing of a killed command is left."""
        self.heal()
        for words in (["drill", "main"], ["expire", "main", "--yes"]):
            code, out, err = self.run(*words)
            assert code == 0, out + err
        assert self.listed()["torn"] == []
        scratch = self.source.root / "scratch"
        assert not scratch.exists() or [path.name for path in scratch.iterdir()] == []
        if self.proxy is None:
            lease = list(self.source.repository_path.rglob("lease.json"))
        else:
            lease = [Path(key) for key in self.objects() if key.endswith("lease.json")]
        assert lease == []

    def objects(self) -> dict[str, int]:
        """Every object of the bucket with its size, as another program sees them, past the proxy."""
        pages = self.behind.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", [])}


@contextlib.contextmanager
def site_in_directory(major: int = 17, **settings: Any) -> Iterator[Site]:
    """A site whose repository is a directory."""
    with running_source(major, **settings) as source:
        site = Site(source)
        site.configure()
        source.sql(TABLE)
        yield site


@contextlib.contextmanager
def site_in_bucket(server: S3Server, major: int = 17, **settings: Any) -> Iterator[Site]:
    """A site whose repository is a bucket behind a proxy."""
    with running_source(major, **settings) as source, faulty(server) as proxy:
        site = Site(source, proxy, server.make_bucket(f"site-{uuid.uuid4()}"), behind=server)
        site.configure()
        create_repository(source.config.repositories["main"])
        source.sql(TABLE)
        yield site


def seeded(seed: int) -> random.Random:
    """The chance of a run; its seed is printed, so that it can be had again."""
    print(f"seed {seed}")
    return random.Random(seed)
