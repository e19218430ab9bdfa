"""Writers that never stop: every way to end a transaction, at random, over several connections."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from pgproof.validation.fences.fencing import _Fencer
from tests.servers.postgres import Source

Connection = psycopg.Connection[Any]

TABLES = """
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text);
INSERT INTO accounts SELECT g, 0, 'n' FROM generate_series(1, 200) g;
CREATE TABLE history (id bigint GENERATED ALWAYS AS IDENTITY, account int, delta int, at timestamptz DEFAULT now());
CREATE TABLE queue (id bigint, payload jsonb);
"""


_PAUSE = 0.05  # seconds after a transaction, unless at full speed: two cores have more to do


@dataclass
class Load:
    """How much was written, and in what time."""

    transactions: int = 0
    started: float = field(default_factory=time.monotonic)
    faults: list[BaseException] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def at_full_speed(self) -> Iterator[None]:
        """Nobody pauses while a fence of the block takes its snapshots, where it matters what is in flight."""
        burst = _Fencer._burst

        def busy(fencer: _Fencer, *words: Any) -> Any:
            self.free.set()
            try:
                return burst(fencer, *words)
            finally:
                self.free.clear()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Fencer, "_burst", busy)
            yield

    @property
    def rate(self) -> float:
        return self.transactions / (time.monotonic() - self.started)


class Writer(threading.Thread):
    """One connection."""

    def __init__(
        self, source: Source, seed: int, load: Load, stop: threading.Event, *, prepare: bool
    ) -> None:
        super().__init__(name=f"writer-{seed}")
        self._source, self._load, self._halt = source, load, stop
        self._random, self._seed, self._number = random.Random(seed), seed, 0
        kinds = [self._plain] * 6 + [self._several] * 3 + [self._savepoints] * 2 + [self._undone, self._loop]
        self._kinds = kinds + ([self._prepared] * 2 if prepare else [])

    def run(self) -> None:
        try:
            with self._source.connect() as connection:
                if self._seed % 2:
                    connection.execute("SET synchronous_commit = off")
                while not self._halt.is_set():
                    self._number += 1
                    try:
                        self._random.choice(self._kinds)(connection)
                        self._load.transactions += 1
                    except psycopg.errors.DeadlockDetected:  # as happens to every busy application
                        connection.rollback()
                    if not self._load.free.is_set():
                        self._load.free.wait(_PAUSE)
        except BaseException as error:
            self._load.faults.append(error)

    def _update(self, connection: Connection) -> None:
        # accounts of its own, so that no two writers wait for each other for ever
        account = self._random.randrange(20) * 10 + self._seed % 10 + 1
        connection.execute(
            "UPDATE accounts SET balance = balance + %s, note = %s WHERE id = %s",
            (self._random.randrange(-9, 9), "x" * self._random.randrange(50), account),
        )

    def _insert(self, connection: Connection) -> None:
        connection.execute("INSERT INTO history (account, delta) VALUES (%s, %s)", (self._seed, self._number))

    def _plain(self, connection: Connection) -> None:
        self._insert(connection) if self._random.random() < 0.5 else self._update(connection)

    def _several(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        self._update(connection)
        connection.execute("INSERT INTO queue VALUES (%s, '{\"a\": [1]}')", (self._number,))
        connection.execute("DELETE FROM queue WHERE id < %s", (self._number - 20,))
        connection.execute("COMMIT")

    def _savepoints(self, connection: Connection) -> None:
        connection.execute("BEGIN; SAVEPOINT one")
        self._insert(connection)
        connection.execute("SAVEPOINT two")
        self._update(connection)
        connection.execute(self._random.choice(["ROLLBACK TO two", "RELEASE two", "ROLLBACK TO one"]))
        self._insert(connection)
        connection.execute("COMMIT")

    def _undone(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        self._update(connection)
        self._insert(connection)
        connection.execute("ROLLBACK")

    def _loop(self, connection: Connection) -> None:
        """More subtransactions than a snapshot has room for (PGPROC_MAX_CACHED_SUBXIDS, 64)."""
        connection.execute(
            """DO $$ BEGIN FOR i IN 1..70 LOOP
                 BEGIN
                   INSERT INTO queue VALUES (-i, NULL);
                   IF i % 7 = 0 THEN RAISE division_by_zero; END IF;
                 EXCEPTION WHEN division_by_zero THEN NULL; END;
               END LOOP; DELETE FROM queue WHERE id < 0; END $$"""
        )

    def _prepared(self, connection: Connection) -> None:
        name = f"{self._seed}; {self._number}"
        connection.execute("BEGIN")
        self._update(connection)
        connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
        if self._random.random() < 0.5:
            self._insert(connection)
        end = "COMMIT" if self._random.random() < 0.7 else "ROLLBACK"
        connection.execute(f"{end} PREPARED '{name}'".encode())


@contextmanager
def writers(source: Source, connections: int = 8, *, prepare: bool = False) -> Iterator[Load]:
    """The load, for the time of a block."""
    load, stop = Load(), threading.Event()
    threads = [Writer(source, seed, load, stop, prepare=prepare) for seed in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        load.free.set()
        for thread in threads:
            thread.join()
    if load.faults:
        raise load.faults[0]


@contextmanager
def repeated(
    source: Source, streams: Sequence[Sequence[str]], databases: Sequence[str] = (), pause: float = 0.02
) -> Iterator[list[int]]:
    """Each list of statements again and again, in a session of its own; how often each was through.

    Args:
        source: where.
        streams: the lists.
        databases: of each list; none is the source's own.
        pause: seconds after each statement.
    """
    stop, rounds, faults = threading.Event(), [0] * len(streams), list[BaseException]()

    def work(number: int) -> None:
        try:
            with source.connect(*databases[number : number + 1]) as connection:
                while not stop.is_set():
                    for statement in streams[number]:
                        connection.execute(statement.encode())
                        stop.wait(pause)
                    rounds[number] += 1
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(streams))]
    for thread in threads:
        thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
